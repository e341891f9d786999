"""How well proposals meet the regions of a label map, whoever made them and whatever they are named.

Regions are the ground truth: all places of a class, or single things. Ignored pixels belong to neither regions nor
proposals. Recall is class-agnostic: a proposal may meet any region.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from ovseg_models.segmentation_metrics import shared_px

THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""COCO's: a region is found at an IoU of at least so much."""

LIMITS = (10, 100)
"""Proposals of a picture, the best ones by score, that recall is measured with."""

INSIDE = 0.8
"""Share of a mask from which on it counts as lying in another one (Hoover et al., 1996, have 0.8)."""

_MASKS_AT_ONCE = 128


@dataclass(frozen=True, kw_only=True)
class RegionFits:
    """How proposals meet the regions of one picture.

    Attributes:
        best: Proposal with the highest IoU, the first of several; -1 where there is no proposal [region].
        best_iou: Its IoU [region].
        missed_share: Share of the region outside it, 0..1 [region].
        spilled_share: Share of it outside the region, 0..1 [region].
        found: Whether the region is found, by limit and threshold [region limit threshold].
        split: Whether the region is over-segmented: at least two proposals lie in it by `INSIDE`, none meets it with
            an IoU of one half, and their union covers `INSIDE` of it [region].
        merging: Whether a proposal under-segments: it holds `INSIDE` of at least two regions of different classes
            [proposal].
        covered_px: Labelled pixels in at least one proposal.
        depth_px: Sum over labelled pixels of the number of proposals that they are in.
        labelled_px: Labelled pixels.
    """

    best: Int64[np.ndarray, "region"]
    best_iou: Float64[np.ndarray, "region"]
    missed_share: Float64[np.ndarray, "region"]
    spilled_share: Float64[np.ndarray, "region"]
    found: Bool[np.ndarray, "region limit threshold"]
    split: Bool[np.ndarray, "region"]
    merging: Bool[np.ndarray, "proposal"]
    covered_px: int
    depth_px: int
    labelled_px: int


@torch.no_grad()
def region_fits(
    regions: Bool[Tensor, "region height width"],
    masks: Bool[Tensor, "proposal height width"],
    scores: Float64[np.ndarray, "proposal"],
    classes: Int64[np.ndarray, "region"],
    labelled: Bool[Tensor, "height width"],
) -> RegionFits:
    """Compare proposals with regions.

    Args:
        regions: Of the ground truth, each with a labelled pixel.
        masks: Of the proposals; there may be none.
        scores: Higher comes first; of equal ones the first.
        classes: Of the regions.
        labelled: Pixels with a class; all others are left out of regions and masks.
    """
    shared, mask_px = _shared(regions, masks, labelled)
    region_px = (regions & labelled).flatten(1).sum(dim=1).numpy()
    united = region_px[:, None] + mask_px - shared
    ious = shared / np.maximum(united, 1)  # [region proposal]
    rows, none = np.arange(len(regions)), not len(masks)
    best = np.full(len(regions), -1) if none else ious.argmax(axis=1)
    best_iou = np.zeros(len(regions)) if none else ious[rows, best]
    common = np.zeros(len(regions)) if none else shared[rows, best]
    order = np.argsort(-scores, kind="stable")
    found = np.stack(
        [_found(ious[:, order[:limit]]) for limit in LIMITS] or [np.zeros((len(regions), 0))], axis=1
    )  # [region limit threshold]
    inside = shared >= INSIDE * np.maximum(mask_px, 1)  # [region proposal]: the proposal lies in the region
    split = np.zeros(len(regions), bool)
    for region in np.flatnonzero((inside.sum(axis=1) >= 2) & (best_iou < THRESHOLDS[0])).tolist():
        parts = torch.from_numpy(np.flatnonzero(inside[region]))
        union = masks[parts].any(dim=0) & regions[region] & labelled
        split[region] = int(union.sum()) >= INSIDE * region_px[region]
    holds = shared >= INSIDE * region_px[:, None]  # [region proposal]: the region lies in the proposal
    merging = np.array([len(set(classes[column].tolist())) >= 2 for column in holds.T], bool)
    depth = torch.zeros(labelled.shape, dtype=torch.int64)
    for some in masks.split(_MASKS_AT_ONCE):
        depth += some.sum(dim=0)
    depth = depth[labelled]
    mask_px_of_best = np.zeros(len(regions)) if none else mask_px[best]
    return RegionFits(
        best=best.astype(np.int64),
        best_iou=best_iou.astype(np.float64),
        missed_share=1 - common / np.maximum(region_px, 1),
        spilled_share=np.where(common > 0, 1 - common / np.maximum(mask_px_of_best, 1), 1.0 - none),
        found=found,
        split=split,
        merging=merging,
        covered_px=int((depth > 0).sum()),
        depth_px=int(depth.sum()),
        labelled_px=int(labelled.sum()),
    )


