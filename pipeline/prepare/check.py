"""The check of a data set: every file is read as preparation would, nothing is written, and what is odd is counted."""

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from pipeline.prepare.faults import FAULTS
from pipeline.prepare.images import inspect_image
from pipeline.prepare.source import SceneSource
from storage_schemas.digests import Json
from storage_schemas.scenes import OK, Scene

EXAMPLES = 3
"""Scenes that are named of each fault and oddity."""

ODDITIES = {
    "exif_rotated": "a viewer would turn the picture; it is kept as stored, which labels and boxes refer to",
    "colours_grey": "a grey picture; readers make it RGB",
    "colours_cmyk": "a CMYK picture; readers make it RGB, by Pillow's rule",
    "colours_palette": "a palette picture; readers make it RGB",
    "without_label": "no label; proposal training and evaluation pass the scene by",
    "label_without_class": "a label whose pixels are all ignored",
    "without_caption": "no caption; pairing passes the scene by",
    "caption_empty": "a caption without a letter; it is kept, and gives no noun",
}
"""What is worth knowing of scenes that can be used."""


@runtime_checkable
class NotingSource(Protocol):
    """A source that can tell what is odd about its layout as a whole."""

    def notes(self) -> Sequence[str]:
        """Return one sentence for each oddity."""
        ...


@dataclass(slots=True)
class Findings:
    """How many scenes have something, and the first few of them.

    Attributes:
        scenes: Number of scenes.
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
class CheckReport:
    """What a check found.

    Attributes:
        data_set: What was checked.
        class_names: In index order.
        scenes: Number of scenes; usable ones and faults add up to it.
        usable: Number of scenes without fault.
        captions: Number of captions of usable scenes.
        labelled_px: Pixels with a class, per class.
        labelled_scenes: Usable scenes in which a class occurs, per class.
        ignored_px: Pixels of label maps without a class.
        faults: Slug to findings; such scenes cannot be used.
        oddities: Slug to findings; such scenes can.
        notes: Sentences on the layout as a whole.
    """

    data_set: str
    class_names: tuple[str, ...]
    scenes: int = 0
    usable: int = 0
    captions: int = 0
    labelled_px: Counter[int] = field(default_factory=Counter)
    labelled_scenes: Counter[int] = field(default_factory=Counter)
    ignored_px: int = 0
    faults: dict[str, Findings] = field(default_factory=dict)
    oddities: dict[str, Findings] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Json]:
        """Return the report for programs."""
        return {
            "data_set": self.data_set,
            "scenes": self.scenes,
            "usable": self.usable,
            "captions": self.captions,
            "ignored_px": self.ignored_px,
            "classes": [
                {"index": i, "name": name, "pixels": self.labelled_px[i], "scenes": self.labelled_scenes[i]}
                for i, name in enumerate(self.class_names)
            ],
            "faults": _findings_json(self.faults),
            "oddities": _findings_json(self.oddities),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """Return the report as tables."""
        share = f" ({self.scenes - self.usable} with a fault)" if self.usable < self.scenes else ""
        lines = [f"{self.data_set}: {self.usable} of {self.scenes} scenes can be used{share}, {self.captions} captions"]
        lines += [f"note: {note}" for note in self.notes]
        for title, findings, meanings in (
            ("faults", self.faults, FAULTS),
            ("worth knowing", self.oddities, ODDITIES),
        ):
            if findings:
                lines += ["", f"{title + ':':<28}{'scenes':>8}  meaning, first examples"]
                lines += [line for slug in sorted(findings) for line in _findings_lines(slug, findings[slug], meanings)]
        return "\n".join([*lines, *self._class_lines()]) + "\n"

    def _class_lines(self) -> list[str]:
        """List the classes that occur, and name those that don't."""
        total_px = sum(self.labelled_px.values()) + self.ignored_px
        if not total_px:
            return []
        lines = ["", f"{'class':<36}{'scenes':>8}{'pixels':>15}{'share':>9}"]
        rows = [(name, self.labelled_scenes[i], self.labelled_px[i]) for i, name in enumerate(self.class_names)]
        occurring = [row for row in rows if row[2]]
        for name, scenes, pixels in [*occurring, ("(ignored)", "", self.ignored_px)]:
            lines.append(f"{name[:35]:<36}{scenes:>8}{pixels:>15}{pixels / total_px:>9.2%}")
        absent = [name for name, _, pixels in rows if not pixels]
        if absent:
            listed = "; ".join(absent[:20]) + (" ..." if len(absent) > 20 else "")
            lines.append(f"{len(absent)} of {len(rows)} classes do not occur: {listed}")
        return lines


def check_source(source: SceneSource, keys: Sequence[str], *, data_set: str, max_image_px: int) -> CheckReport:
    """Read every scene of a source and report what is missing or odd.

    Args:
        source: The data set.
        keys: The scenes to read.
        data_set: What to call it.
        max_image_px: Width times height that is allowed at most [px].
    """
    report = CheckReport(data_set, source.vocabulary.class_names)
    for key in keys:
        scene = source.scene(key)
        report.scenes += 1
        if scene.status == OK:
            _count_usable(report, scene, source.ignore_label, max_image_px)
        else:
            report.faults.setdefault(scene.status, Findings()).add(key, scene.reason)
    if isinstance(source, NotingSource):
        report.notes = list(source.notes())
    return report


def _count_usable(report: CheckReport, scene: Scene, ignore_label: int, max_image_px: int) -> None:
    """Count what a usable scene has."""
    report.usable += 1
    report.captions += len(scene.captions)
    if scene.label_png is not None:
        with Image.open(io.BytesIO(scene.label_png), formats=["PNG"]) as png:
            counts = np.bincount(np.asarray(png).ravel())
        for index in np.flatnonzero(counts):
            if index == ignore_label:
                report.ignored_px += int(counts[index])
            else:
                report.labelled_px[int(index)] += int(counts[index])
                report.labelled_scenes[int(index)] += 1
    for slug, words in _oddities(report, scene, max_image_px).items():
        report.oddities.setdefault(slug, Findings()).add(scene.key, words)


def _oddities(report: CheckReport, scene: Scene, max_image_px: int) -> dict[str, str]:
    """Tell what is worth knowing of one usable scene, as slug to words."""
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


def _findings_lines(slug: str, findings: Findings, meanings: Mapping[str, str]) -> list[str]:
    """Write one fault or oddity with its examples."""
    lines = [f"  {slug:<26}{findings.scenes:>8}  {meanings[slug]}"]
    return lines + [f"{'':<38}{key}: {words}" for key, words in findings.examples]


def _findings_json(findings: Mapping[str, Findings]) -> dict[str, Json]:
    """Return findings for programs."""
    return {
        slug: {"scenes": found.scenes, "examples": [{"key": key, "reason": words} for key, words in found.examples]}
        for slug, found in sorted(findings.items())
    }
