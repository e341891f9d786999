"""What a data set holds and what preparation used of it: one report for terminal, programs and the artifact.

It is counted from a finished artifact, or by a check, which reads every file as preparation would and writes nothing.
"""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from pipeline.prepare.faults import FAULTS
from pipeline.prepare.images import inspect_image
from pipeline.prepare.source import Found, PassedOver, SceneSource
from pipeline.text_tables import text_table
from pipeline.visible_text import visible
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

EXAMPLES = 3
"""Scenes that are named of each fault and oddity."""

ODDITIES = {
    "exif_rotated": "a viewer would turn the picture; it is kept as stored, which labels and boxes refer to",
    "colours_grey": "a grey picture; readers make it RGB",
    "colours_cmyk": "a CMYK picture; readers make it RGB, by Pillow's rule",
    "colours_palette": "a palette picture; readers make it RGB",
    "without_label": "no label; proposal training and evaluation pass the scene by",
    "label_without_class": "a label whose pixels are all ignored; proposal training and evaluation pass the scene by",
    "without_caption": "no caption; pairing passes the scene by",
    "caption_empty": "a caption without a letter; it is kept, and gives no noun",
}
"""What is worth knowing of scenes that can be used."""

_SHOWN_NAMES = 20


@dataclass(slots=True)
class Findings:
    """How many scenes have something, and the first few of them.

    Attributes:
        examples: Key and words of the first ones.
    """

    scenes: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)

    def add(self, key: str, words: str) -> None:
        """Count one scene."""
        self.scenes += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((key, words))


