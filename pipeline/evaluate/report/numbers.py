"""All numbers of a report, as plain JSON values: the page, the Markdown and the JSON file say the same."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg_models.bootstrap import Bootstrapped, bootstrap
from ovseg_models.segmentation_metrics import (
    METRICS,
    ClassCounts,
    class_accuracy,
    class_boundary_iou,
    class_iou,
    metrics_of,
    top_confusions,
)
from pipeline.evaluate.counts import ImageCountTable, Scores
from pipeline.evaluate.plan import ScoresPlan
from pipeline.evaluate.report.paper import paper_miou
from pipeline.evaluate.variants import Variant
from pipeline.settings import Settings, result_settings
from pipeline.stage_inputs import clip_is_random, scenes_of
from storage_schemas.digests import Json
from storage_schemas.scenes import ScenesAttributes
from storage_schemas.scores import ScoresAttributes

CONFUSIONS = 20
_SWEPT = frozenset({"weights", "thresholds"})

Numbers = dict[str, Any]


def report_numbers(
    settings: Settings, plans: Sequence[ScoresPlan], choices: Mapping[str, Json] | None = None
) -> Numbers:
    """Compute the numbers of a report.

    Args:
        settings: Of all stages.
        plans: Evaluations, each finished.
        choices: What mined validation pairs say of the ensemble weight; None if they were not asked.
    """
    given = settings
    settings = _as_loaded(given)
    return {
        "name": settings.name,
        "clip": settings.evaluate.clip,
        "adaptation": settings.finetune.mode if settings.evaluate.clip == "adapted" else None,
        "models": {
            "clip": f"{settings.clip.architecture} ({settings.clip.pretrained})",
            "proposal_net": settings.proposal_net.architecture.backbone.name,
        },
        "bootstrap_rounds": settings.evaluate.bootstrap_rounds,
        "datasets": [dataset_numbers(settings, plan) for plan in plans],
        "weight_choice": choices,
        "settings": result_settings(given),
    }


def _as_loaded(settings: Settings) -> Settings:
    """Say of CLIP's weights that they are random where they had to be: no report passes them off as those named."""
    if not clip_is_random(settings.clip):
        return settings
    return settings.model_copy(update={"clip": settings.clip.model_copy(update={"pretrained": "random"})})


def dataset_numbers(settings: Settings, plan: ScoresPlan) -> Numbers:
    """Compute the numbers of one data set."""
    scores = Scores(plan.artifact)
    attributes = scores.attributes
    table = scores.counts(attributes.main_variant)
    boot = _bootstrapped(table, attributes.seen, settings.evaluate.bootstrap_rounds)
    identity = plan.artifact.identity
    return {
        "dataset": attributes.dataset,
        "vocabulary": attributes.vocabulary,
        "main_variant": attributes.main_variant,
        "training_overlap": training_overlap(settings, attributes),
        "images": len(table.keys),
        "failed": scores.failures(),
        "classes_total": scores.class_count,
        "variants": [_variant_numbers(settings, scores, variant, boot) for variant in plan.job.variants],
        "classes": _class_numbers(attributes.class_names, attributes.seen, table.counts.summed(), boot),
        "confusions": _confusion_numbers(scores, attributes.class_names),
        "per_image": _image_numbers(table),
        "digests": {
            "scores": identity.digest(),
            "clip": plan.inputs.clip_digest,
            **{role: digest for role, digest in plan.inputs.digests.items() if role in identity.inputs},
        },
    }


