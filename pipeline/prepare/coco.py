"""COCO 2017 in its official layout: images, captions, and labels of COCO-Stuff, panoptic or instance annotations.

``ROOT/SPLIT/*.jpg``, ``ROOT/annotations/{captions,instances,panoptic}_SPLIT.json``,
``ROOT/annotations/panoptic_SPLIT/*.png`` and ``ROOT/stuffthingmaps/SPLIT/*.png``, where SPLIT is ``train2017`` or
``val2017``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from pipeline.prepare.coco_annotations import CocoAnnotations, read_coco_json
from pipeline.prepare.coco_labels import CocoLabels, InstanceLabels, PanopticLabels, StuffLabels
from pipeline.prepare.contents import FileContents
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.layout import Annotations, DataRoot, failed_scene, scene_key
from pipeline.prepare.options import CocoLabelKind
from pipeline.prepare.paired import labels_without_picture, why_no_label
from pipeline.prepare.source import Found
from pipeline.prepare.vocabulary import Vocabulary, vocabulary_of_names
from storage_schemas.scenes import Scene

_IMAGES_HINT = "give the directory that holds train2017, val2017 and annotations as --root"
_CAPTIONS_HINT = "download annotations_trainval2017.zip from https://cocodataset.org, or go without (--no-captions)"


@dataclass(frozen=True, slots=True)
class _Entry:
    """One image: its file, its id (None where its name holds no number), and what makes it unusable."""

    file_name: str
    image_id: int | None
    fault: SceneFault | None = None


class CocoSource:
    """COCO's scenes: every image of the split's directory, and every one that an annotation names."""

    licence = "annotations CC BY 4.0; each picture has its own Flickr licence, see the 'license' of its COCO record"

    def __init__(self, root: DataRoot, *, split: str, labels: CocoLabelKind, captions: bool) -> None:
        """Read the annotation files that the options ask for.

        The large ones take seconds and memory (instances of train2017: about 2 GB while they are read).

        Raises:
            LayoutError: If a directory or file is not there or not what it should be.
        """
        self._root = root
        self._split = split
        self._files = []
        annotations = CocoAnnotations()
        if captions:
            file = f"annotations/captions_{split}.json"
            document = read_coco_json(root, file, _CAPTIONS_HINT)
            annotations.add_images(document, file)
            annotations.add_captions(document, file)
            self._files.append(file)
        self._labels = _label_reader(labels, root, split, annotations)
        if labels in {"panoptic", "instances"}:
            self._files.append(f"annotations/{labels}_{split}.json")
        self._captions = annotations.captions
        self._entries = _entries(root.names(split, hint=_IMAGES_HINT), annotations)

    @property
    def vocabulary(self) -> Vocabulary:
        """COCO-Stuff's 171 classes, the 133 panoptic ones, the 80 things, or none."""
        return self._labels.vocabulary if self._labels else vocabulary_of_names("none", ())

    @property
    def ignore_label(self) -> int:
        """255."""
        return self.vocabulary.ignore_label

    def keys(self) -> Sequence[str]:
        """Return the scene keys, sorted."""
        return sorted(self._entries)

    def identity(self, contents: FileContents) -> Mapping[str, str | int | bool]:
        """Return digests of the annotation files, of the listing of images, and of the label files."""
        identity = {file: contents.file(self._root, file) for file in self._files}
        pictures = (self._source_path(entry) for entry in self._entries.values() if entry.file_name)
        identity["images"] = contents.by_size(self._root, pictures)
        if self._labels and self._labels.directory:
            identity["labels"] = contents.by_contents(
                self._root, (f"{self._labels.directory}/{name}" for name in self._label_names())
            )
        return identity

    def scene(self, key: str) -> Scene:
        """Read one scene; a kind of annotation that the image has not is left empty."""
        entry = self._entries[key]
        image_id = str(entry.image_id) if entry.image_id is not None else key
        if entry.fault:
            return failed_scene(key, image_id, self._source_path(entry), entry.fault)
        return self._root.scene(key, image_id, self._source_path(entry), lambda facts: self._annotate(entry, facts))

    def found(self) -> Found:
        """Return what lies there."""
        pictures = [entry for entry in self._entries.values() if entry.file_name]
        captions = sum(map(len, self._captions.values()))
        if self._labels is None:
            return Found(pictures=len(pictures), captions=captions)
        labelled = self._labels.labelled_ids()
        if labelled is not None:
            used = sum(entry.image_id in labelled for entry in pictures)
            why = "" if used else f"none of its {len(labelled)} image ids with a label is one of these pictures"
            return Found(pictures=len(pictures), labels=len(labelled), captions=captions, no_label_used=why)
        directory = self._labels.directory or ""
        files = [f"{directory}/{name}" for name in self._root.names(directory, ("",), hint=_IMAGES_HINT)]
        stems = {PurePosixPath(entry.file_name).stem for entry in pictures}
        used_files = {file for file in files if file.lower().endswith(".png") and PurePosixPath(file).stem in stems}
        return Found(
            pictures=len(pictures),
            labels=len(files),
            captions=captions,
            passed_over=tuple(labels_without_picture(files, used_files)),
            no_label_used="" if used_files else why_no_label([self._source_path(each) for each in pictures], files),
        )

    def _annotate(self, entry: _Entry, facts: ImageFacts) -> Annotations:
        """Read an image's captions and label."""
        captions = self._captions.get(entry.image_id, ()) if entry.image_id is not None else ()
        stem = PurePosixPath(entry.file_name).stem
        found = self._labels.read(entry.image_id, stem, facts) if self._labels else None
        if found is None:
            return Annotations(captions=captions)
        return Annotations(
            found.label.png, found.instances_png, found.label.classes, captions, found.label.ignored_values
        )

    def _source_path(self, entry: _Entry) -> str:
        return f"{self._split}/{entry.file_name}" if entry.file_name else ""

    def _label_names(self) -> list[str]:
        """List the label files, if the labels are files."""
        directory = self._labels.directory if self._labels else None
        return self._root.names(directory, (".png",), hint=_IMAGES_HINT) if directory else []


