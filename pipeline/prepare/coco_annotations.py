"""COCO's annotation files: read once, checked, and reduced to what preparation needs of each image."""

import contextlib
import json
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.prepare.data_root import DataRoot, LayoutError, composed
from pipeline.prepare.faults import SceneFault
from storage_schemas.scenes import Caption


class Instance(NamedTuple):
    """One object of an ``instances_*.json``.

    Attributes:
        annotation_id: COCO's id.
        category_id: An id of the file's categories; None where an export wrote none.
        area: In px, as the file states it; some tools write that of the box.
        is_crowd: Whether it is a group that was not taken apart.
        segmentation: Polygons as x, y, x, y, ... in px, or RLE with ``counts`` and ``size``.
    """

    annotation_id: int
    category_id: int | None
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
        file_names: Image file name of each id that an ``images`` list has, with ``/``.
        server_paths: Path on the server of an annotation tool, where a record has one: it distinguishes equal file
            names in different folders.
        has_images: Whether any file has an ``images`` list, which then alone says which id a picture has.
        captions: In ascending order of id.
        instances: In order of annotation id.
        panoptic: At most one an image.
        faults: What makes an image unusable, the first fault found.
    """

    file_names: dict[int, str] = field(default_factory=dict)
    server_paths: dict[int, str] = field(default_factory=dict)
    has_images: bool = False
    captions: dict[int, tuple[Caption, ...]] = field(default_factory=dict)
    instances: dict[int, tuple[Instance, ...]] = field(default_factory=dict)
    panoptic: dict[int, PanopticMap] = field(default_factory=dict)
    faults: dict[int, SceneFault] = field(default_factory=dict)

    def image_ids(self) -> set[int]:
        """Return every image id that any list or annotation names."""
        return {*self.file_names, *self.captions, *self.instances, *self.panoptic, *self.faults}

    def add_images(self, document: Mapping[str, Any], file: str) -> None:
        """Take the ``images`` list of a file.

        An id of two file names is a fault of its image; a record that is there twice does no harm.

        Raises:
            LayoutError: If a record lacks its id or file name.
        """
        for image_id, written, server_path in _fields(document, "images", ("id", "file_name"), file, path=""):
            self.has_images = True
            name = composed(written.replace("\\", "/"))  # exports of Windows
            known = self.file_names.setdefault(image_id, name)
            if isinstance(server_path, str) and server_path:
                self.server_paths.setdefault(image_id, composed(server_path.replace("\\", "/")))
            if known != name:
                reason = f"{file}: image id {image_id} is that of {known} and of {name}"
                self.faults.setdefault(image_id, SceneFault("duplicate_image_id", reason))

    def add_captions(self, document: Mapping[str, Any], file: str) -> None:
        """Take the captions of a file, all of them, empty ones too.

        Raises:
            LayoutError: If a record lacks its id, image id or caption.
        """
        found: dict[int, list[Caption]] = defaultdict(list)
        for caption_id, image_id, text in _fields(document, "annotations", ("id", "image_id", "caption"), file):
            # Nothing is wrong with ASCII, which nearly all of 591,753 captions are.
            is_plain = isinstance(text, str) and text.isascii()
            if not is_plain and (fault := caption_fault(text, f"{file}: caption {caption_id}")):
                self.faults.setdefault(image_id, fault)
            found[image_id].append(Caption(caption_id, text))
        ids = [caption.caption_id for captions in found.values() for caption in captions]
        times = Counter(ids) if len(set(ids)) < len(ids) else {}
        for image_id, captions in found.items():
            for caption in captions if times else ():
                if times[caption.caption_id] > 1:
                    reason = f"{file}: caption id {caption.caption_id} occurs {times[caption.caption_id]} times"
                    self.faults.setdefault(image_id, SceneFault("duplicate_caption_id", reason))
            self.captions[image_id] = tuple(sorted(captions, key=lambda caption: caption.caption_id))

    def add_instances(self, document: Mapping[str, Any], file: str) -> None:
        """Take the objects of a file.

        Raises:
            LayoutError: If a record lacks one of its fields.
        """
        found: dict[int, list[Instance]] = defaultdict(list)
        optional = {"id": None, "area": None, "iscrowd": 0, "segmentation": None, "bbox": None}
        records = _fields(document, "annotations", ("image_id", "category_id"), file, **optional)
        for number, (image_id, category_id, annotation_id, area, is_crowd, segmentation, bbox) in enumerate(records):
            # The area only decides what lies on top; that of the box will do.
            box_area = bbox[2] * bbox[3] if isinstance(bbox, list) and len(bbox) == 4 else 0.0
            own_id, own_area = number if annotation_id is None else annotation_id, box_area if area is None else area
            found[image_id].append(Instance(own_id, category_id, own_area, bool(is_crowd), segmentation))
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
            records = _fields({"segments_info": infos}, "segments_info", ("id", "category_id"), file, iscrowd=0)
            segments = tuple(Segment(number, category, bool(crowd)) for number, category, crowd in records)
            self.panoptic[image_id] = PanopticMap(name.replace("\\", "/"), segments)


def read_coco_json(root: DataRoot, relative: str, hint: str) -> dict[str, Any]:
    """Read one of COCO's JSON files. Bytes that are not UTF-8 stay visible as lone surrogates, for the one caption.

    Raises:
        LayoutError: If it is not there, or is no JSON object.
    """
    path = root.required(relative, hint)
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
        document = json.loads(text, object_hook=_compact)
    except (ValueError, RecursionError) as error:
        raise LayoutError(f"{path}: is not JSON ({error}); export or download it again") from error
    if not isinstance(document, dict):
        message = f"{path}: holds a {type(document).__name__}, expected an object with 'images' and 'annotations'"
        raise LayoutError(f"{message}; export or download it again")
    return document


class Category(NamedTuple):
    """One entry of a file's ``categories``: its id, its name, and whether it is a thing with instances."""

    category_id: int
    name: str
    is_thing: bool


