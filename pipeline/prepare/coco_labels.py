"""COCO's three kinds of labels, each read for one image at a time: COCO-Stuff, panoptic, and instances."""

from collections.abc import Mapping, Set
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.data_set_options import StuffValues
from pipeline.prepare.coco_annotations import CocoAnnotations, Instance, read_categories
from pipeline.prepare.data_root import DataRoot, LayoutError, composed
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import (
    ClassTable,
    LabelMap,
    check_size,
    encode_png,
    index_dtype,
    present_values,
    read_index_png,
    read_rgb_png,
)
from pipeline.prepare.vocabulary import Vocabulary, load_vocabulary, vocabulary_of_names

IGNORE_LABEL = 255
THINGS = 80
"""The first classes of all of COCO's vocabularies are its things."""

_NEVER_OFFICIAL = frozenset({11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90})
"""Ids less one that COCO-Stuff never gave to a class: such a value proves contiguous indices."""

_NEVER_CONTIGUOUS = frozenset(range(171, 182))
_PROBED_LABELS = 50


class CocoLabel(NamedTuple):
    """Label map, and instance map where the kind of labels separates instances."""

    label: LabelMap
    instances_png: bytes | None


class CocoLabels(Protocol):
    """One kind of labels."""

    @property
    def vocabulary(self) -> Vocabulary:
        """What the indices mean."""
        ...

    @property
    def directory(self) -> str | None:
        """Directory of label files, if there are any."""
        ...

    def labelled_ids(self) -> Set[int] | None:
        """Return the ids of the images with a label; None where the names of label files say which they are."""
        ...

    def file_of(self, image_id: int | None, stem: str) -> str | None:
        """Return the path of the label file of an image relative to the root; None if it has none."""
        ...

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read the label of one image; None if it has none.

        Raises:
            SceneFault: If it cannot be used.
        """
        ...


class StuffLabels:
    """COCO-Stuff's ``stuffthingmaps``: 8-bit pixel values; those that are no class's are ignored.

    Official files hold a category's id less one, 0..181, and never eleven of these values. Files that other tools made
    hold the index among the 171 classes, 0..170. Taken for one another, "wall-stone" becomes "wall-brick".
    """

    def __init__(self, root: DataRoot, directory: str, values: StuffValues, hint: str) -> None:
        """List the label files, and search some of them for values that only the other kind has.

        Args:
            directory: Of the label files.
            values: What their values mean.
            hint: What to do if they are not there.

        Raises:
            LayoutError: If they are not there, or of the other kind.
        """
        self.vocabulary = load_vocabulary("coco-stuff-171")
        self.directory = directory
        names = root.names(directory, (".png",), hint=hint)
        self._name_of = {composed(PurePosixPath(name).stem): name for name in names}
        self._root = root
        self._values = values
        official = {pixel: index for index, pixel in enumerate(self.vocabulary.source_ids)}
        indices = official if values == "official" else {index: index for index in range(len(official))}
        self._table = ClassTable(indices, ignore_label=IGNORE_LABEL, ignored=frozenset(), others_ignored=True)
        self._impossible = _NEVER_OFFICIAL if values == "official" else _NEVER_CONTIGUOUS
        for name in names[:: max(1, len(names) // _PROBED_LABELS)]:  # spread evenly
            root.accessed.files.add(f"{directory}/{name}")
            try:
                with Image.open(root.directory / directory / name, formats=["PNG"]) as png:
                    values_in = np.unique(np.asarray(png)).tolist() if png.mode in {"L", "P"} else ()
            except (OSError, SyntaxError, ValueError):  # a file that cannot be decoded becomes a row later
                continue
            odd = self._impossible.intersection(values_in)
            if odd:
                raise LayoutError(f"{root.name}: {directory}/{name}: {self._reason(min(odd))}")

    def labelled_ids(self) -> None:
        """Return None: labels belong to pictures by name."""

    def file_of(self, image_id: int | None, stem: str) -> str | None:
        """Return the path of ``STEM.png``, whatever the case of its ending."""
        return f"{self.directory}/{self._name_of[stem]}" if stem in self._name_of else None

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read ``STEM.png``."""
        file = self.file_of(image_id, stem)
        if file is None:
            return None
        png = self._root.read(file, "label_missing")
        values, grey = read_index_png(png, image, max_image_px=self._root.max_image_px)
        odd = self._impossible.intersection(present_values(values).tolist())
        if odd:
            raise SceneFault("label_outside_vocabulary", self._reason(min(odd)))
        return CocoLabel(self._table.label_map(values, png if grey else None), None)

    def _reason(self, value: int) -> str:
        """Return what a value means that only files of the other kind hold."""
        if self._values == "official":
            return (
                f"holds the value {value}, which official files never hold: its values seem to be indices 0..170; "
                'give --stuff-values contiguous (stuff_values = "contiguous") if they are'
            )
        return (
            f"holds the value {value}, but contiguous indices end at 170; leave --stuff-values out for official files"
        )


