"""The numbers of a report on proposals, and what they mean in plain words."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg_models.proposal_quality import LIMITS, THRESHOLDS, coco_size, mean_of
from ovseg_models.segmentation_metrics import SEEN, UNSEEN, metrics_of
from pipeline.errors import StageError
from pipeline.prepare.coco_labels import THINGS
from pipeline.proposals_report.survey import Survey
from storage_schemas.scenes import ScenesAttributes

Numbers = dict[str, Any]

FEW_IOU = 0.5
"""IoU below which a region counts as missed."""

_COCOS = ("coco-stuff-171", "coco-panoptic-133", "coco-things-80")
_MUCH = 0.1  # a share that is worth a sentence
_CLOSE = 0.02  # of mIoU: less than this is no difference to speak of


def report_numbers(
    survey: Survey, attributes: ScenesAttributes, *, dataset: str, source: str, regions: str, named: Mapping[str, Any]
) -> Numbers:
    """Compute all numbers of a report.

    Args:
        survey: Of the proposals.
        attributes: Of the scenes.
        dataset: Its name.
        source: Who made the proposals, in words.
        regions: Which regions they are to meet.
        named: mIoU of evaluations with names that were not given, by ``"result"`` (the proposals named by the models)
            and ``"true_masks"`` (the label map's regions named by CLIP), as far as they are known.

    Raises:
        StageError: If no scene could be measured.
    """
    if not survey.regions:
        found = f"no scene could be measured ({survey.failed})"
        raise StageError(f"proposals-report: {dataset}: {found}; prepare a data set with labels that can be read")
    marks = np.array([attributes.seen[region.class_index] for region in survey.regions], object)
    things = things_of(survey, attributes.vocabulary)
    is_thing = np.array([region.class_index in things for region in survey.regions], bool)
    sizes = np.array([coco_size(region.area_px) for region in survey.regions], object)
    everything = np.ones(len(survey.regions), bool)
    groups = {"all": everything, **{size: sizes == size for size in ("small", "medium", "large")}}
    groups |= {"things": is_thing, "stuff": ~is_thing} if things else {}
    groups |= {mark: marks == mark for mark in (SEEN, UNSEEN)}
    metrics = metrics_of(survey.oracle, attributes.seen)
    labelled, pictures = sum(survey.labelled_px), len(survey.proposals)
    numbers: Numbers = {
        "dataset": dataset,
        "source": source,
        "regions_are": regions,
        "pictures": pictures,
        "failed": dict(sorted(survey.failed.items())),
        "regions": len(survey.regions),
        "proposals_per_picture": sum(survey.proposals) / max(1, pictures),
        "uncovered_share": 1 - sum(survey.covered_px) / max(1, labelled),
        "masks_per_pixel": sum(survey.depth_px) / max(1, labelled),
        "merging_share": sum(survey.merging) / max(1, sum(survey.proposals)),
        "groups": {name: group_numbers(survey, chosen) for name, chosen in groups.items() if chosen.any()},
        "recall_curve": _recall_curve(survey),
        "classes": _class_numbers(survey, attributes),
        "oracle_miou": _number(metrics["miou"]),
        "oracle_miou_seen": _number(metrics["seen_miou"]),
        "oracle_miou_unseen": _number(metrics["unseen_miou"]),
        "named": dict(named),
    }
    return numbers | {"verdict": verdict(numbers)}


def group_numbers(survey: Survey, chosen: npt.NDArray[np.bool_]) -> Numbers:
    """Average over some of the regions; at least one."""
    kept = [region for region, is_in in zip(survey.regions, chosen, strict=True) if is_in]
    found = np.stack([region.found for region in kept]).astype(float)  # [region limit threshold]
    best = np.array([region.best_iou for region in kept])
    return {
        "regions": len(kept),
        **{f"ar_{limit}": float(found[:, place].mean()) for place, limit in enumerate(LIMITS)},
        **{f"recall_{limit}": float(found[:, place, 0].mean()) for place, limit in enumerate(LIMITS)},
        "best_iou": float(best.mean()),
        "missed": float((best < FEW_IOU).mean()),
        "missed_share": float(np.mean([region.missed_share for region in kept])),
        "spilled_share": float(np.mean([region.spilled_share for region in kept])),
        "split": float(np.mean([region.is_split for region in kept])),
    }


def things_of(survey: Survey, vocabulary: str) -> set[int]:
    """Return which classes are things: COCO's own, else those that have single instances in the labels."""
    return set(range(THINGS)) if vocabulary in _COCOS else survey.things


def _recall_curve(survey: Survey) -> list[Numbers]:
    """Return the recall at each threshold, with the ten and the hundred best proposals."""
    found = np.stack([region.found for region in survey.regions]).mean(axis=0)  # [limit threshold]
    return [
        {"iou": threshold, **{f"recall_{limit}": float(found[row, place]) for row, limit in enumerate(LIMITS)}}
        for place, threshold in enumerate(THRESHOLDS)
    ]


def _class_numbers(survey: Survey, attributes: ScenesAttributes) -> list[Numbers]:
    """Return the mean best IoU of each class that occurs, the worst first."""
    indices = np.array([region.class_index for region in survey.regions])
    best = np.array([region.best_iou for region in survey.regions])
    rows = [
        {
            "name": attributes.class_names[index],
            "mark": attributes.seen[index],
            "regions": int((indices == index).sum()),
            "best_iou": mean_of(best, indices == index),
        }
        for index in sorted(set(indices.tolist()))
    ]
    return sorted(rows, key=lambda row: (row["best_iou"], row["name"]))


def verdict(numbers: Numbers) -> list[str]:
    """Say in plain words whether masks or names hold the result back, and what the masks lack."""
    oracle, everything = numbers["oracle_miou"], numbers["groups"]["all"]
    result, true_masks = numbers["named"].get("result"), numbers["named"].get("true_masks")
    said = []
    if oracle is None:
        return ["No class is labelled, so nothing can be said."]
    by_masks = 1 - oracle
    if result is None:
        said.append(
            f"With perfect names these masks reach {_percent(oracle)} mIoU, so masks cost {_percent(by_masks)} points "
            "of 100. What names cost is not known: no evaluation of these proposals is complete (run 'ovseg evaluate' "
            "with the same settings, then this command again)."
        )
    else:
        by_names = oracle - result
        held = f"The {'names' if by_names > by_masks else 'masks'} hold you back more."
        if abs(by_names - by_masks) < _CLOSE:
            held = "Masks and names cost about as much."
        said.append(
            f"{held} The result is {_percent(result)} mIoU. With perfect names these masks reach {_percent(oracle)}, "
            f"so names cost {_percent(by_names)} points; perfect masks with perfect names are 100, so masks cost "
            f"{_percent(by_masks)} points."
        )
    if true_masks is not None:
        said.append(f"With the label map's own masks the names of CLIP reach {_percent(true_masks)} mIoU.")
    said.append(
        f"{_percent(everything['missed'])} % of the regions are missed: no mask meets them with an IoU of one half. "
        f"On average {_percent(everything['missed_share'])} % of a region lie outside its best mask, and "
        f"{_percent(everything['spilled_share'])} % of that mask lie outside the region."
    )
    gap = everything["ar_100"] - everything["ar_10"]
    if gap > _MUCH:
        said.append(
            f"AR@100 is {_percent(gap)} points above AR@10: good masks are there, but not among the ten with the "
            "highest scores. Rules against duplicates and parts, or better scores, would help."
        )
    if everything["split"] > _MUCH:
        said.append(f"{_percent(everything['split'])} % of the regions come in parts only: join them.")
    if numbers["merging_share"] > 2 * _MUCH:
        merging = _percent(numbers["merging_share"])
        said.append(f"{merging} % of the masks hold regions of several classes: drop the largest ones.")
    if numbers["uncovered_share"] > _MUCH:
        said.append(f"{_percent(numbers['uncovered_share'])} % of the labelled pixels are in no mask.")
    groups = numbers["groups"]
    weakest = [_weakest(groups, ("small", "medium", "large")), _weakest(groups, ("things", "stuff"))]
    words = [
        f"{name if name in {'things', 'stuff'} else f'{name} regions'} ({_percent(value)} % mean best IoU)"
        for name, value in filter(None, weakest)
    ]
    if words:
        said.append(f"Weakest are {' and '.join(words)}.")
    return said


def _weakest(groups: Mapping[str, Numbers], names: Sequence[str]) -> tuple[str, float] | None:
    """Return the group with the lowest mean best IoU, where there are several."""
    known = [(name, groups[name]["best_iou"]) for name in names if name in groups]
    return min(known, key=lambda pair: pair[1]) if len(known) > 1 else None


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: npt.ArrayLike) -> float | None:
    """Return a metric; None for NaN."""
    number = float(np.asarray(value))
    return None if np.isnan(number) else number