def read_categories(document: Mapping[str, Any], used: Set[int | None], file: str) -> tuple[Category, ...]:
    """Return the categories of a file in the order of their ids; empty where it lists none.

    An entry that is only another one's ``supercategory``, and that no annotation uses, is left out: Roboflow writes the
    project's name so, as id 0.

    Args:
        used: Category ids that its annotations use.
        file: Its name, for messages.

    Raises:
        LayoutError: If an entry lacks id or name, or two share an id or a name.
    """
    if not document.get("categories"):
        return ()
    entries = list(_fields(document, "categories", ("id", "name"), file, supercategory=None, isthing=1))
    above = {supercategory for _, name, supercategory, _ in entries if supercategory != name}
    kept: dict[int, Category] = {}
    id_of: dict[str, int] = {}
    for category_id, written, _, is_thing in sorted(entries, key=lambda entry: entry[0]):
        if written in above and category_id not in used:
            continue
        name = composed(written.strip())
        if not name:
            raise LayoutError(f"{file}: category {category_id} has an empty name; name it")
        if category_id in kept or name in id_of:
            other = (
                f"id {category_id} is that of {kept[category_id].name!r} and {name!r}"
                if category_id in kept
                else (f"{name!r} is the name of {id_of[name]} and {category_id}")
            )
            raise LayoutError(f"{file}: categories: {other}; give each its own")
        kept[category_id], id_of[name] = Category(category_id, name, bool(is_thing)), category_id
    return tuple(kept.values())


def caption_fault(text: object, where: str) -> SceneFault | None:
    """Return what is wrong with a caption, if anything; an empty one is not wrong."""
    if not isinstance(text, str):
        return SceneFault("caption_malformed", f"{where} is {text!r}, expected text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return SceneFault("caption_not_utf8", f"{where} is not UTF-8 at character {error.start}")
    return None


def _compact(record: dict[str, Any]) -> dict[str, Any]:
    """Keep little of each record while the file is parsed: of a picture what is read here, polygons as arrays.

    As Python objects the rest fills gigabytes. What is no list of polygons stays as it is, for whoever draws it to find
    out.
    """
    if "file_name" in record and "id" in record and "image_id" not in record and "images" not in record:
        return {name: record[name] for name in _IMAGE_FIELDS if name in record}
    polygons = record.get("segmentation")
    if isinstance(polygons, list):
        with contextlib.suppress(TypeError):
            record["segmentation"] = [array("d", polygon) for polygon in polygons]
    return record


_IMAGE_FIELDS = ("id", "file_name", "path")
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "id": int,
    "image_id": int,
    "category_id": (int, type(None)),  # some exports write null for names that are no numbers
    "iscrowd": int,
    "isthing": int,
    "area": (int, float),
    "file_name": str,
    "name": str,
    "segments_info": list,
}


def _fields(
    document: Mapping[str, Any], key: str, columns: tuple[str, ...], file: str, **optional: Any
) -> Iterator[tuple[Any, ...]]:
    """Yield fields of each record of a list: the required ones, then the optional ones, by default where null.

    The list is emptied meanwhile: the records of a large file take several times the memory of what is kept of them.

    Raises:
        LayoutError: If there is no such list, a record lacks a required field, or a field is of the wrong type.
    """
    records = document.get(key)
    if not isinstance(records, list):
        raise LayoutError(
            f"{file}: has no list '{key}'; check that it is the file that its name says, or export it again"
        )
    names = (*columns, *optional)
    typed = [(place, column, _TYPES[column]) for place, column in enumerate(names) if column in _TYPES]
    for number, record in enumerate(records):
        records[number] = None
        try:
            values = [record[column] for column in columns]
            for column, default in optional.items():
                value = record.get(column)
                values.append(default if value is None else value)
        except (KeyError, TypeError, AttributeError) as error:
            raise LayoutError(
                f"{file}: record {number} of '{key}' lacks {error}, expected {', '.join(columns)}; fix the file"
            ) from error
        for place, column, kind in typed:
            value = values[place]
            if not isinstance(value, kind) and value is not optional.get(column, ...):
                raise LayoutError(
                    f"{file}: record {number} of '{key}' has {column} {value!r}, of the wrong type; fix the file"
                )
        yield tuple(values)
