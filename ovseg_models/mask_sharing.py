"""Masks of a picture that overlap so much that one crop and one embedding serve them all."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from ovseg_models.segmentation_metrics import shared_px


@torch.no_grad()
def shared_masks(
    masks: Bool[Tensor, "mask height width"], above_iou: float
) -> tuple[Int64[np.ndarray, "kept"], Int64[np.ndarray, "mask"]]:
    """Choose masks that represent all the others.

    Greedy, in the order of the masks: a mask is kept unless it overlaps one that was kept before by more than
    ``above_iou``; the kept one before it that overlaps it most represents it. So a mask never loses its own embedding
    to a later one, as among equal masks. Masks without a pixel overlap none.

    Args:
        masks: There may be none.
        above_iou: Intersection over union, below 1.

    Returns:
        The rows of the masks that are kept, ascending, and which of these represents each mask; on the host. The same
        for masks on any device, as pixels are counted exactly.
    """
    iou = mask_ious(masks)
    earlier = np.tri(len(iou), k=-1, dtype=np.bool_)
    overlapped = earlier & (iou > above_iou)
    kept: npt.NDArray[np.bool_] = np.ones(len(iou), np.bool_)
    # Whether a mask is kept follows from those before it. Each round has one more of them right, and most pictures need
    # two or three rounds: a chain is as long as masks that overlap one after another.
    while not np.array_equal(found := ~np.any(overlapped & kept, axis=1), kept):
        kept = found
    # Of a mask that is kept, only itself comes into question: its IoU with the kept ones before it is low.
    candidates = np.where(kept & (earlier | np.eye(len(iou), dtype=np.bool_)), iou, -1.0)
    np.fill_diagonal(candidates, np.where(kept, 2.0, -1.0))
    rows = kept.nonzero()[0]
    of_mask = candidates[:, rows].argmax(axis=1) if len(rows) else rows
    return rows, of_mask


@torch.no_grad()
def mask_ious(masks: Bool[Tensor, "mask height width"]) -> Float64[np.ndarray, "mask mask"]:
    """Return the intersection over union of each mask with each other one; 0 of two masks without a pixel."""
    counts: Float64[np.ndarray, "mask mask"] = shared_px(masks, masks).double().cpu().numpy()
    areas = counts.diagonal()
    union = areas[:, None] + areas - counts
    ious: Float64[np.ndarray, "mask mask"] = counts / np.maximum(union, 1)
    return ious
