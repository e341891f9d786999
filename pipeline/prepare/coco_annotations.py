"""COCO's annotation files: read once, checked, and reduced to what preparation needs of each image."""

import contextlib
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.prepare.faults import SceneFault
from pipeline.prepare.layout import DataRoot, LayoutError
from storage_schemas.scenes import Caption


class Instance(NamedTuple):
    """One object of an ``instances_*.json``.

    Attributes:
        annotation_id: COCO's id.
        category_id: COCO's id, 1..90.
        area: In px, as COCO states it.
        is_crowd: Whether it stands for a group that was not taken apart.
        segmentation: Polygons as x, y, x, y, ... in px, or RLE with ``counts`` and ``size``.
    """

    annotation_id: int
    category_id: int
    area: float
    is_crowd: bool
    segmentation: Any


class Segment(NamedTuple):
    """One segment of a panoptic PNG: its number in the PNG, COCO's category id, and whether it is a crowd."""

    segment_id: int
    category_id: int
    is_crowd: bool


class PanopticMap(NamedTuple):
    """The panoptic annotation of one image: name of its PNG, and what the numbers in it mean."""

    file_name: str
    segments: tuple[Segment, ...]


@dataclass(slots=True)
class CocoAnnotations:
    """What annotation files say, per image id.

    Attributes:
        file_names: Image file name of each id that an ``images`` list has.
        captions: In ascending order of id.
        instances: In order of annotation id.
        panoptic: At most one an image.
        faults: What makes an image unusable, the first fault found.
    """

    file_names: dict[int, str] = field(default_factory=dict)
    captions: dict[int, tuple[Caption, ...]] = field(default_factory=dict)
    instances: dict[int, tuple[Instance, ...]] = field(default_factory=dict)
    panoptic: dict[int, PanopticMap] = field(default_factory=dict)
    faults: dict[int, SceneFault] = field(default_factory=dict)

    def image_ids(self) -> set[int]:
        """Return every image id that any list or annotation names."""
        return {*self.file_names, *self.captions, *self.instances, *self.panoptic, *self.faults}

    def add_images(self, document: Mapping[str, Any], file: str) -> None:
        """Take the ``images`` list of a file.

        An id that stands for two file names is a fault of its image; a record that is there twice does no harm.

        Raises:
            LayoutError: If a record lacks its id or file name.
        """
        for image_id, name in _fields(document, "images", ("id", "file_name"), file):
            known = self.file_names.setdefault(image_id, name)
            if known != name:
                reason = f"{file}: image id {image_id} stands for {known} and for {name}"
                self.faults.setdefault(image_id, SceneFault("duplicate_image_id", reason))

    def add_captions(self, document: Mapping[str, Any], file: str) -> None:
        """Take the captions of a file, all of them, empty ones too.

        Raises:
            LayoutError: If a record lacks its id, image id or caption.
        """
        found: dict[int, list[Caption]] = defaultdict(list)
        for caption_id, image_id, text in _fields(document, "annotations", ("id", "image_id", "caption"), file):
            fault = caption_fault(text, f"{file}: caption {caption_id}")
            if fault:
                self.faults.setdefault(image_id, fault)
            found[image_id].append(Caption(caption_id, text))
        times = Counter(caption.caption_id for captions in found.values() for caption in captions)
        for image_id, captions in found.items():
            for caption in captions:
                if times[caption.caption_id] > 1:
                    reason = f"{file}: caption id {caption.caption_id} occurs {times[caption.caption_id]} times"
                    self.faults.setdefault(image_id, SceneFault("duplicate_caption_id", reason))
            self.captions[image_id] = tuple(sorted(captions, key=lambda caption: caption.caption_id))

    def add_instances(self, document: Mapping[str, Any], file: str) -> None:
        """Take the objects of a file.

        Raises:
            LayoutError: If a record lacks one of its fields.
        """
        columns = ("image_id", "id", "category_id", "area", "iscrowd", "segmentation")
        found: dict[int, list[Instance]] = defaultdict(list)
        for image_id, annotation_id, category_id, area, is_crowd, segmentation in _fields(
            document, "annotations", columns, file
        ):
            found[image_id].append(Instance(annotation_id, category_id, area, bool(is_crowd), segmentation))
        for image_id, instances in found.items():
            self.instances[image_id] = tuple(sorted(instances, key=lambda instance: instance.annotation_id))

    def add_panoptic(self, document: Mapping[str, Any], file: str) -> None:
        """Take the panoptic annotations of a file.

        Raises:
            LayoutError: If a record lacks one of its fields.
        """
        for image_id, name, infos in _fields(document, "annotations", ("image_id", "file_name", "segments_info"), file):
            if image_id in self.panoptic:
                reason = f"{file}: image id {image_id} has two panoptic annotations"
                self.faults.setdefault(image_id, SceneFault("duplicate_image_id", reason))
            records = _fields({"segments_info": infos}, "segments_info", ("id", "category_id", "iscrowd"), file)
            self.panoptic[image_id] = PanopticMap(
                name, tuple(Segment(number, category, bool(crowd)) for number, category, crowd in records)
            )


def read_coco_json(root: DataRoot, relative: str, hint: str) -> dict[str, Any]:
    """Read one of COCO's JSON files. Bytes that are not UTF-8 stay visible as lone surrogates, for the one caption.

    Raises:
        LayoutError: If it is not there, or is no JSON object.
    """
    path = root.required(relative, hint)
    try:
        document = json.loads(path.read_bytes().decode("utf-8", "surrogateescape"), object_hook=_compact)
    except ValueError as error:
        message = f"{path}: is not JSON ({error}); download it again"
        raise LayoutError(message) from error
    if not isinstance(document, dict):
        message = f"{path}: holds a {type(document).__name__}, wanted an object with 'images' and 'annotations'"
        raise LayoutError(f"{message}; download it again")
    return document


def caption_fault(text: object, where: str) -> SceneFault | None:
    """Tell what is wrong with a caption, if anything; an empty one is not wrong."""
    if not isinstance(text, str):
        return SceneFault("caption_malformed", f"{where} is {text!r}, wanted text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return SceneFault("caption_not_utf8", f"{where} is not UTF-8 at character {error.start}")
    return None


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Keep the numbers of polygons in arrays while the file is parsed: as Python objects they fill gigabytes.

    What is no list of polygons stays as it is, for whoever draws it to find out.
    """
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        with contextlib.suppress(TypeError):
            record["segmentation"] = [array("d", polygon) for polygon in polygons]
    return record


_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": int,
    "image_id": int,
    "category_id": int,
    "iscrowd": int,
    "area": (int, float),
    "file_name": str,
    "segments_info": list,
}


def _fields(document: Mapping[str, Any], key: str, columns: tuple[str, ...], file: str) -> Iterator[tuple[Any, ...]]:
    """Yield the wanted fields of each record of a list."""
    records = document.get(key)
    if not isinstance(records, list):
        message = f"{file}: has no list '{key}'; check that it is the file that its name says, or download it again"
        raise LayoutError(message)
    for number, record in enumerate(records):
        try:
            values = tuple(record[column] for column in columns)
        except (KeyError, TypeError) as error:
            message = f"{file}: record {number} of '{key}' lacks {error}, wanted {', '.join(columns)}; mend the file"
            raise LayoutError(message) from error
        for column, value in zip(columns, values, strict=True):
            if column in _TYPES and not isinstance(value, _TYPES[column]):
                message = f"{file}: record {number} of '{key}' has {column} {value!r}, of the wrong type; mend the file"
                raise LayoutError(message)
        yield values
