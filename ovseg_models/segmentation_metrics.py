"""Metrics of semantic segmentation, from pixel counts per class, and of masks, from those of regions.

Every metric follows from sums over images (true, predicted and rightly predicted pixels of each class), so any set of
images, in any order and in any number of parts, gives identical digits. Leading axes are kept: the counts of many
resamplings of images go through the same code as those of the images themselves.

Two denominators of mean IoU are in use. ``miou`` divides by the number of classes that have ground truth *or* were
predicted, as OVSeg's evaluation does: a class that was predicted and is nowhere costs as much as one that was missed.
``miou_present`` divides by the number of classes with ground truth. With 847 classes, many of them absent, the two
differ much.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Float64, Shaped
from torch import Tensor

SEEN, UNSEEN = "seen", "unseen"
_PIXELS_AT_ONCE = 2**20

METRICS = (
    *("miou", "miou_present", "fwiou", "macc", "pacc"),
    *("seen_miou", "unseen_miou", "harmonic_miou"),
    *("seen_miou_present", "unseen_miou_present", "harmonic_miou_present"),
    "boundary_iou",
)
"""Names of all metrics; each is 0..1, or NaN where no class counts."""


@dataclass(frozen=True, kw_only=True)
class ClassCounts:
    """Pixels per class, summed over images; whole numbers, as integers or as floats below 2^53.

    Attributes:
        true_px: In the label maps.
        predicted_px: In the predictions, ignored pixels left out.
        intersection_px: In both.
        boundary_true_px: On the boundary in the label maps.
        boundary_predicted_px: On the boundary in the predictions.
        boundary_intersection_px: On both.
    """

    true_px: Shaped[np.ndarray, "*rounds class"]
    predicted_px: Shaped[np.ndarray, "*rounds class"]
    intersection_px: Shaped[np.ndarray, "*rounds class"]
    boundary_true_px: Shaped[np.ndarray, "*rounds class"]
    boundary_predicted_px: Shaped[np.ndarray, "*rounds class"]
    boundary_intersection_px: Shaped[np.ndarray, "*rounds class"]

    @classmethod
    def of_confusion(cls, confusion: Shaped[np.ndarray, "class class"]) -> "ClassCounts":
        """Return the counts of a table of pixels [true predicted]; no boundary is counted."""
        none = np.zeros(len(confusion), confusion.dtype)
        return cls(
            true_px=confusion.sum(axis=1),
            predicted_px=confusion.sum(axis=0),
            intersection_px=confusion.diagonal(),
            boundary_true_px=none,
            boundary_predicted_px=none,
            boundary_intersection_px=none,
        )

    def summed(self) -> "ClassCounts":
        """Sum over the first axis, such as that of images."""
        return ClassCounts(**{name: counts.sum(axis=0) for name, counts in vars(self).items()})


def class_iou(counts: ClassCounts) -> Float64[np.ndarray, "*rounds class"]:
    """Return each class's intersection over union; NaN for a class that is in neither map."""
    union = counts.true_px + counts.predicted_px - counts.intersection_px
    return _ratio(counts.intersection_px, union)


def class_boundary_iou(counts: ClassCounts) -> Float64[np.ndarray, "*rounds class"]:
    """Return the intersection over union of each class's boundaries; NaN for a class that is in neither map.

    References:
        Cheng et al., Boundary IoU, CVPR 2021; here intersections and unions are summed over the images first, as IoU's.
    """
    union = counts.boundary_true_px + counts.boundary_predicted_px - counts.boundary_intersection_px
    return _ratio(counts.boundary_intersection_px, union)


def class_accuracy(counts: ClassCounts) -> Float64[np.ndarray, "*rounds class"]:
    """Return the share of each class's pixels that were found; NaN for a class without ground truth."""
    return _ratio(counts.intersection_px, counts.true_px)


def metrics_of(counts: ClassCounts, marks: Sequence[str]) -> dict[str, Float64[np.ndarray, "*rounds"]]:
    """Compute all `METRICS`.

    Args:
        counts: Of the images together.
        marks: Per class ``"seen"``, ``"unseen"``, or another word for a class that counts as neither.

    Returns:
        Per name in `METRICS` one value for each round.

    Raises:
        ValueError: If there isn't one mark per class.
    """
    if len(marks) != counts.true_px.shape[-1]:
        raise ValueError(
            f"metrics_of: {len(marks)} marks for {counts.true_px.shape[-1]} classes; give one mark per class"
        )
    iou = class_iou(counts)
    present = counts.true_px > 0
    metrics = {
        "miou": _mean(iou, ~np.isnan(iou)),
        "miou_present": _mean(iou, present),
        "fwiou": _ratio(np.nansum(counts.true_px * iou, axis=-1), counts.true_px.sum(axis=-1)),
        "macc": _mean(class_accuracy(counts), present),
        "pacc": _ratio(counts.intersection_px.sum(axis=-1), counts.true_px.sum(axis=-1)),
        "boundary_iou": _mean(class_boundary_iou(counts), present),
    }
    for ending, counted in (("", ~np.isnan(iou)), ("_present", present)):
        for mark in (SEEN, UNSEEN):
            metrics[f"{mark}_miou{ending}"] = _mean(iou, counted & (np.asarray(marks) == mark))
        seen, unseen = metrics[f"seen_miou{ending}"], metrics[f"unseen_miou{ending}"]
        metrics[f"harmonic_miou{ending}"] = np.where(seen + unseen == 0, 0.0, _ratio(2 * seen * unseen, seen + unseen))
    return {name: metrics[name] for name in METRICS}


def shared_px(
    regions: Bool[Tensor, "region height width"], masks: Bool[Tensor, "mask height width"]
) -> Float[Tensor, "region mask"]:
    """Count the pixels that each region shares with each mask; exact up to 2^24 pixels, also in TF32 and autocast.

    Factors are 0 or 1, and what autocast would turn to half precision is no operation in place.
    """
    shared = torch.zeros(len(regions), len(masks), device=masks.device)
    # Some pixels at a time: as numbers that can be multiplied, masks take four times their memory.
    for some_regions, some_masks in zip(
        regions.flatten(1).split(_PIXELS_AT_ONCE, 1), masks.flatten(1).split(_PIXELS_AT_ONCE, 1), strict=True
    ):
        shared.addmm_(some_regions.float(), some_masks.float().T)
    return shared


def region_ious(
    regions: Bool[Tensor, "region height width"], masks: Bool[Tensor, "mask height width"]
) -> Float[Tensor, "region mask"]:
    """Return the IoU of each region with each mask; 0 where both are empty."""
    shared = shared_px(regions, masks)
    united = regions.flatten(1).sum(1)[:, None] + masks.flatten(1).sum(1) - shared
    return shared / united.clamp(min=1)


def top_confusions(confusion: npt.NDArray[np.int64], count: int) -> list[tuple[int, int, int]]:
    """List the most frequent confusions.

    Args:
        confusion: Pixels [true predicted].
        count: How many, at most.

    Returns:
        True class, predicted class and pixels of each, the most frequent first; ties in order of the classes.
    """
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:count]
    places = np.unravel_index(order, wrong.shape)
    return [(int(t), int(p), int(wrong[t, p])) for t, p in zip(*places, strict=True) if wrong[t, p]]


def _ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Divide; nothing of nothing is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        quotient: npt.NDArray[np.float64] = np.true_divide(part, whole)
        return np.where(np.asarray(whole) == 0, np.nan, quotient)


def _mean(values: npt.NDArray[np.float64], counted: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Average over the classes that count."""
    return _ratio(np.where(counted, values, 0.0).sum(axis=-1), counted.sum(axis=-1))
