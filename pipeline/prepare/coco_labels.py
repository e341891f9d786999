"""COCO's three kinds of labels, each read for one image at a time: COCO-Stuff, panoptic, and instances."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from pipeline.prepare.coco_annotations import CocoAnnotations, Instance, PanopticMap, read_coco_json
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, LabelMap, check_size, encode_png, read_index_png, read_rgb_png
from pipeline.prepare.layout import DataRoot
from pipeline.prepare.vocabulary import Vocabulary, load_vocabulary

IGNORE_LABEL = 255
THINGS = 80
"""The first classes of all of COCO's vocabularies are its things."""

_DOWNLOAD = "download it from https://cocodataset.org, or choose other labels"
_NUMBERS = 1 << 24


class CocoLabel(NamedTuple):
    """Label map, and instance map where the kind of labels tells things apart."""

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

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read the label of one image; None if it has none.

        Raises:
            SceneFault: If it cannot be used.
        """
        ...


class StuffLabels:
    """COCO-Stuff's ``stuffthingmaps``: 8-bit pixel values 0..181; values that stand for no class are ignored."""

    def __init__(self, root: DataRoot, split: str) -> None:
        """Check that the label files are there.

        Raises:
            LayoutError: If they are not.
        """
        self.vocabulary = load_vocabulary("coco-stuff-171")
        self.directory = f"stuffthingmaps/{split}"
        root.required(self.directory, _DOWNLOAD)
        self._root = root
        indices = {pixel: index for index, pixel in enumerate(self.vocabulary.source_ids)}
        self._table = ClassTable(indices, ignore_label=IGNORE_LABEL, ignored=frozenset(), others_ignored=True)

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read ``STEM.png``."""
        png = self._root.read_if_there(f"{self.directory}/{stem}.png")
        if png is None:
            return None
        values, grey = read_index_png(png, image, max_image_px=self._root.max_image_px)
        return CocoLabel(self._table.label_map(values, png if grey else None), None)


class PanopticLabels:
    """Panoptic PNGs, whose RGB is a segment number (R + 256 G + 65536 B); number 0 is ignored.

    Things that are no crowd get instance numbers, in the file's order.
    """

    def __init__(self, root: DataRoot, split: str, annotations: CocoAnnotations) -> None:
        """Read the annotation file into ``annotations``.

        Raises:
            LayoutError: If it is not there or not what it should be.
        """
        self.vocabulary = load_vocabulary("coco-panoptic-133")
        self.directory = f"annotations/panoptic_{split}"
        self._root = root
        file = f"annotations/panoptic_{split}.json"
        document = read_coco_json(root, file, _DOWNLOAD)
        annotations.add_images(document, file)
        annotations.add_panoptic(document, file)
        root.required(self.directory, _DOWNLOAD)
        self._maps = annotations.panoptic
        self._index_of = {category: index for index, category in enumerate(self.vocabulary.source_ids)}

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read the PNG that the annotation names."""
        if image_id is None or image_id not in self._maps:
            return None
        panoptic = self._maps[image_id]
        png = self._root.read(f"{self.directory}/{panoptic.file_name}", "label_missing")
        rgb = read_rgb_png(png, image, max_image_px=self._root.max_image_px)
        red, green, blue = (rgb[..., channel].astype(np.uint32) for channel in range(3))
        numbers = red | green << np.uint32(8) | blue << np.uint32(16)
        return self._convert(numbers, panoptic)

    def _convert(self, numbers: npt.NDArray[np.uint32], panoptic: PanopticMap) -> CocoLabel:
        """Turn segment numbers into class indices and instance numbers."""
        # Tables over all 24-bit numbers: the pages of zeros that no segment touches are never made.
        position = np.zeros(_NUMBERS, np.uint16)
        for at, segment in enumerate(panoptic.segments, start=2):
            if not 0 < segment.segment_id < _NUMBERS:
                reason = f"{panoptic.file_name} cannot have a segment {segment.segment_id}, wanted 1 to {_NUMBERS - 1}"
                raise SceneFault("label_outside_vocabulary", reason)
            position[segment.segment_id] = at
        position[0] = 1
        positions = position[numbers]
        if not positions.all():
            reason = (
                f"{panoptic.file_name} has segment {numbers[positions == 0][0]}, which its annotation does not list"
            )
            raise SceneFault("label_outside_vocabulary", reason)
        class_of = np.full(len(panoptic.segments) + 2, IGNORE_LABEL, np.uint8)
        instance_of = np.zeros(len(panoptic.segments) + 2, np.uint16)
        instances = 0
        for at, segment in enumerate(panoptic.segments, start=2):
            class_of[at] = index_of_category(segment.category_id, self._index_of)
            if class_of[at] < THINGS and not segment.is_crowd:
                instances += 1
                instance_of[at] = instances
        label = class_of[positions]
        return CocoLabel(label_of_indices(label), encode_png(instance_of[positions]))