def _label_reader(kind: CocoLabelKind, root: DataRoot, split: str, annotations: CocoAnnotations) -> CocoLabels | None:
    """Return what reads the labels of that kind."""
    if kind == "stuff":
        return StuffLabels(root, split)
    if kind == "panoptic":
        return PanopticLabels(root, split, annotations)
    return InstanceLabels(root, split, annotations) if kind == "instances" else None


def _entries(names: Iterable[str], annotations: CocoAnnotations) -> dict[str, _Entry]:
    """Bring the files of the directory and the images of the annotations together, one entry per key."""
    file_of = {number: name for name in names if (number := _number_in(name)) is not None} | annotations.file_names
    ids_of: dict[str, list[int]] = {name: [] for name in names}
    for image_id, name in file_of.items():
        ids_of.setdefault(name, []).append(image_id)
    entries: dict[str, _Entry] = {}
    for name, ids in sorted(ids_of.items()):
        fault = next((annotations.faults[image_id] for image_id in ids if image_id in annotations.faults), None)
        if len(ids) > 1:
            fault = SceneFault("duplicate_image_id", f"the image ids {sorted(ids)} all stand for {name}")
        key = scene_key(PurePosixPath(name).stem)
        if key in entries:
            fault = SceneFault("duplicate_key", f"{entries[key].file_name} and {name} would both be {key}")
        entries[key] = _Entry(name, ids[0] if ids else None, fault)
    for image_id in annotations.image_ids() - file_of.keys():
        fault = SceneFault("image_id_unknown", f"an annotation names image id {image_id}, which no image has")
        entries[f"unknown-{image_id}"] = _Entry("", image_id, fault)
    return entries


def _number_in(file_name: str) -> int | None:
    """Read the image id that COCO's file names end in (``000000000139.jpg``, ``COCO_val2014_000000000139.jpg``)."""
    digits = re.search(r"(?:^|_)(\d{1,18})$", PurePosixPath(file_name).stem)
    return int(digits.group(1)) if digits else None