@dataclass(slots=True)
class PrepareReport:
    """What a data set holds, and what of it can be, or was, used.

    Attributes:
        data_set: Name and split.
        class_names: In index order.
        found: What its lists and annotations say.
        scenes: Number of scenes; usable ones and faults add up to it.
        usable: Number of scenes without fault.
        labels: Usable scenes with a label map.
        labelled: Usable scenes in which a class occurs.
        captions: Number of captions of usable scenes.
        labelled_scenes: Usable scenes in which a class occurs, per class.
        labelled_px: Pixels with a class, per class; counted by a check alone, which decodes all labels.
        ignored_px: Pixels of label maps without a class; likewise.
        ignored_values: Values of label files that mean "no class", and the label files in which they occur.
        faults: Slug to findings; such scenes cannot be used.
        oddities: Slug to findings; such scenes can.
    """

    data_set: str
    class_names: tuple[str, ...]
    found: Found
    scenes: int = 0
    usable: int = 0
    labels: int = 0
    labelled: int = 0
    captions: int = 0
    labelled_scenes: Counter[int] = field(default_factory=Counter)
    labelled_px: Counter[int] = field(default_factory=Counter)
    ignored_px: int = 0
    ignored_values: Counter[int] = field(default_factory=Counter)
    faults: dict[str, Findings] = field(default_factory=dict)
    oddities: dict[str, Findings] = field(default_factory=dict)

    def add(self, key: str, status: str, reason: str, *, labelled: bool, classes: Iterable[int], captions: int) -> None:
        """Count one scene by what its row says."""
        self.scenes += 1
        if status != OK:
            self.faults.setdefault(status, Findings()).add(key, reason)
            return
        self.usable += 1
        self.captions += captions
        self.labels += labelled
        present = list(classes)
        self.labelled += bool(present)
        self.labelled_scenes.update(present)

    @property
    def absent_classes(self) -> list[str]:
        """Names of the classes that no label holds."""
        return [name for index, name in enumerate(self.class_names) if not self.labelled_scenes[index]]

    def passed_over(self) -> list[PassedOver]:
        """Return what is not used and why: files, then scenes by fault."""
        faults = [
            PassedOver(found.scenes, f"{found.examples[0][0]}: {found.examples[0][1]}", FAULTS.get(slug, slug))
            for slug, found in sorted(self.faults.items())
        ]
        return [*self.found.passed_over, *faults]

    def warnings(self) -> list[str]:
        """Return what most likely is not as the user meant it."""
        warnings = list(self.found.notes)
        if self.class_names and self.usable and not self.labelled:
            warnings.append("no scene has a labelled pixel: neither proposal training nor evaluation can use it")
        elif self.class_names and self.labelled < self.usable:
            what = f"{self.usable - self.labelled} of {self.usable} usable scenes have no labelled pixel"
            warnings.append(f"{what}; proposal training and evaluation pass them by")
        warnings += [
            f"{passed.count} {passed.reason}, such as {passed.example}"
            for passed in self.found.passed_over
            if "label files" in passed.reason
        ]
        occurring = {index for index, scenes in self.labelled_scenes.items() if scenes}
        if self.ignored_values.keys() == {255} and occurring <= {0} and len(self.class_names) > 1:
            warnings.append(
                f"label files hold the values 0 and 255 alone, 255 means 'no class', and {self.absent_classes[0]!r} "
                "never occurs: binary masks use 0 and 1 here; divide the values by 255 if 255 means class 1"
            )
        return warnings

    def to_json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "data_set": self.data_set,
            "scenes": self.scenes,
            "usable": self.usable,
            "pictures": {"found": self.found.pictures, "used": self.usable},
            "labels": {"found": self.found.labels, "used": self.labels, "with_a_class": self.labelled},
            "captions": {"found": max(self.found.captions or 0, self.captions), "used": self.captions},
            "passed_over": [
                {"count": passed.count, "example": passed.example, "reason": passed.reason}
                for passed in self.passed_over()
            ],
            "ignored_px": self.ignored_px,
            "ignored_values": {str(value): files for value, files in sorted(self.ignored_values.items())},
            "absent_classes": list(self.absent_classes) if self.labels else [],
            "classes": [
                {"index": i, "name": name, "pixels": self.labelled_px[i], "scenes": self.labelled_scenes[i]}
                for i, name in enumerate(self.class_names)
            ],
            "faults": _findings_json(self.faults),
            "oddities": _findings_json(self.oddities),
            "warnings": list(self.warnings()),
        }

    def to_text(self) -> str:
        """Return the report as tables."""
        lines = [*self._summary_lines()]
        for title, findings, meanings in (
            ("faults", self.faults, FAULTS),
            ("worth knowing", self.oddities, ODDITIES),
        ):
            if not findings:
                continue
            rows = [(slug, str(found.scenes), meanings[slug]) for slug, found in sorted(findings.items())]
            heading, *table = text_table((title, "scenes", "meaning"), rows, words=(title, "meaning")).splitlines()
            lines += ["", heading]
            for line, (_, found) in zip(table, sorted(findings.items()), strict=True):
                lines += [line, *(f"    {key}: {words}" for key, words in found.examples)]
        return visible("\n".join([*lines, *self._class_lines()]) + "\n")

    def to_markdown(self) -> str:
        """Return the report as Markdown, for pages that show an artifact."""
        return f"# Prepared: {self.data_set}\n\n```text\n{self.to_text()}```\n"

    def _summary_lines(self) -> Iterator[str]:
        """Return in words what was found and used, and what was not and why."""
        share = f" ({self.scenes - self.usable} with a fault)" if self.usable < self.scenes else ""
        yield f"{self.data_set}: {self.usable} of {self.scenes} scenes can be used{share}, {self.captions} captions"
        counts = (
            ("pictures", self.found.pictures, self.usable),
            ("labels", self.found.labels, self.labels),
            ("captions", max(self.found.captions or 0, self.captions), self.captions),
        )
        rows = [(what, str(found), str(used)) for what, found, used in counts]
        yield from text_table(("", "found", "used"), rows, words=("",)).splitlines()
        for passed in self.found.passed_over:
            yield f"passed over: {passed.count} {passed.reason}, such as {passed.example}"
        for value, files in sorted(self.ignored_values.items()):
            yield f"ignored: value {value} in {files} label files"
        for warning in self.warnings():
            yield f"warning: {warning}"

    def _class_lines(self) -> Iterator[str]:
        """List the classes that occur, and name those that don't."""
        if not self.labels:
            return
        total_px = sum(self.labelled_px.values()) + self.ignored_px
        occurring = [index for index in range(len(self.class_names)) if self.labelled_scenes[index]]
        if total_px:
            yield ""
            counted = [(self.class_names[i], str(self.labelled_scenes[i]), self.labelled_px[i]) for i in occurring]
            rows = [
                (visible(name), scenes, str(pixels), f"{pixels / total_px:.2%}")
                for name, scenes, pixels in [*counted, ("(ignored)", "", self.ignored_px)]
            ]
            yield from text_table(("class", "scenes", "pixels", "share"), rows, words=("class",)).splitlines()
        absent = self.absent_classes
        if absent:
            listed = "; ".join(absent[:_SHOWN_NAMES]) + (" ..." if len(absent) > _SHOWN_NAMES else "")
            yield f"{len(absent)} of {len(self.class_names)} classes do not occur: {listed}"


