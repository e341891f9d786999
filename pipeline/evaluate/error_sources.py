"""Where the error is: what an evaluation loses by its masks, and what by its names, per class.

Reads ``scores`` that hold two variants beside the main one (`pipeline.evaluate.variants.error_source_variants`):

* **oracle names** (``oracle-labels``): the masks of the main variant, each with the class that most of its labelled
  pixels have, at the mask threshold; score 1 for it, 0 for all others. Then fused as predictions are: soft masks, all
  proposals. A mask without a labelled pixel has no say. What is still wrong is the masks' fault.
* **true masks** (``true-masks-CLIP``): one mask for all places of a class in the label map, named by CLIP alone; all
  its pixels take that name. What is wrong is CLIP's names' fault.

Of OVSeg's introduction they are 66.5 and 20.1 on ADE20K-150. Neither is a bound: an ensemble may name better than CLIP
alone, and it did there, 21.8.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg_models.bootstrap import Difference, bootstrap, compare
from ovseg_models.segmentation_metrics import ClassCounts, class_iou, metrics_of
from pipeline.charts import stacked_bar_chart
from pipeline.evaluate.stored_scores import Scores, json_number
from pipeline.evaluate.variants import ORACLE_LABELS, TRUE_MASKS

REACHED, ORACLE_NAMES, TRUE = "reached", "oracle_names", "true_masks"

PARTS = {"reached": "#3b7d5c", "lost by names": "#d9731a", "lost by masks": "#b8c4d6"}
"""Parts of a class's bar, which together are 100 %, with their colours."""

CHARTED = 40
"""Classes in the picture, at most."""

_BOTTLENECK = {"better": "names", "worse": "masks", "cannot tell": "cannot tell"}
"""What costs more, by whether perfect names are better than perfect masks."""


def error_sources(scores: Scores, *, rounds: int) -> dict[str, Any] | None:
    """Compute what masks and names lose; None where the scores lack one of the two variants.

    Args:
        rounds: Resamplings of images for the intervals, each given to all variants.

    Returns:
        * ``variants``: names of the three, by ``reached``, ``oracle_names`` and ``true_masks``.
        * ``miou``, ``miou_present`` (0..1) and ``intervals`` (of ``miou``) by the same names.
        * ``true_masks_accuracy``: share of a class's true masks that CLIP names rightly, mean over classes.
        * ``gains``: what ``names`` and ``masks`` would add to ``miou`` if they were perfect, and by how much the first
          exceeds the second (``names_less_masks``): difference, interval and verdict of a paired bootstrap.
        * ``bottleneck``: ``"names"``, ``"masks"`` or ``"cannot tell"``: which of the two, made perfect, adds more.
        * ``classes``: of each class with ground truth the three IoUs; ``names_lose`` (oracle names less reached, at
          least 0) and ``masks_lose`` (1 less the higher of these two), which with ``reached`` make 1.
    """
    names = _variants(scores)
    if names is None:
        return None
    tables = {part: scores.counts(name) for part, name in names.items()}
    if len({table.keys for table in tables.values()}) > 1 or not tables[REACHED].keys:
        return None  # a variant failed where others did not: they cannot be paired
    marks = scores.attributes.seen
    whole = {part: table.counts.summed() for part, table in tables.items()}
    metrics = {part: metrics_of(counts, marks) for part, counts in whole.items()}
    intervals = {part: bootstrap(table.counts, marks, rounds=rounds).metrics["miou"] for part, table in tables.items()}

    def gain(first: str, second: str) -> Difference:
        return compare(tables[first].counts, tables[second].counts, marks, rounds=rounds)["miou"]

    gains = {
        "names": gain(REACHED, ORACLE_NAMES),
        "masks": gain(REACHED, TRUE),
        "names_less_masks": gain(TRUE, ORACLE_NAMES),
    }
    return {
        "variants": names,
        "miou": {part: json_number(found["miou"]) for part, found in metrics.items()},
        "miou_present": {part: json_number(found["miou_present"]) for part, found in metrics.items()},
        "intervals": {part: [json_number(one.low), json_number(one.high)] for part, one in intervals.items()},
        "true_masks_accuracy": json_number(_named_rightly(tables[TRUE].counts)),
        "gains": {
            name: {
                "difference": json_number(found.second - found.first),
                "interval": [json_number(found.interval.low), json_number(found.interval.high)],
                "verdict": found.verdict,
            }
            for name, found in gains.items()
        },
        "bottleneck": _BOTTLENECK[gains["names_less_masks"].verdict],
        "classes": _by_class(scores, whole),
    }


def _variants(scores: Scores) -> dict[str, str] | None:
    """Return the names of the three variants."""
    known, main = scores.attributes.variants, scores.attributes.main_variant
    # the main variant's view says which CLIP named; without one it is the first that names true masks
    described = known[main]
    view = described.get("view") if isinstance(described, Mapping) else None
    true_masks = [name for name in known if name.startswith(f"{TRUE_MASKS}-")]
    own = [name for name in true_masks if isinstance(view, Mapping) and name == f"{TRUE_MASKS}-{view['clip']}"]
    if ORACLE_LABELS not in known or main == ORACLE_LABELS or not true_masks:
        return None
    return {REACHED: main, ORACLE_NAMES: ORACLE_LABELS, TRUE: (own or true_masks)[0]}


def _named_rightly(counts: ClassCounts) -> float:
    """Return the mean over classes of the share of their true masks that got their name.

    Args:
        counts: Of true masks [image class]; a mask is all of a class in an image, so it is right as a whole or not.
    """
    there = counts.true_px > 0
    right = there & (counts.intersection_px > 0)
    occurs = there.any(axis=0)
    shares: npt.NDArray[np.float64] = right.sum(axis=0)[occurs] / there.sum(axis=0)[occurs]
    return float(shares.mean()) if occurs.any() else float("nan")


def _by_class(scores: Scores, whole: Mapping[str, ClassCounts]) -> list[dict[str, Any]]:
    """Return the IoUs of each class with ground truth, and what masks and names lose of it."""
    ious = {part: class_iou(counts) for part, counts in whole.items()}
    rows = []
    for index in np.flatnonzero(whole[REACHED].true_px > 0).tolist():
        reached, oracle = float(ious[REACHED][index]), float(ious[ORACLE_NAMES][index])
        rows.append(
            {
                "index": index,
                "name": scores.attributes.class_names[index],
                "mark": scores.attributes.seen[index],
                "true_px": int(whole[REACHED].true_px[index]),
                **{part: float(iou[index]) for part, iou in ious.items()},
                "names_lose": max(oracle - reached, 0.0),
                "masks_lose": 1 - max(oracle, reached),
            }
        )
    return rows


def error_chart(rows: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Draw one bar per class: the IoU that was reached, what names lose, and what masks lose; an SVG element.

    Args:
        rows: ``classes`` of `error_sources`, or some of them, in the order of the picture; at least one.
    """
    bars = [(row["name"], (row["reached"], row["names_lose"], row["masks_lose"])) for row in rows]
    return stacked_bar_chart(bars, PARTS, title=title, x_label="IoU [%]")


def most_lost(rows: Sequence[Mapping[str, Any]], count: int) -> list[Mapping[str, Any]]:
    """Return the classes that lose most by the greater of their two sources, those that lose by names first."""
    lost = sorted(rows, key=lambda row: (-max(row["names_lose"], row["masks_lose"]), row["index"]))[:count]
    return sorted(lost, key=lambda row: (row["masks_lose"] - row["names_lose"], row["index"]))