def _shared(
    regions: Bool[Tensor, "region height width"],
    masks: Bool[Tensor, "proposal height width"],
    labelled: Bool[Tensor, "height width"],
) -> tuple[Float64[np.ndarray, "region proposal"], Float64[np.ndarray, "proposal"]]:
    """Count the labelled pixels that regions share with masks, and those of masks."""
    shared, sizes = [np.zeros((len(regions), 0))], [np.zeros(0)]
    for some in masks.split(_MASKS_AT_ONCE) if len(masks) else ():
        of_labelled = some & labelled
        shared.append(shared_px(regions & labelled, of_labelled).double().numpy())
        sizes.append(of_labelled.flatten(1).sum(dim=1).double().numpy())
    return np.concatenate(shared, axis=1), np.concatenate(sizes)


def _found(ious: Float64[np.ndarray, "region proposal"]) -> Bool[np.ndarray, "region threshold"]:
    """Match proposals to regions one to one, the best-scored first, as COCO does for each threshold.

    A proposal takes the region of those still free with which its IoU is highest, the last of equal ones, if that IoU
    reaches the threshold.
    """
    found = np.zeros((len(ious), len(THRESHOLDS)), bool)
    if not ious.size:
        return found
    for place, threshold in enumerate(THRESHOLDS):
        reaching = ious >= threshold - 1e-10
        for proposal in np.flatnonzero(reaching.any(axis=0)).tolist():
            free = np.where(found[:, place], -1.0, ious[:, proposal])
            region = len(free) - 1 - int(free[::-1].argmax())
            if free[region] >= threshold - 1e-10:
                found[region, place] = True
    return found


def mean_of(values: Float64[np.ndarray, "region"], chosen: Bool[np.ndarray, "region"]) -> float | None:
    """Average over chosen regions; None where there is none."""
    return float(values[chosen].mean()) if chosen.any() else None


def coco_size(area_px: int) -> str:
    """Return COCO's word for the size of a region: below 32 x 32 px, below 96 x 96 px, or larger."""
    return "small" if area_px < 32**2 else "medium" if area_px <= 96**2 else "large"


def regions_of(
    labels: Int64[np.ndarray, "height width"], numbers: Int64[np.ndarray, "height width"] | None, ignore_label: int
) -> tuple[Int64[np.ndarray, "height width"], Sequence[int], Sequence[int]]:
    """Number the regions of a label map.

    Args:
        labels: Class indices, or ``ignore_label``.
        numbers: Instance numbers, 0 = none, where single things are expected; None for one region a class.
        ignore_label: Value of pixels without a class.

    Returns:
        Number of each pixel's region, -1 without a class; class of each region; pixels of each.
    """
    joined = labels if numbers is None else labels * (1 << 17) + numbers
    present, places, counts = np.unique(joined[labels != ignore_label], return_inverse=True, return_counts=True)
    found = np.full(labels.shape, -1, np.int64)
    found[labels != ignore_label] = places.reshape(-1)
    classes = present if numbers is None else present >> 17
    return found, classes.tolist(), counts.tolist()
