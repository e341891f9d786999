"""Masks as COCO run lengths: pycocotools' compressed counts, column by column.

All functions take and give any number of masks at once, none included. Height and width are stored once per row beside
the counts, in px.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from storage_schemas.errors import SchemaError


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[bytes]:
    """Encode masks as compressed counts.

    Args:
        masks: True inside the region [mask height width].

    Raises:
        SchemaError: If ``masks`` is not a three-dimensional boolean array.
    """
    if masks.dtype != np.bool_ or masks.ndim != 3:
        message = f"masks: found {masks.dtype} of shape {masks.shape}, wanted bool of shape [mask height width]"
        raise SchemaError(message)
    if masks.shape[0] == 0:
        return []
    if 0 in masks.shape:
        message = f"masks: shape {masks.shape} has a side of 0 px; give each mask at least one pixel"
        raise SchemaError(message)
    columns_first = np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8))
    return [run_lengths["counts"] for run_lengths in coco_mask.encode(columns_first)]


def decode_masks(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    """Decode compressed counts to masks [mask height width]."""
    if not counts:
        return np.zeros((0, height_px, width_px), dtype=np.bool_)
    decoded = coco_mask.decode(_objects(counts, height_px, width_px))
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)).view(np.bool_)


def areas_px(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.int64]:
    """Return the number of pixels inside each mask [mask]."""
    if not counts:
        return np.zeros(0, dtype=np.int64)
    return np.asarray(coco_mask.area(_objects(counts, height_px, width_px)), dtype=np.int64)


def boxes_xyxy(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.int32]:
    """Return tight boxes [mask 4] as left, top, right, bottom; px, half-open; all zero for an empty mask."""
    if not counts:
        return np.zeros((0, 4), dtype=np.int32)
    boxes = np.asarray(coco_mask.toBbox(_objects(counts, height_px, width_px)), dtype=np.int32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def iou_matrix(
    counts: Sequence[bytes], other_counts: Sequence[bytes], height_px: int, width_px: int
) -> npt.NDArray[np.float64]:
    """Return intersection over union of each mask with each other mask [mask other]; 0 where both are empty."""
    if not counts or not other_counts:
        return np.zeros((len(counts), len(other_counts)))
    first, second = _objects(counts, height_px, width_px), _objects(other_counts, height_px, width_px)
    return np.asarray(coco_mask.iou(first, second, [0] * len(other_counts)), dtype=np.float64)


def _objects(counts: Sequence[bytes], height_px: int, width_px: int) -> list[dict[str, object]]:
    """Give counts the form that pycocotools wants."""
    return [{"size": [height_px, width_px], "counts": one} for one in counts]