def report_of_artifact(artifact: Artifact, found: Found) -> PrepareReport:
    """Count what a finished artifact of scenes holds, from its indexes and sidecars alone.

    Args:
        found: What lay there when they were made.
    """
    labels = ScenesAttributes.of(artifact)
    report = PrepareReport(artifact.identity.name, labels.class_names, found)
    for unit in artifact.status().units:
        index = SceneShard(artifact, unit.unit).index
        columns: list[list[Any]] = [index[name].to_pylist() for name in ("key", "status", "reason", "classes")]
        captions = pc.list_value_length(index["captions"]).to_pylist()
        has_label = index["label"].is_valid().to_pylist()
        for key, status, reason, classes, number, labelled in zip(*columns, captions, has_label, strict=True):
            report.add(key, status, reason, labelled=labelled, classes=classes, captions=number)
        facts = unit.sidecar.facts if unit.sidecar is not None else {}
        ignored = facts.get("ignored_values", {})
        if isinstance(ignored, Mapping):
            report.ignored_values.update({int(value): int(str(files)) for value, files in ignored.items()})
    return report


def _findings_json(findings: Mapping[str, Findings]) -> dict[str, Json]:
    """Return findings for programs."""
    return {
        slug: {"scenes": found.scenes, "examples": [{"key": key, "reason": words} for key, words in found.examples]}
        for slug, found in sorted(findings.items())
    }


def check_source(source: SceneSource, keys: Sequence[str], *, data_set: str, max_image_px: int) -> PrepareReport:
    """Read every scene of a source and report what is missing or odd.

    Args:
        keys: The scenes to read.
        data_set: What to call it.
        max_image_px: Width times height that is allowed at most [px].
    """
    report = PrepareReport(data_set, source.vocabulary.class_names, source.found())
    for key in keys:
        scene = source.scene(key)
        labelled = scene.label_png is not None
        report.add(
            key, scene.status, scene.reason, labelled=labelled, classes=scene.classes, captions=len(scene.captions)
        )
        if scene.status != OK:
            continue
        report.ignored_values.update(scene.ignored_values)
        if scene.label_png is not None:
            with Image.open(io.BytesIO(scene.label_png), formats=["PNG"]) as png:
                counts = np.bincount(np.asarray(png).ravel(), minlength=source.ignore_label + 1)
            report.ignored_px += int(counts[source.ignore_label])
            report.labelled_px.update({index: int(counts[index]) for index in scene.classes})
        for slug, words in _oddities(report, scene, max_image_px).items():
            report.oddities.setdefault(slug, Findings()).add(key, words)
    return report


def _oddities(report: PrepareReport, scene: Scene, max_image_px: int) -> dict[str, str]:
    """Return what is worth knowing of one usable scene, as slug to words."""
    colours = inspect_image(scene.image, max_image_px=max_image_px).colours
    odd = {}
    if scene.exif_orientation != 1:
        odd["exif_rotated"] = f"EXIF orientation {scene.exif_orientation}"
    if colours != "rgb":
        odd[f"colours_{colours}"] = scene.source_path
    if report.class_names and scene.label_png is None:
        odd["without_label"] = scene.source_path
    elif report.class_names and not scene.classes:
        odd["label_without_class"] = scene.source_path
    if not scene.captions:
        odd["without_caption"] = scene.source_path
    empty = [caption.caption_id for caption in scene.captions if not caption.text.strip()]
    if empty:
        odd["caption_empty"] = f"caption {', '.join(map(str, empty))}"
    return odd
