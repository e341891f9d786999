"""One mask of others: run lengths or polygons, checked and brought to the size at which the net sees the picture."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from ovseg_models.image_input import nearest_resized, resized_size
from pipeline.mine.regions import NetSize
from pipeline.stored_pictures import turned_upright
from storage_schemas.errors import SchemaError
from storage_schemas.proposals import RefusedMask
from storage_schemas.rle import areas_px, boxes_xyxy, compressed, decode_masks, encode_masks, run_lengths_of

# Values of the column ``status`` of masks and pictures that could not be taken.
PICTURE_UNKNOWN = "picture_unknown"
FILE_UNREADABLE = "file_unreadable"
MALFORMED = "mask_malformed"
OTHER_SIZE = "mask_size"
EMPTY = "mask_empty"
BEYOND_BORDER = "mask_beyond_border"
OTHER_BOX = "mask_box"
OTHER_AREA = "mask_area"
LOST = "mask_lost"

_SAME_BOX_IOU = 0.5  # detectors' boxes are not the masks' own; those of another mask hardly overlap
_BETTER_IOU = 0.01, 0.1  # by which another reading of run lengths meets the box better: if smoother, if as smooth
_EXACT_BOX_IOU = 0.9  # the mask's own box, which proves more than an area: those of COCO's own crowds are often wrong
_AREA_SLACK = 0.05
_BORDER_PX = 1.0  # polygons of annotation tools end between pixels

Size: TypeAlias = tuple[int, int]
"""Height and width [px]."""

Box = tuple[float, float, float, float]
Side = Literal["upright", "stored", "net"]


class MaskFault(Exception):  # noqa: N818 - a fault of the data, which becomes a row and stops nothing
    """A mask cannot be taken; see `RefusedMask` for its parts."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(f"{status}: {reason}")
        self.refused = RefusedMask(status, reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceMask:
    """One mask as its source has it.

    Attributes:
        where: Its place, for messages.
        segmentation: COCO run lengths (a mapping), polygons, rows of 0 and 1, or a boolean array [height width].
        size: Of the picture as the source has it; None where the segmentation alone says it.
        score: Higher is better; 1 where there is none.
        box: Left, top, width, height, if the source states it.
        area: Pixels, if the source states them.
        category: Of the source, if there is one.
        query: Number among the masks of the picture; None to count them.
    """

    where: str
    segmentation: Any
    size: Size | None = None
    score: float = 1.0
    box: Any = None
    area: Any = None
    category: Any = None
    query: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureFrame:
    """The sizes at which masks of a picture may lie.

    Attributes:
        upright: As the picture is shown.
        stored: As it is stored; the same unless its EXIF tag turns it by a quarter.
        exif_orientation: 1 where it is shown as it is stored.
        net: At which the proposal net sees it, and regions are expected.
        prefers: On what masks lie if sizes leave it open.
    """

    upright: Size
    stored: Size
    exif_orientation: int
    net: Size
    prefers: Literal["upright", "stored"]

    @classmethod
    def of(
        cls, height_px: int, width_px: int, exif_orientation: int, net: NetSize, prefers: Literal["upright", "stored"]
    ) -> "PictureFrame":
        """Return the frame of a picture by its stored size."""
        stored = (height_px, width_px)
        upright = (width_px, height_px) if exif_orientation > 4 else stored
        at_net = resized_size(*upright, short_side_px=net.short_side_px, max_side_px=net.max_side_px)
        return cls(
            upright=upright, stored=stored, exif_orientation=exif_orientation, net=at_net, prefers=prefers
        )  # fmt: skip

    def side(self, size: Size) -> Side | None:
        """Return on what a mask of this size lies; None if it fits nothing."""
        fits = {"upright": self.upright, "stored": self.stored}
        order: list[Side] = ["upright", "stored"] if self.prefers == "upright" else ["stored", "upright"]
        found: list[Side] = [side for side in order if fits[side] == size]
        return found[0] if found else "net" if size == self.net else None

    def described(self) -> str:
        """Return the picture's size in words."""
        height, width = self.upright
        turned = ", turned by EXIF" if self.stored != self.upright else ""
        return f"{width} x {height} px{turned}"


class NetMask(NamedTuple):
    """A mask at the net's size.

    Attributes:
        counts: Compressed COCO run lengths.
        was_swapped: Whether its source states height and width the wrong way round.
    """

    counts: bytes
    was_swapped: bool = False


def net_mask(mask: SourceMask, frame: PictureFrame) -> NetMask:
    """Check a mask and bring it to the net's size, by the nearest pixels.

    Raises:
        MaskFault: If it does not fit its picture, is empty, or cannot be drawn.
    """
    segmentation = mask.segmentation
    if isinstance(segmentation, np.ndarray):
        size: Size = segmentation.shape[:2]
        if frame.side(size) is None:
            raise MaskFault(OTHER_SIZE, _other_size(mask.where, size, frame))
        counts, was_swapped = encode_masks(segmentation[None])[0], False
    elif isinstance(segmentation, Mapping):
        counts, size, was_swapped = _of_run_lengths(mask, frame)
    elif _is_bitmap(segmentation, frame):
        return net_mask(replace(mask, segmentation=np.array(segmentation, bool)), frame)
    else:
        size, was_swapped = mask.size or getattr(frame, frame.prefers), False
        if frame.side(size) is None:
            raise MaskFault(OTHER_SIZE, _other_size(mask.where, size, frame))
        counts = _of_polygons(mask, size)
    area = int(areas_px([counts], *size)[0])
    if not area:
        raise MaskFault(EMPTY, f"{mask.where}: has no pixel")
    at_net = _resized(counts, size, frame)
    if not areas_px([at_net], *frame.net)[0]:
        lines = f"{frame.net[1]} x {frame.net[0]} px"
        raise MaskFault(LOST, f"{mask.where}: its {area} px have none left at {lines}, at which the net sees it")
    return NetMask(at_net, was_swapped)


def _of_run_lengths(mask: SourceMask, frame: PictureFrame) -> tuple[bytes, Size, bool]:
    """Check run lengths; return them, the size that they are of, and whether the source states it swapped.

    Counts say nothing of the size: with height and width swapped, or written along rows, they decode to another
    picture of as many pixels. The picture's size tells, and where that fits several readings, the box that the source
    states: the reading that meets it best is the one that is meant.
    """
    stated = mask.segmentation.get("size")
    if not (isinstance(stated, Sequence) and len(stated) == 2 and all(type(side) is int for side in stated)):
        raise MaskFault(MALFORMED, f"{mask.where}: 'size' is {stated!r}, expected [height, width]")
    size: Size = (stated[0], stated[1])
    if min(size) < 1 or size[0] * size[1] >= 2**32:
        raise MaskFault(OTHER_SIZE, _other_size(mask.where, size, frame))
    counts = _compressed(mask, size)
    other: Size = (size[1], size[0])
    if not _is_box(mask.box):
        if frame.side(size) is None:
            raise MaskFault(OTHER_SIZE, _other_size(mask.where, size, frame))
        _check_area(mask, int(areas_px([counts], *size)[0]))
        return counts, size, False
    readings = [_Reading(side, by_rows) for by_rows in (False, True) for side in dict.fromkeys((size, other))]
    fits = {
        reading: _box_overlap(mask.box, reading.box(counts), reading.size)
        for reading in readings
        if frame.side(reading.size) is not None
    }
    by_columns = [reading for reading in fits if not reading.by_rows]  # the size as stated goes first
    plain = next((reading for reading in by_columns if fits[reading] >= _SAME_BOX_IOU), None)
    chosen, edges = plain, dict[_Reading, int]()
    for reading in sorted(fits, key=lambda one: -fits[one]):
        gain = fits[reading] - (_SAME_BOX_IOU if chosen is None else fits[chosen])
        if gain <= _BETTER_IOU[0] and (chosen is not None or gain < 0):
            break
        if chosen is not None:
            # Boxes of detectors are loose, and pixels in a wrong order are often all over the picture: a box alone is
            # not enough to doubt a mask. But then their outlines are long.
            for one in (chosen, reading):
                edges.setdefault(one, _edges_px(one.decoded(counts)))
            if edges[reading] > edges[chosen] or (edges[reading] == edges[chosen] and gain <= _BETTER_IOU[1]):
                continue
        chosen = reading
        break
    if chosen is not None and not chosen.by_rows:
        if chosen.size == size and fits[chosen] < _EXACT_BOX_IOU:
            _check_area(mask, int(areas_px([counts], *size)[0]))
        return counts, chosen.size, chosen.size != size
    if chosen is None and frame.side(size) is None:
        raise MaskFault(OTHER_SIZE, _other_size(mask.where, size, frame))
    found = boxes_xyxy([counts], *size)[0].tolist()
    reason = f"{mask.where}: states the box {mask.box}, its run lengths have {found} (left, top, right, bottom)"
    raise MaskFault(OTHER_BOX, f"{reason}; rows and columns are swapped" if chosen is not None else reason)


class _Reading(NamedTuple):
    """How run lengths may be meant.

    Attributes:
        size: Of the mask that they then give.
        by_rows: Whether they go along rows, where COCO's go along columns.
    """

    size: Size
    by_rows: bool

    def box(self, counts: bytes) -> Box:
        """Return left, top, right, bottom."""
        if not self.by_rows:
            left, top, right, bottom = boxes_xyxy([counts], *self.size)[0].tolist()
        else:  # they are the columns of the mask on its side
            top, left, bottom, right = boxes_xyxy([counts], *self.size[::-1])[0].tolist()
        return left, top, right, bottom

    def decoded(self, counts: bytes) -> npt.NDArray[np.bool_]:
        """Return the mask [height width]."""
        inside: npt.NDArray[np.bool_] = decode_masks([counts], *(self.size[::-1] if self.by_rows else self.size))[0]
        return inside.T if self.by_rows else inside


def _edges_px(inside: npt.NDArray[np.bool_]) -> int:
    """Count the sides of pixels between a mask and what is around it."""
    return sum(int((np.diff(np.pad(inside, 1).astype(np.int8), axis=axis) != 0).sum()) for axis in (0, 1))


def _check_area(mask: SourceMask, area: int) -> None:
    """Check the area that a record states, if it states one.

    Raises:
        MaskFault: If it is neither the mask's nor, as with some tools, the box's.
    """
    fitting = [area, *([float(mask.box[2]) * float(mask.box[3])] if _is_box(mask.box) else [])]
    if is_number(mask.area) and not any(abs(float(mask.area) - one) <= 1 + _AREA_SLACK * one for one in fitting):
        raise MaskFault(OTHER_AREA, f"{mask.where}: states an area of {mask.area} px, its segmentation has {area}")


def _compressed(mask: SourceMask, size: Size) -> bytes:
    """Return the counts of run lengths, compressed or not, that add up to the size."""
    counts = mask.segmentation.get("counts")
    try:
        if isinstance(counts, str):
            counts = counts.encode("ascii")
        if isinstance(counts, bytes):
            run_lengths_of([counts], *size)
            return counts
        if isinstance(counts, list) and counts and all(type(run) is int for run in counts):
            if sum(counts) != size[0] * size[1]:
                reason = f"{mask.where}: run lengths of {sum(counts)} px, expected {size[1]} x {size[0]}"
                raise MaskFault(MALFORMED, reason)
            return compressed(np.array(counts, np.int64), np.array([len(counts)]))[0]
    except (SchemaError, UnicodeEncodeError, OverflowError) as error:
        raise MaskFault(MALFORMED, f"{mask.where}: {error}") from error
    reason = f"{mask.where}: 'counts' is {type(counts).__name__}, expected COCO's text or a list of whole numbers"
    raise MaskFault(MALFORMED, reason)


def _of_polygons(mask: SourceMask, size: Size) -> bytes:
    """Draw polygons as pycocotools draws them, all parts together, and compare them with the box that is stated."""
    polygons = mask.segmentation
    if not isinstance(polygons, list) or not any(isinstance(polygon, list) and polygon for polygon in polygons):
        raise MaskFault(MALFORMED, f"{mask.where}: has no segmentation (a box alone is no mask)")
    for polygon in polygons:
        sound = isinstance(polygon, list) and len(polygon) >= 6 and len(polygon) % 2 == 0
        if not sound or not all(is_number(value) for value in polygon):
            reason = f"{mask.where}: polygons are expected as x, y, x, y, ... of at least 3 points, one is not"
            raise MaskFault(MALFORMED, reason)
        points = np.array(polygon, float).reshape(-1, 2)
        if (points < -_BORDER_PX).any() or (points > np.array(size[::-1]) + _BORDER_PX).any():
            worst = points[np.argmax(np.maximum(-points, points - size[::-1]).max(axis=1))].tolist()
            reason = f"{mask.where}: the point {worst} lies beyond the picture of {size[1]} x {size[0]} px"
            raise MaskFault(BEYOND_BORDER, reason)
    drawn: bytes = coco_mask.merge(coco_mask.frPyObjects(polygons, *size))["counts"]
    if not areas_px([drawn], *size)[0]:
        return drawn  # which is refused as empty
    points = np.concatenate([np.array(polygon, float).reshape(-1, 2) for polygon in polygons])
    left, top, right, bottom = boxes_xyxy([drawn], *size)[0].tolist()
    boxes: list[Box] = [(*points.min(axis=0).tolist(), *points.max(axis=0).tolist()), (left, top, right, bottom)]
    if _is_box(mask.box) and max(_box_overlap(mask.box, own, size) for own in boxes) < _SAME_BOX_IOU:
        found = [round(side, 2) for side in boxes[0]]
        reason = f"{mask.where}: states the box {mask.box}, its polygons have {found} (left, top, right, bottom)"
        raise MaskFault(OTHER_BOX, reason)
    # Not so the area: COCO's own of several parts adds up pixels that the parts share.
    return drawn


def _box_overlap(box: Sequence[float], own: Box, size: Size) -> float:
    """Return the IoU of a stated box with that of the mask (left, top, right, bottom), in a picture of a size."""
    x, y, width, height = (float(value) for value in box)
    stated: list[Box] = [(x, y, x + width, y + height), (x, y, width, height)]  # XYWH, or XYXY as SAM 3 has it
    if max(x, y, width, height) <= 1:  # in parts of the picture
        stated.append((x * size[1], y * size[0], (x + width) * size[1], (y + height) * size[0]))
    return max(_iou(own, meant) for meant in stated)


def _iou(one: Box, other: Box) -> float:
    """Return the IoU of two boxes; both are taken as at least a pixel wide and high."""
    across, down = (max(0.0, min(one[side + 2], other[side + 2]) - max(one[side], other[side])) for side in (0, 1))
    areas = [max(1.0, box[2] - box[0]) * max(1.0, box[3] - box[1]) for box in (one, other)]
    return across * down / (sum(areas) - across * down)


def _resized(counts: bytes, size: Size, frame: PictureFrame) -> bytes:
    """Bring a mask to the net's size."""
    side = frame.side(size)
    turns = side == "stored" and frame.exif_orientation != 1
    if size == frame.net and not turns:
        return counts
    (inside,) = decode_masks([counts], *size)
    if turns:
        inside = turned_upright(inside.astype(np.int32), frame.exif_orientation).astype(bool)
    height, width = frame.net
    lines, columns = _nearest(inside.shape[0], height), _nearest(inside.shape[1], width)
    return encode_masks(np.ascontiguousarray(inside[lines][:, columns])[None])[0]


@lru_cache(maxsize=64)
def _nearest(length: int, resized: int) -> npt.NDArray[np.int64]:
    """Return which of the old lines each new line shows, as label maps are resized."""
    return nearest_resized(np.arange(length)[:, None], resized, 1)[:, 0]


def _is_bitmap(segmentation: object, frame: PictureFrame) -> bool:
    """Return whether a segmentation is rows of 0 and 1, or of false and true, of a size that the picture has."""
    if not (isinstance(segmentation, list) and segmentation and all(isinstance(row, list) for row in segmentation)):
        return False
    lengths = {len(row) for row in segmentation}
    if len(lengths) != 1 or frame.side((len(segmentation), lengths.pop())) is None:
        return False
    return all(value in (0, 1) for row in segmentation for value in row)


def is_number(value: object) -> bool:
    """Return whether a value of a JSON file is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number of hundreds of digits
        return False


def _is_box(box: object) -> bool:
    """Return whether a box is stated: four numbers of which not all are 0."""
    return isinstance(box, Sequence) and len(box) == 4 and all(is_number(value) for value in box) and any(box)


def _other_size(where: str, size: Size, frame: PictureFrame) -> str:
    """Say that a mask is of another size than its picture."""
    turned = "; height and width seem to be swapped" if frame.side((size[1], size[0])) is not None else ""
    return f"{where}: is of {size[1]} x {size[0]} px, the picture of {frame.described()}{turned}"


def masks_of_label_map(
    values: npt.NDArray[Any], background: Sequence[int], where: str
) -> Iterator[SourceMask]:  # fmt: skip
    """Yield a mask for each value of a label map [height width] that is not background, ascending."""
    for value in np.unique(values).tolist():
        if value not in background:
            yield SourceMask(where=f"{where}, value {value}", segmentation=values == value, category=value)