class InstanceLabels:
    """Objects of the 80 thing classes, drawn as pycocotools draws them; all other pixels are ignored.

    Where objects overlap the one of smaller area lies on top (equal areas: the later id). Crowds lie below all objects
    and have a class but no instance number.
    """

    directory = None

    def __init__(self, root: DataRoot, split: str, annotations: CocoAnnotations) -> None:
        """Read the annotation file into ``annotations``.

        Raises:
            LayoutError: If it is not there or not what it should be.
        """
        self.vocabulary = load_vocabulary("coco-things-80")
        file = f"annotations/instances_{split}.json"
        document = read_coco_json(root, file, _DOWNLOAD)
        annotations.add_images(document, file)
        annotations.add_instances(document, file)
        self._instances = annotations.instances
        self._index_of = {category: index for index, category in enumerate(self.vocabulary.source_ids)}

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Draw the objects of one image; None if it has none."""
        objects = self._instances.get(image_id, ()) if image_id is not None else ()
        if not objects:
            return None
        label = np.full((image.height_px, image.width_px), IGNORE_LABEL, np.uint8)
        numbers = np.zeros(label.shape, np.uint16)
        number_of = {
            thing.annotation_id: number
            for number, thing in enumerate((thing for thing in objects if not thing.is_crowd), start=1)
        }
        for thing in sorted(objects, key=lambda thing: (not thing.is_crowd, -thing.area, thing.annotation_id)):
            mask = object_mask(thing, image)
            label[mask.window][mask.inside] = index_of_category(thing.category_id, self._index_of)
            numbers[mask.window][mask.inside] = number_of.get(thing.annotation_id, 0)
        return CocoLabel(label_of_indices(label), encode_png(numbers))


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
                raise SceneFault("label_unreadable", f"{where}: RLE of {sum(counts)} px, wanted {width * height}")
            runs = coco_mask.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        else:
            if not segmentation or any(len(polygon) < 6 or len(polygon) % 2 for polygon in segmentation):
                raise SceneFault("label_unreadable", f"{where}: has polygons of less than 3 points")
            runs = coco_mask.merge(coco_mask.frPyObjects(segmentation, image.height_px, image.width_px))
        left, top, width, height = (int(number) for number in coco_mask.toBbox(runs))
        drawn: npt.NDArray[Any] = coco_mask.decode(runs)
    except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise SceneFault("label_unreadable", f"{where}: cannot be drawn: {error}") from error
    window = slice(top, top + height), slice(left, left + width)
    return ObjectMask(window, drawn[window].astype(bool))


def index_of_category(category_id: int, index_of: Mapping[int, int]) -> int:
    """Return the class index of a category.

    Raises:
        SceneFault: ``label_outside_vocabulary``.
    """
    if category_id not in index_of:
        raise SceneFault("label_outside_vocabulary", f"category id {category_id} stands for no class")
    return index_of[category_id]


def label_of_indices(label: npt.NDArray[np.uint8]) -> LabelMap:
    """Encode a finished 8-bit map of class indices."""
    present = np.flatnonzero(np.bincount(label.ravel(), minlength=256)[:IGNORE_LABEL])
    return LabelMap(encode_png(label), tuple(int(index) for index in present))