class PanopticLabels:
    """Panoptic PNGs, whose RGB is a segment number (R + 256 G + 65536 B); number 0 is ignored.

    Things that are no crowd get instance numbers, in the file's order.
    """

    def __init__(self, root: DataRoot, file: str, document: Mapping[str, Any], annotations: CocoAnnotations) -> None:
        """Read an annotation file into ``annotations``; its PNGs are in the directory of the file's name.

        Raises:
            LayoutError: If it is not what it should be, or the directory is not there.
        """
        annotations.add_images(document, file)
        annotations.add_panoptic(document, file)
        self.directory = file.removesuffix(".json")
        root.required(self.directory, "it should hold the PNGs that the file names")
        self._root = root
        self._maps = annotations.panoptic
        used = {segment.category_id for each in self._maps.values() for segment in each.segments}
        self._classes = own_classes(document, load_vocabulary("coco-panoptic-133"), used, file)
        self.vocabulary = self._classes.vocabulary

    def labelled_ids(self) -> Set[int]:
        """Return the ids of the images with a panoptic map."""
        return self._maps.keys()

    def file_of(self, image_id: int | None, stem: str) -> str | None:
        """Return the path of the PNG that the annotation names."""
        panoptic = self._maps.get(image_id) if image_id is not None else None
        return None if panoptic is None else f"{self.directory}/{panoptic.file_name}"

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read the PNG that the annotation names."""
        file = self.file_of(image_id, stem)
        if image_id is None or file is None:
            return None
        panoptic = self._maps[image_id]
        png = self._root.read(file, "label_missing")
        rgb = read_rgb_png(png, image, max_image_px=self._root.max_image_px)
        ignore_label = self.vocabulary.ignore_label
        class_of = {0: ignore_label}
        instance_of = {0: 0}
        for segment in panoptic.segments:
            index = index_of_category(segment.category_id, self._classes.index_of)
            class_of[segment.segment_id] = index
            counts = index in self._classes.things and not segment.is_crowd
            instance_of[segment.segment_id] = max(instance_of.values()) + 1 if counts else 0
        # Look-ups are made per run of equal pixels, of which there are few, and spread to the pixels last.
        numbers, lengths = runs_of_numbers(rgb)  # [run], [run]
        present, run_to_present = np.unique(numbers, return_inverse=True)  # [number], [run]
        unlisted = [number for number in present.tolist() if number not in class_of]
        if unlisted:
            reason = f"{panoptic.file_name} has segment {unlisted[0]}, which its annotation does not list"
            raise SceneFault("label_outside_vocabulary", reason)
        classes = np.array([class_of[number] for number in present.tolist()], index_dtype(ignore_label))
        instances = np.array([instance_of[number] for number in present.tolist()], np.uint16)
        label = np.repeat(classes[run_to_present], lengths).reshape(rgb.shape[:2])  # [run] to [height width]
        things = np.repeat(instances[run_to_present], lengths).reshape(rgb.shape[:2])
        occurring = sorted(set(classes.tolist()) - {ignore_label})
        return CocoLabel(LabelMap(encode_png(label), tuple(occurring)), encode_png(things))


def runs_of_numbers(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Split a panoptic map into runs of equal pixels, row after row; there are few beside the pixels.

    Args:
        rgb: [height width 3].

    Returns:
        The number R + 256 G + 65536 B of each run [run], and its length [run].
    """
    flat = rgb.reshape(-1)  # [height * width * 3]; a pixel later is three bytes later
    differs = flat[3:] != flat[:-3]
    starts = np.flatnonzero(differs[0::3] | differs[1::3] | differs[2::3]) + 1  # any channel differs
    starts = np.concatenate([[0], starts])
    colours = rgb.reshape(-1, 3)[starts].astype(np.uint32)
    numbers = colours @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    return numbers, np.diff(starts, append=flat.size // 3)


class InstanceLabels:
    """Objects, drawn as pycocotools draws them; all other pixels are ignored.

    Where objects overlap the one of smaller area lies on top (equal areas: the later id). COCO's own crowds lie below
    all objects and have a class but no instance number. In other files ``iscrowd`` says nothing of crowds: CVAT marks
    each mask so that was painted with a brush.
    """

    directory = None

    def __init__(self, file: str, document: Mapping[str, Any], annotations: CocoAnnotations) -> None:
        """Read an annotation file into ``annotations``.

        Raises:
            LayoutError: If it is not what it should be.
        """
        annotations.add_images(document, file)
        annotations.add_instances(document, file)
        self._instances = annotations.instances
        used = {thing.category_id for things in self._instances.values() for thing in things}
        self._classes = own_classes(document, load_vocabulary("coco-things-80"), used, file)
        self.vocabulary = self._classes.vocabulary

    def labelled_ids(self) -> Set[int]:
        """Return the ids of the images with an object."""
        return self._instances.keys()

    def file_of(self, image_id: int | None, stem: str) -> None:
        """Return None: objects are drawn from the annotation file."""

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Draw the objects of one image; None if it has none."""
        objects = self._instances.get(image_id, ()) if image_id is not None else ()
        if not objects:
            return None
        if not self._classes.is_cocos:
            objects = tuple(thing._replace(is_crowd=False) for thing in objects)
        ignore_label = self.vocabulary.ignore_label
        label = np.full((image.height_px, image.width_px), ignore_label, index_dtype(ignore_label))
        numbers = np.zeros(label.shape, np.uint16)
        number_of = {
            thing.annotation_id: number
            for number, thing in enumerate((thing for thing in objects if not thing.is_crowd), start=1)
        }
        # The last one drawn lies on top: crowds first, then from the largest to the smallest.
        for thing in sorted(objects, key=lambda thing: (not thing.is_crowd, -thing.area, thing.annotation_id)):
            mask = object_mask(thing, image)
            label[mask.window][mask.inside] = index_of_category(thing.category_id, self._classes.index_of)
            numbers[mask.window][mask.inside] = number_of.get(thing.annotation_id, 0)
        present = present_values(label)
        present = present[present != ignore_label]
        return CocoLabel(LabelMap(encode_png(label), tuple(present.tolist())), encode_png(numbers))


class OwnClasses(NamedTuple):
    """What the category ids of a file mean.

    Attributes:
        vocabulary: Class names in the order of the ids.
        index_of: Category id to class index.
        things: Class indices of things, which have instances.
        is_cocos: Whether the file has COCO's own categories.
    """

    vocabulary: Vocabulary
    index_of: Mapping[int, int]
    things: Set[int]
    is_cocos: bool


def own_classes(document: Mapping[str, Any], cocos: Vocabulary, used: Set[int | None], file: str) -> OwnClasses:
    """Return the classes of a file by its own ``categories``.

    COCO's table is taken where the file's names equal it, and where the file lists no category at all.

    Args:
        cocos: COCO's classes of this kind.
        used: Category ids that its annotations use.
        file: Its name, for messages and as the source of the vocabulary.

    Raises:
        LayoutError: If the list is not what it should be.
    """
    categories = read_categories(document, used, file)
    cocos_names = dict(zip(cocos.source_ids, cocos.class_names, strict=True))
    if not categories or {each.category_id: each.name for each in categories} == cocos_names:
        index_of = {category_id: index for index, category_id in enumerate(cocos.source_ids)}
        return OwnClasses(cocos, index_of, frozenset(range(THINGS)), is_cocos=True)
    try:
        vocabulary = vocabulary_of_names("coco-own", [each.name for each in categories])
    except ValueError as error:
        raise LayoutError(f"{file}: categories: {error}") from error
    things = frozenset(index for index, each in enumerate(categories) if each.is_thing)
    index_of = {each.category_id: index for index, each in enumerate(categories)}
    return OwnClasses(vocabulary, index_of, things, is_cocos=False)


class ObjectMask(NamedTuple):
    """An object drawn: rows and columns of its bounding box, and which pixels of that box are inside."""

    window: tuple[slice, slice]
    inside: npt.NDArray[np.bool_]


def object_mask(thing: Instance, image: ImageFacts) -> ObjectMask:
    """Draw one object into an image of that size; its box may be empty.

    Raises:
        SceneFault: If its polygons or RLE cannot be drawn, or are for another size.
    """
    where = f"annotation {thing.annotation_id}"
    segmentation = thing.segmentation
    try:
        if isinstance(segmentation, Mapping):
            height, width = segmentation["size"]
            check_size(width, height, image)
            counts = segmentation["counts"]
            if isinstance(counts, list) and sum(counts) != width * height:
                raise SceneFault("label_unreadable", f"{where}: RLE of {sum(counts)} px, expected {width * height}")
            runs = coco_mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        else:
            if not segmentation or not any(len(polygon) for polygon in segmentation):
                raise SceneFault("label_unreadable", f"{where}: has no segmentation (a box only)")
            if any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
                raise SceneFault("label_unreadable", f"{where}: has polygons of less than 3 points")
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, image.height_px, image.width_px))
        left, top, width, height = (int(number) for number in coco_mask.toBbox(runs))
        drawn: npt.NDArray[Any] = coco_mask.decode(runs)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise SceneFault("label_unreadable", f"{where}: cannot be drawn: {error}") from error
    window = slice(top, top + height), slice(left, left + width)
    return ObjectMask(window, drawn[window].astype(bool))


def index_of_category(category_id: int | None, index_of: Mapping[int, int]) -> int:
    """Return the class index of a category.

    Raises:
        SceneFault: ``label_outside_vocabulary``.
    """
    if category_id is None or category_id not in index_of:
        raise SceneFault("label_outside_vocabulary", f"category id {category_id} is none of the file's categories")
    return index_of[category_id]
