"""COCO in its official layout, and data sets of one's own that are annotated in COCO's format.

Official: ``ROOT/SPLIT/*.jpg``, ``ROOT/annotations/{captions,instances,panoptic}_SPLIT.json``,
``ROOT/annotations/panoptic_SPLIT/*.png`` and ``ROOT/stuffthingmaps/SPLIT/*.png``, where SPLIT is ``train2017`` or
``val2017``. Own: any JSON files of COCO's format, and pictures in or below any directory. What the files say of
themselves decides: their categories are the classes, their lists of images say which id a picture has.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from pipeline.data_set_options import CocoLabelKind, StuffValues
from pipeline.prepare.coco_annotations import CocoAnnotations, read_coco_json
from pipeline.prepare.coco_labels import CocoLabels, InstanceLabels, PanopticLabels, StuffLabels
from pipeline.prepare.data_root import (
    AccessedPaths,
    Annotations,
    DataRoot,
    LayoutError,
    composed,
    failed_scene,
    scene_key,
)
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.images import IMAGE_ENDINGS, ImageFacts
from pipeline.prepare.paired import labels_without_picture, why_no_label
from pipeline.prepare.source import Found, PassedOver
from pipeline.prepare.vocabulary import Vocabulary, vocabulary_of_names
from storage_schemas.scenes import Scene

_OFFICIAL_SPLIT = re.compile(r"(train|val|test|unlabeled)20\d\d")
_ID_IN_NAME = re.compile(r"(?:^|_)(\d{1,18})$")  # 000000000139.jpg, COCO_val2014_000000000139.jpg
_HASH_PREFIX = re.compile(r"^[0-9a-f]{8}(-|__)")  # of files that were uploaded to Label Studio


@dataclass(frozen=True, slots=True)
class _Entry:
    """One picture: its path below the directory of pictures, its id (None for none), and what makes it unusable."""

    file_name: str
    image_id: int | None
    fault: SceneFault | None = None


class CocoSource:
    """Scenes of COCO's format: every image of the directory, and every one that an annotation names."""

    def __init__(
        self,
        root: DataRoot,
        *,
        split: str,
        labels: CocoLabelKind,
        captions: bool,
        annotation_files: Sequence[str] = (),
        images: str = "",
        present_only: bool = False,
        stuff_values: StuffValues = "official",
    ) -> None:
        """Read the annotation files that the options ask for.

        The large ones take seconds and memory (instances of train2017: about 2 GB while they are read).

        Args:
            split: Of the official layout; any name, or none, where ``annotation_files`` are given.
            labels: Which of COCO's labels; "none" for none. Files that are given say themselves what they hold.
            captions: Whether captions are taken.
            annotation_files: JSON files relative to the root, in place of the official ones.
            images: Directory of the pictures relative to the root, in place of the split's.
            present_only: Leave out pictures that are annotated but not there, as in a part of COCO.
            stuff_values: What the values of ``stuffthingmaps`` mean.

        Raises:
            LayoutError: If a directory or file is not there or not what it should be.
        """
        self._root = root
        self._images = (images or split).strip("/")
        self._is_cocos = bool(_OFFICIAL_SPLIT.fullmatch(split)) and not annotation_files
        self._files: list[str] = []
        self._labels: CocoLabels | None = None
        self._present_only = present_only
        annotations = CocoAnnotations()
        expected: list[tuple[str, str]] = [(file, "") for file in annotation_files]
        if not annotation_files:
            expected += [(f"annotations/captions_{split}.json", "captions")] * captions
            expected += [(f"annotations/{labels}_{split}.json", labels)] * (labels in {"panoptic", "instances"})
        for file, kind in expected:
            self._read(file, kind, annotations, labels=labels != "none", captions=captions)
        if labels == "stuff" and not annotation_files:
            hint = self._hint("stuffthingmaps_trainval2017.zip", "choose other labels (--labels)")
            self._labels = StuffLabels(root, f"stuffthingmaps/{split}", stuff_values, hint)
        self._captions = annotations.captions
        hint = "give the directory of the pictures by --images, or the one that holds it by --root"
        files = root.tree(self._images, hint=hint)
        names = [name for name in files if name.lower().endswith(IMAGE_ENDINGS)]
        self._others = [name for name in files if not name.lower().endswith((*IMAGE_ENDINGS, ".json"))]
        found = _files_of_records(names, self._images, annotations)
        self._absent = sorted(set(annotations.file_names) - found.file_of.keys())
        self._by_base_name = found.by_base_name
        self._entries = _entries(names, found.file_of, annotations, present_only=present_only)

    @property
    def licence(self) -> str:
        """Licence or terms of the data."""
        if not self._is_cocos:
            return "unknown: the owner's"
        return "annotations CC BY 4.0; each picture has its own Flickr licence, see the 'license' of its COCO record"

    @property
    def vocabulary(self) -> Vocabulary:
        """The file's own categories; COCO-Stuff's 171 classes, the 133 panoptic ones, the 80 things; or none."""
        return self._labels.vocabulary if self._labels else vocabulary_of_names("none", ())

    @property
    def ignore_label(self) -> int:
        """255, or 65535 for long lists of own classes."""
        return self.vocabulary.ignore_label

    def keys(self) -> Sequence[str]:
        """Return the scene keys, sorted."""
        return sorted(self._entries)

    @property
    def accessed(self) -> AccessedPaths:
        """Those of the root."""
        return self._root.accessed

    def identity(self, digests: FileDigests, keys: Sequence[str]) -> Mapping[str, str | int | bool]:
        """Return digests of the annotation files, of the listing of images, and of the label files."""
        identity = {file: digests.file(self._root, file) for file in self._files}
        entries = [entry for key in keys if (entry := self._entries[key]).file_name]
        identity["images"] = digests.by_size(self._root, map(self._source_path, entries))
        if self._labels and self._labels.directory:
            files = {self._labels.file_of(entry.image_id, _stem(entry.file_name)) for entry in entries}
            identity["labels"] = digests.by_contents(self._root, filter(None, files))
        return identity

    def found(self) -> Found:
        """Return what is there."""
        pictures = [entry for entry in self._entries.values() if entry.file_name]
        there = len(pictures) - (0 if self._present_only else len(self._absent))
        passed_over, no_label_used, labels = [], "", 0
        if self._others:
            reason = "files that are no pictures by their ending"
            passed_over.append(PassedOver(len(self._others), f"{self._images}/{self._others[0]}", reason))
        if self._present_only and self._absent:
            reason = "annotated pictures that are not there (present_only)"
            passed_over.append(PassedOver(len(self._absent), f"image id {self._absent[0]}", reason))
        notes = []
        if self._by_base_name:
            image_id, name = self._by_base_name[0]
            notes.append(
                f"{len(self._by_base_name)} pictures were found by the last part of their name alone, such as {name} "
                f"of image id {image_id}"
            )
        if self._labels is not None and (labelled := self._labels.labelled_ids()) is not None:
            labels = len(labelled)
            if not any(entry.image_id in labelled for entry in pictures):
                no_label_used = f"none of its {labels} image ids with a label is that of a picture below {self._images}"
        elif self._labels is not None and self._labels.directory:
            directory = self._labels.directory
            files = [f"{directory}/{name}" for name in self._root.names(directory, ("",), hint="")]
            stems = {_stem(entry.file_name) for entry in pictures}
            used = {file for file in files if file.lower().endswith(".png") and _stem(file) in stems}
            labels = len(files)
            passed_over += labels_without_picture(files, used)
            no_label_used = "" if used else why_no_label([self._source_path(each) for each in pictures], files)
        return Found(
            pictures=there,
            labels=labels,
            captions=sum(map(len, self._captions.values())),
            passed_over=tuple(passed_over),
            no_label_used=no_label_used,
            notes=tuple(notes),
        )

    def scene(self, key: str) -> Scene:
        """Read one scene; a kind of annotation that the image lacks is left empty."""
        entry = self._entries[key]
        image_id = str(entry.image_id) if entry.image_id is not None else key
        if entry.fault:
            return failed_scene(key, image_id, self._source_path(entry), entry.fault)
        captions = self._captions.get(entry.image_id, ()) if entry.image_id is not None else ()

        def annotated(facts: ImageFacts) -> Annotations:
            found = self._labels.read(entry.image_id, _stem(entry.file_name), facts) if self._labels else None
            if found is None:
                return Annotations(captions=captions)
            label = found.label
            return Annotations(label.png, found.instances_png, label.classes, captions, label.ignored_values)

        return self._root.scene(key, image_id, self._source_path(entry), annotated)

    def _source_path(self, entry: _Entry) -> str:
        return f"{self._images}/{entry.file_name}" if entry.file_name else ""

    def _read(self, file: str, kind: str, annotations: CocoAnnotations, *, labels: bool, captions: bool) -> None:
        """Take one annotation file, by its kind, or, if that is empty, by what its records hold.

        Raises:
            LayoutError: If it is not there or not what it should be, or a second file with labels.
        """
        hint = "correct --annotations"
        if kind == "captions":
            hint = self._hint("annotations_trainval2017.zip", "go without captions (--no-captions)")
        elif kind:
            archive = "annotations_trainval2017.zip" if kind == "instances" else "panoptic_annotations_trainval2017.zip"
            hint = self._hint(archive, "choose other labels (--labels)")
        document = read_coco_json(self._root, file, hint)
        kind = kind or _kind_of(document)
        if (kind == "captions" and not captions) or (kind != "captions" and not labels):
            annotations.add_images(document, file)
        elif kind == "captions":
            annotations.add_images(document, file)
            annotations.add_captions(document, file)
        elif self._labels is not None:
            raise LayoutError(f"{self._root.name}: {file} is a second file with labels beside {self._files}; name one")
        elif kind == "panoptic":
            self._labels = PanopticLabels(self._root, file, document, annotations)
        else:
            self._labels = InstanceLabels(file, document, annotations)
        self._files.append(file)

    def _hint(self, archive: str, otherwise: str) -> str:
        """Return what to do about a missing file; where to get COCO's own only if the data set is COCO."""
        first = f"download {archive} from https://cocodataset.org" if self._is_cocos else "name yours by --annotations"
        return f"{first}, or {otherwise}"


