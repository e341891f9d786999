"""COCO's three kinds of labels, each read for one image at a time: COCO-Stuff, panoptic, and instances."""

from collections.abc import Mapping, Set
from pathlib import PurePosixPath
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from pipeline.prepare.coco_annotations import CocoAnnotations, Instance, PanopticMap, read_coco_json
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import (
    ClassTable,
    LabelMap,
    check_size,
    encode_png,
    present_values,
    read_index_png,
    read_rgb_png,
)
from pipeline.prepare.layout import DataRoot
from pipeline.prepare.vocabulary import Vocabulary, load_vocabulary

IGNORE_LABEL = 255
THINGS = 80
"""The first classes of all of COCO's vocabularies are its things."""

_DOWNLOAD = "download it from https://cocodataset.org, or choose other labels"


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

    def labelled_ids(self) -> Set[int] | None:
        """Return the ids of the images with a label; None where the names of label files say which they are."""
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
        self._name_of = {
            PurePosixPath(name).stem: name for name in root.names(self.directory, (".png",), hint=_DOWNLOAD)
        }
        self._root = root
        indices = {pixel: index for index, pixel in enumerate(self.vocabulary.source_ids)}
        self._table = ClassTable(indices, ignore_label=IGNORE_LABEL, ignored=frozenset(), others_ignored=True)

    def labelled_ids(self) -> None:
        """Return None: labels belong to pictures by name."""

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read ``STEM.png``, whatever the case of its ending."""
        if stem not in self._name_of:
            return None
        png = self._root.read(f"{self.directory}/{self._name_of[stem]}", "label_missing")
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

    def labelled_ids(self) -> Set[int]:
        """Return the ids of the images with a panoptic map."""
        return self._maps.keys()

    def read(self, image_id: int | None, stem: str, image: ImageFacts) -> CocoLabel | None:
        """Read the PNG that the annotation names."""
        if image_id is None or image_id not in self._maps:
            return None
        panoptic = self._maps[image_id]
        png = self._root.read(f"{self.directory}/{panoptic.file_name}", "label_missing")
        rgb = read_rgb_png(png, image, max_image_px=self._root.max_image_px)
        return self._convert(rgb, panoptic)

    def _convert(self, rgb: npt.NDArray[np.uint8], panoptic: PanopticMap) -> CocoLabel:
        """Turn segment numbers into class indices and instance numbers, run by run of equal pixels."""
        class_of = {0: IGNORE_LABEL}
        instance_of = {0: 0}
        for segment in panoptic.segments:
            index = index_of_category(segment.category_id, self._index_of)
            class_of[segment.segment_id] = index
            counts = index < THINGS and not segment.is_crowd
            instance_of[segment.segment_id] = max(instance_of.values()) + 1 if counts else 0
        numbers, lengths = runs_of_numbers(rgb)
        present, run_to_present = np.unique(numbers, return_inverse=True)
        unlisted = [number for number in present.tolist() if number not in class_of]
        if unlisted:
            reason = f"{panoptic.file_name} has segment {unlisted[0]}, which its annotation does not list"
            raise SceneFault("label_outside_vocabulary", reason)
        classes = np.array([class_of[number] for number in present.tolist()], np.uint8)
        instances = np.array([instance_of[number] for number in present.tolist()], np.uint16)
        label = np.repeat(classes[run_to_present], lengths).reshape(rgb.shape[:2])
        things = np.repeat(instances[run_to_present], lengths).reshape(rgb.shape[:2])
        occurring = sorted(set(classes.tolist()) - {IGNORE_LABEL})
        return CocoLabel(LabelMap(encode_png(label), tuple(occurring)), encode_png(things))


def runs_of_numbers(rgb: npt.NDArray[np.uint8]) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """Split a panoptic map into runs of equal pixels, row after row; there are few beside the pixels.

    Args:
        rgb: [height width 3].

    Returns:
        The number R + 256 G + 65536 B of each run [run], and its length [run].
    """
    flat = rgb.reshape(-1)
    differs = flat[3:] != flat[:-3]
    starts = np.flatnonzero(differs[0::3] | differs[1::3] | differs[2::3]) + 1
    starts = np.concatenate([[0], starts])
    colours = rgb.reshape(-1, 3)[starts].astype(np.uint32)
    numbers = colours @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    return numbers, np.diff(starts, append=flat.size // 3)


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

    def labelled_ids(self) -> Set[int]:
        """Return the ids of the images with an object."""
        return self._instances.keys()

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
    present = present_values(label)
    present = present[present != IGNORE_LABEL]
    return LabelMap(encode_png(label), tuple(int(index) for index in present))