def training_overlap(settings: Settings, evaluated: ScoresAttributes) -> str:
    """Say in one sentence what training knew of a data set: its very scenes, some of its classes, or nothing.

    Args:
        settings: Of all stages.
        evaluated: The data set and its classes.
    """
    learned = settings.proposal_net.dataset
    adapts = settings.evaluate.clip == "adapted"
    own = scenes_of(settings, evaluated.dataset).directory
    parts = []
    if not learned:
        parts.append("what the proposal net was trained on is not in these settings")
    elif (trained := scenes_of(settings, learned)).directory == own:
        parts.append("not zero-shot: the proposal net was trained on labels of these very scenes")
    else:
        taught = set(ScenesAttributes.of(trained).class_names) - set(settings.proposal_net.held_out_classes)
        known = sum(name in taught for name in evaluated.class_names)
        whose = (
            f"of its {len(evaluated.class_names)} classes {known} have the name of one that the proposal net learned"
        )
        parts.append(f"no label of these scenes was used in training; {whose} (on {learned})")
    if adapts and settings.finetune.pairs_dir:
        parts.append("what CLIP's pairs were mined from is not in these settings")
    elif adapts and settings.mine.dataset and scenes_of(settings, settings.mine.dataset).directory == own:
        parts.append("CLIP was adapted to pairs that were mined from these very scenes")
    if adapts and settings.mine.source == "masks-classes":
        parts.append(f"CLIP was adapted to the labelled classes of {settings.mine.dataset}")
    sentence = "; ".join(parts)
    return f"{sentence[0].upper()}{sentence[1:]}."


def number(value: Any) -> float | None:
    """Return a number as JSON has it; what does not exist is null."""
    return None if math.isnan(float(value)) else float(value)


def _bootstrapped(table: ImageCountTable, marks: Sequence[str], rounds: int) -> Bootstrapped | None:
    """Resample the images; None if there are none."""
    return bootstrap(table.counts, marks, rounds=rounds) if table.keys else None


def _variant_numbers(settings: Settings, scores: Scores, variant: Variant, main: Bootstrapped | None) -> Numbers:
    """Return metrics and intervals of one variant; a sweep's have no intervals, their curve is what counts."""
    marks = scores.attributes.seen
    table = scores.counts(variant.name)
    metrics = metrics_of(table.counts.summed(), marks)
    boot = main
    if variant.name != scores.attributes.main_variant:
        rounds = settings.evaluate.bootstrap_rounds
        boot = None if variant.section in _SWEPT else _bootstrapped(table, marks, rounds)
    intervals = (
        {} if boot is None else {name: _pair(boot.metrics[name].low, boot.metrics[name].high) for name in METRICS}
    )
    return {
        **variant.to_json(),
        "metrics": {name: number(metrics[name]) for name in METRICS},
        "intervals": intervals,
        "paper_miou_percent": paper_miou(settings, scores.attributes.vocabulary, variant),
    }


def _class_numbers(
    names: Sequence[str], marks: Sequence[str], counts: ClassCounts, boot: Bootstrapped | None
) -> list[Numbers]:
    """Return what is known of each class."""
    iou, boundary, accuracy = class_iou(counts), class_boundary_iou(counts), class_accuracy(counts)
    bounds = np.full((2, len(names)), np.nan) if boot is None else boot.class_iou
    return [
        {
            "index": index,
            "name": name,
            "mark": marks[index],
            "iou": number(iou[index]),
            "iou_interval": _pair(*bounds[:, index]),
            "boundary_iou": number(boundary[index]),
            "accuracy": number(accuracy[index]),
            "true_px": int(counts.true_px[index]),
            "predicted_px": int(counts.predicted_px[index]),
        }
        for index, name in enumerate(names)
    ]


def _confusion_numbers(scores: Scores, names: Sequence[str]) -> list[Numbers]:
    """Return the most frequent confusions, each with its share of the true class's pixels."""
    confusion = scores.confusion(scores.attributes.main_variant)
    true_px = confusion.sum(axis=1)
    return [
        {
            "true": names[true],
            "predicted": names[predicted],
            "true_index": true,
            "predicted_index": predicted,
            "pixels": pixels,
            "share_of_true": pixels / int(true_px[true]),
        }
        for true, predicted, pixels in top_confusions(confusion, CONFUSIONS)
    ]


def _image_numbers(table: ImageCountTable) -> list[Numbers]:
    """Return each image's mean IoU over the classes that it shows, and its pixel accuracy; the worst first."""
    each = metrics_of(table.counts, [""] * table.counts.true_px.shape[1])
    order: npt.NDArray[np.int64] = np.argsort(each["miou_present"], kind="stable")
    return [
        {"key": table.keys[row], "miou": number(each["miou_present"][row]), "pacc": number(each["pacc"][row])}
        for row in order.tolist()
        if not math.isnan(each["miou_present"][row])
    ]


def _pair(low: float, high: float) -> list[float | None]:
    """Return an interval as JSON has it."""
    return [number(low), number(high)]