def _kind_of(document: Mapping[str, Any]) -> Literal["captions", "panoptic", "instances"]:
    """Return what a file holds, by its first annotation."""
    records = document.get("annotations")
    first = records[0] if isinstance(records, list) and records and isinstance(records[0], Mapping) else {}
    if "segments_info" in first:
        return "panoptic"
    return "captions" if "caption" in first or (not first and not document.get("categories")) else "instances"


@dataclass(frozen=True, slots=True)
class _Records:
    """Which file each image record means.

    Attributes:
        file_of: Image id to a path below the directory of pictures.
        by_base_name: Ids, with the file, that only the last part of the name led to.
    """

    file_of: dict[int, str]
    by_base_name: list[tuple[int, str]]


def _files_of_records(names: Iterable[str], directory: str, annotations: CocoAnnotations) -> _Records:
    """Find the file of each image record.

    Exports write paths relative to several places, absolute ones of another machine, or bare names. The path as it
    stands counts first, below the directory of pictures or with it in front; then the file that shares the most last
    parts with it, if there is exactly one; then the same without the hash that Label Studio puts in front of a name.
    """
    actual = {composed(name): name for name in names}
    by_base: dict[str, list[str]] = defaultdict(list)
    for name in actual:
        by_base[name.rpartition("/")[2]].append(name)
    file_of, by_base_name = {}, []
    for image_id, written in annotations.file_names.items():
        plain = written.removeprefix("./")
        below = plain.removeprefix(f"{directory}/")
        if below in actual or plain in actual:
            file_of[image_id] = actual[below if below in actual else plain]
            continue
        base = plain.rpartition("/")[2]
        candidates = by_base.get(base) or by_base.get(_HASH_PREFIX.sub("", base), [])
        for path in (plain, annotations.server_paths.get(image_id, "")):
            shared = [_shared_parts(path, candidate) for candidate in candidates]
            best = [candidate for candidate, parts in zip(candidates, shared, strict=True) if parts == max(shared)]
            if len(best) == 1:
                file_of[image_id] = actual[best[0]]
                by_base_name.append((image_id, best[0]))
                break
    return _Records(file_of, by_base_name)


