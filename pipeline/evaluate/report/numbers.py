"""All numbers of a report, as plain JSON values: the page, the Markdown and the JSON file say the same."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

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
from pipeline.evaluate.compare import compare_scores
from pipeline.evaluate.error_sources import error_sources
from pipeline.evaluate.overlap import overlap_numbers
from pipeline.evaluate.protocol import protocol
from pipeline.evaluate.report.paper import paper_miou
from pipeline.evaluate.score import Score
from pipeline.evaluate.stored_scores import ImageCountTable, Scores, json_number
from pipeline.evaluate.variants import Variant
from pipeline.graph import Node
from pipeline.settings import Settings, result_settings
from storage_schemas.digests import Json
from storage_schemas.scenes import ScenesAttributes

CONFUSIONS = 20
_SWEPT = frozenset({"weights", "thresholds"})

Numbers = dict[str, Any]


def report_numbers(
    settings: Settings,
    evaluations: Sequence[Node],
    choices: Mapping[str, Json] | None = None,
    *,
    clip_is_random: bool = False,
    baselines: Mapping[str, tuple[str, Scores]] = MappingProxyType({}),
) -> Numbers:
    """Compute the numbers of a report.

    Args:
        evaluations: Scores, one node per data set, each finished.
        choices: How well ensemble weights name mined validation pairs; None if that was not tried.
        clip_is_random: Whether CLIP's weights are random though the settings name others, as none could be
            downloaded; the report then says so.
        baselines: Name and scores of what is compared with, by the digest of their scenes.
    """
    given = settings
    if clip_is_random:
        settings = given.model_copy(update={"clip": given.clip.model_copy(update={"pretrained": "random"})})
    adaptation = None
    if settings.evaluate.clip == "adapted":  # what stage 3 did, and whether its CLIP reads fewer tokens
        dropped = ", tokens of blank patches dropped" if settings.finetune.blank_patches == "dropped" else ""
        adaptation = settings.finetune.mode + dropped
    return {
        "name": settings.name,
        "clip": settings.evaluate.clip,
        "adaptation": adaptation,
        "models": {
            "clip": f"{settings.clip.architecture} ({settings.clip.pretrained})",
            "proposal_net": (
                "imported masks"
                if settings.evaluate.proposals == "imported"
                else settings.proposal_net.architecture.backbone.name
            ),
        }
        if not evaluations or any("clip" in node for node in evaluations)
        else None,
        "bootstrap_rounds": settings.evaluate.bootstrap_rounds,
        "datasets": [
            dataset_numbers(settings, node, baselines.get(node.artifact.identity.inputs["scenes"]))
            for node in evaluations
        ],
        "weight_choice": choices,
        "settings": result_settings(given),
    }


def dataset_numbers(settings: Settings, node: Node, baseline: tuple[str, Scores] | None = None) -> Numbers:
    """Compute the numbers of one data set.

    Args:
        baseline: Name and scores of what is compared with, image by image.
    """
    scores = Scores(node.artifact)
    attributes = scores.attributes
    table = scores.counts(attributes.main_variant)
    summed = table.counts.summed()
    boot = _bootstrapped(table, attributes.seen, settings.evaluate.bootstrap_rounds)
    identity = node.artifact.identity
    step = cast("Score", node.step)
    return {
        "dataset": attributes.dataset,
        "vocabulary": attributes.vocabulary,
        "main_variant": attributes.main_variant,
        "training_overlap": training_overlap(settings, node),
        "images": len(table.keys),
        "failed": scores.failures(),
        "classes_total": scores.class_count,
        "variants": [_variant_numbers(settings, scores, variant, boot) for variant in step.variants],
        "classes": _class_numbers(attributes.class_names, attributes.seen, summed, boot),
        "confusions": _confusion_numbers(scores, attributes.class_names),
        "wrong_px": int(summed.true_px.sum() - summed.intersection_px.sum()),
        "per_image": _image_numbers(table),
        "protocol": protocol(
            scores.artifact,
            settings.evaluate,
            step.dataset.predictions,
            ignore_label=ScenesAttributes.of(node["scenes"].artifact).ignore_label,
        ),
        "overlap": overlap_numbers(node, settings) if settings.evaluate.audit_overlap else None,
        "error_sources": error_sources(scores, rounds=settings.evaluate.bootstrap_rounds),
        "comparison": None
        if baseline is None
        else comparison_numbers(*baseline, scores, rounds=settings.evaluate.bootstrap_rounds),
        "digests": {
            "scores": identity.digest(),
            **identity.inputs,
        },
    }


def comparison_numbers(name: str, baseline: Scores, scores: Scores, *, rounds: int) -> Numbers:
    """Compare an evaluation with another one of the same scenes: per metric, class and image.

    Args:
        name: Of the other one, as pages show it.
        baseline: The other one, which is "first" in every difference.
        rounds: Resamplings, each given to both.
    """
    found = compare_scores(baseline, scores, rounds=rounds).to_json()
    return {"baseline": name, "digest": baseline.artifact.identity.digest(), **found}


def training_overlap(settings: Settings, node: Node) -> str:
    """Return a sentence on what training knew of a data set: its very scenes, some of its classes, or nothing.

    Args:
        node: Scores of the data set; its inputs lead back to all that the nets were trained on.
    """
    if "clip" not in node:
        return "Predictions of another model, read from files: what it was trained on is not known here."
    own, class_names = node["scenes"].artifact, ScenesAttributes.of(node["scenes"].artifact).class_names
    parts = []
    if "proposal_net" in node:
        trained = node["proposal_net"]["scenes"].artifact
        if trained.directory == own.directory:
            parts.append("not zero-shot: the proposal net was trained on labels of these very scenes")
        else:
            taught = set(ScenesAttributes.of(trained).class_names) - set(settings.proposal_net.held_out_classes)
            known = sum(name in taught for name in class_names)
            whose = f"of its {len(class_names)} classes {known} have the name of one that the proposal net learned"
            parts.append(f"no label of these scenes was used in training; {whose} (on {settings.proposal_net.dataset})")
    if "adapted" in node:
        adapted = node["adapted"]
        pairs = (adapted.get("tuned") or adapted)["pairs"]  # weights may be averaged
        if "scenes" not in pairs:
            parts.append("what CLIP's pairs were mined from is not in these settings")
        elif pairs["scenes"].artifact.directory == own.directory:
            parts.append("CLIP was adapted to pairs that were mined from these very scenes")
        of_labels = settings.mine.source == "masks-classes" or settings.finetune.pair_source != "mined"
        if "scenes" in pairs and of_labels:
            parts.append(f"CLIP was adapted to the labelled classes of {settings.mine.dataset}")
    sentence = "; ".join(parts) or "no trained net takes part"
    return f"{sentence[0].upper()}{sentence[1:]}."


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
        "metrics": {name: json_number(metrics[name]) for name in METRICS},
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
            "iou": json_number(iou[index]),
            "iou_interval": _pair(*bounds[:, index]),
            "boundary_iou": json_number(boundary[index]),
            "accuracy": json_number(accuracy[index]),
            "true_px": int(counts.true_px[index]),
            "predicted_px": int(counts.predicted_px[index]),
        }
        for index, name in enumerate(names)
    ]


def _confusion_numbers(scores: Scores, names: Sequence[str]) -> list[Numbers]:
    """Return the most frequent confusions, each with its share of the true class's pixels."""
    confusion = scores.confusion(scores.attributes.main_variant)
    true_px = scores.counts(scores.attributes.main_variant).counts.summed().true_px  # those without a class, too
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
        {"key": table.keys[row], "miou": json_number(each["miou_present"][row]), "pacc": json_number(each["pacc"][row])}
        for row in order.tolist()
        if not math.isnan(each["miou_present"][row])
    ]


def _pair(low: float, high: float) -> list[float | None]:
    """Return an interval as JSON has it."""
    return [json_number(low), json_number(high)]
