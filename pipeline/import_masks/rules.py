"""Rules that sift the masks of one picture; what they drop is counted."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.settings import MaskRuleSettings
from storage_schemas.rle import areas_px, inside_matrix, iou_matrix, united


@dataclass(frozen=True, slots=True)
class RankedMask:
    """A mask of a picture, at the net's size.

    Attributes:
        query: Number in the picture.
        counts: Compressed COCO run lengths.
        area_px: Pixels; at least one.
        score: Higher comes first.
        category: Of its source, as text; masks without one have None and are joined with none.
    """

    query: int
    counts: bytes
    area_px: int
    score: float
    category: str | None = None


def sifted(
    masks: Sequence[RankedMask], rules: MaskRuleSettings, height_px: int, width_px: int
) -> tuple[list[RankedMask], Counter[str]]:
    """Apply the rules in the order of the settings.

    Masks with higher scores come first, of equal ones the larger, then the one with the lower number. So the result
    depends on nothing else, such as the order of the file where scores differ.

    Args:
        masks: With numbers of their own.
        rules: See `MaskRuleSettings`.
        height_px: Of the masks.
        width_px: Of the masks.

    Returns:
        The masks that are kept, by ascending number, and how many each rule dropped or joined, by its name.
    """
    counted: Counter[str] = Counter()
    kept = list(masks)

    def drop(rule: str, left: list[RankedMask]) -> None:
        nonlocal kept
        counted[rule] += len(kept) - len(left)
        kept = left

    if rules.merge_categories:
        groups: dict[str, list[int]] = {}
        for place, mask in enumerate(kept):
            groups.setdefault(f"one {place}" if mask.category is None else f"all {mask.category}", []).append(place)
        drop("merge_categories", _joined(kept, list(groups.values()), height_px, width_px))
    if rules.merge_overlap < 1 and len(kept) > 1:
        inside = inside_matrix([mask.counts for mask in kept], height_px, width_px)
        # the share of the smaller of two masks is the larger of both shares
        drop("merge_overlap", _joined(kept, _connected(np.maximum(inside, inside.T) > rules.merge_overlap), height_px,
                                      width_px))  # fmt: skip
    pixels = height_px * width_px
    if rules.min_share > 0:
        drop("min_share", [mask for mask in kept if mask.area_px >= rules.min_share * pixels])
    if rules.max_share < 1:
        drop("max_share", [mask for mask in kept if mask.area_px <= rules.max_share * pixels])
    kept.sort(key=lambda mask: (-mask.score, -mask.area_px, mask.query))
    if rules.duplicate_iou < 1 and len(kept) > 1:
        counts = [mask.counts for mask in kept]
        overlaps = iou_matrix(counts, counts, height_px, width_px) > rules.duplicate_iou
        chosen = _first_come(overlaps, range(len(kept)))
        drop("duplicate_iou", [kept[place] for place in chosen])
    if rules.contained_share < 1 and len(kept) > 1:
        lies_in = inside_matrix([mask.counts for mask in kept], height_px, width_px) > rules.contained_share
        by_size = sorted(range(len(kept)), key=lambda place: -kept[place].area_px)  # stable: equal areas keep the order
        drop("contained_share", [kept[place] for place in _first_come(lies_in, by_size)])
    if rules.max_masks is not None:
        drop("max_masks", kept[: rules.max_masks])
    return sorted(kept, key=lambda mask: mask.query), counted


def _first_come(excludes: npt.NDArray[np.bool_], order: Sequence[int]) -> list[int]:
    """Choose masks in an order, each unless one chosen before excludes it; returns their places, ascending.

    Args:
        excludes: Whether a mask is excluded by another one [mask other].
        order: Of all places.
    """
    chosen: list[int] = []
    for place in order:
        if not excludes[place, chosen].any():
            chosen.append(place)
    return sorted(chosen)


def _connected(linked: npt.NDArray[np.bool_]) -> list[list[int]]:
    """Group places that are linked, directly or through others; groups and places ascend."""
    group_of = list(range(len(linked)))
    for one, other in np.argwhere(np.triu(linked, 1)).tolist():
        low, high = sorted((group_of[one], group_of[other]))
        if low != high:
            group_of = [low if group == high else group for group in group_of]
    groups: dict[int, list[int]] = {}
    for place, group in enumerate(group_of):
        groups.setdefault(group, []).append(place)
    return [groups[group] for group in sorted(groups)]


def _joined(masks: Sequence[RankedMask], groups: Sequence[Sequence[int]], height: int, width: int) -> list[RankedMask]:
    """Make one mask of each group: the union, with the number of its first mask and the highest score."""
    joined = []
    for group in groups:
        first = masks[group[0]]
        if len(group) > 1:
            union = united([masks[place].counts for place in group], height, width)
            area = int(areas_px([union], height, width)[0])
            first = replace(first, counts=union, area_px=area, score=max(masks[place].score for place in group))
        joined.append(first)
    return joined