def _shared_parts(path: str, other: str) -> int:
    """Count the last parts that two paths share."""
    count = 0
    for one, two in zip(reversed(path.split("/")), reversed(other.split("/")), strict=False):
        if one != two:
            break
        count += 1
    return count


def _entries(
    names: Iterable[str], file_of: Mapping[int, str], annotations: CocoAnnotations, *, present_only: bool
) -> dict[str, _Entry]:
    """Bring the files of the directory and the images of the annotations together, one entry per key."""
    ids_of: dict[str, list[int]] = {name: [] for name in names}
    known = annotations.image_ids()
    for image_id, written in annotations.file_names.items():
        if image_id in file_of:
            ids_of[file_of[image_id]].append(image_id)
        elif not present_only:
            ids_of.setdefault(written, []).append(image_id)  # reading it says that it is not there
    entries: dict[str, _Entry] = {}
    for name, ids in sorted(ids_of.items()):
        fault = next((annotations.faults[image_id] for image_id in ids if image_id in annotations.faults), None)
        if len(ids) > 1:
            fault = SceneFault("duplicate_image_id", f"the image ids {sorted(ids)} are all of {name}")
        # A list of images alone says which id a picture has. Without one COCO's names hold it; and a number that no
        # annotation uses may still be called by.
        own_id = None
        if not ids and (digits := _ID_IN_NAME.search(PurePosixPath(name).stem)):
            number = int(digits.group(1))
            own_id = None if annotations.has_images and number in known else number
        key = scene_key(composed(name).rpartition(".")[0])
        if key in entries:
            fault = SceneFault("duplicate_key", f"{entries[key].file_name} and {name} would both be {key}")
        entries[key] = _Entry(name, ids[0] if ids else own_id, fault)
    taken = {entry.image_id for entry in entries.values()}
    for image_id in known - annotations.file_names.keys() - taken:
        fault = SceneFault("image_id_unknown", f"an annotation names image id {image_id}, which no image has")
        entries[f"unknown-{image_id}"] = _Entry("", image_id, fault)
    return entries


def _stem(path: str) -> str:
    """Return a file's name without folders and ending, in Unicode's composed form."""
    name = path.rpartition("/")[2]
    stem, dot, _ = name.rpartition(".")
    return composed(stem if dot and stem else name)
