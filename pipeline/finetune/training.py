"""The training of stage 3: its phases, what they share, and what is written at their end."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ovseg_models.encoding import embed_crops
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.one_pass import OnePass
from ovseg_models.precision import single_precision
from ovseg_models.prompt_templates import VILD, prompt_templates
from ovseg_models.text_classifier import TextClassifier, causal_with_room
from pipeline.clip_loading import LoadedClip, load_clip, namer_of
from pipeline.errors import PipelineError
from pipeline.finetune.hard_negatives import HardNouns
from pipeline.finetune.phases import Phase, phases_of
from pipeline.finetune.picture_samples import PictureSamples
from pipeline.finetune.report import Training, write_report
from pipeline.finetune.samples import PairSamples
from pipeline.finetune.task import FinetuneTask, ImageSide, accuracies
from pipeline.finetune.validation import Validation, seen_groups
from pipeline.graph import Node
from pipeline.settings import ComputeSettings, FinetuneSettings
from pipeline.shard_runner import Execution, StageReport
from pipeline.text_embeddings import TextSource
from pipeline.text_side import TemplateWeights, TextPrompts, TextSide, sentence_embeddings
from pipeline.trained_nets import new_mask_adapted_clip, stock_mask_adapted_clip, write_adapted_clip
from pipeline.training.loop import Plan, Trainer
from pipeline.training.processes import Processes
from pipeline.training.stage import run_training
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import MASK_PROMPTS, MASK_QUERIES, Checkpoint, CheckpointStore
from storage_schemas.digests import Json
from storage_schemas.pair_collection import JoinedPairs, PairCollection, Pairs
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes

logger = logging.getLogger(__name__)

_START = "start"
_NOUN_EMBEDDINGS = "noun_embeddings"


def train(
    settings: FinetuneSettings,
    compute: ComputeSettings,
    node: Node,
    execution: Execution,
    *,
    left_out: Sequence[str] = (),
) -> StageReport:
    """Adapt CLIP, as far as that is not done.

    Validation scenes that are missing are prepared first. Started by ``torchrun``, all its processes train together;
    the first writes. A run that was stopped goes on from its newest checkpoint, in whichever phase that is.

    Args:
        node: What, and from what.
        execution: How missing scenes are prepared.
        left_out: Classes of the labels that make no pairs.

    Raises:
        MissingInputError: If the pairs are not finished.
        PipelineError: If the settings don't fit the pairs, or weights or devices are not available.
        StageError: If the loss is not finite, or the device's memory runs out.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """

    def train_phases(processes: Processes) -> None:
        artifact = node.artifact
        inputs = gather_inputs(settings, node, processes, left_out=left_out)
        phases = phases_of(settings)
        text_side = run_phases(phases, inputs, settings, compute, artifact, processes)
        if processes.is_first:
            training = Training(artifact=artifact, phases=phases, pairs=inputs.pairs, before=inputs.before)
            report = write_report(training, node, inputs.base, inputs.adapted)
            facts: dict[str, Json] = {"mode": settings.mode}
            if settings.namer != "crops":
                facts["namer"] = settings.namer
            written = {report.unit: report}
            write_adapted_clip(artifact, inputs.adapted, inputs.base, facts, text_side=text_side, written=written)

    return run_training(node, compute, execution, train_phases)


class Inputs(NamedTuple):
    """What all phases share.

    Attributes:
        base: Stock CLIP, on the CPU.
        adapted: What is trained, on its device.
        one_pass: Of the same; None where crops are named.
        scenes: The pictures of the pairs; None where crops are named.
        pairs: To train on.
        validation: To measure on; None for nothing.
        noun_embeddings: L2-normalised, of the pairs' nouns [noun dim], on the device; one per sentence where these are
            weighted [noun sentence dim].
        before: Accuracies of stock CLIP on the validation scenes; empty without.
    """

    base: LoadedClip
    adapted: MaskAdaptedClip
    one_pass: OnePass | None
    scenes: SceneCollection | None
    pairs: Pairs
    validation: Validation | None
    noun_embeddings: Tensor
    before: Mapping[str, float]


def run_phases(
    phases: tuple[Phase, ...],
    inputs: Inputs,
    settings: FinetuneSettings,
    compute: ComputeSettings,
    artifact: Artifact,
    processes: Processes,
) -> TextSide | None:
    """Train one phase after another; those that are done only have their weights loaded.

    A phase ends with a checkpoint of all that it trained, and the next one begins with these weights and a new
    optimizer, so that a stop at the switch is a stop like any other.

    Returns:
        What a phase trained of what crops are compared with; None for nothing.

    Raises:
        PipelineError: If the pairs don't fill a batch.
        StageError: If the loss is not finite, or the device's memory runs out.
    """
    adapted, original, original_one_pass, hard_nouns = inputs.adapted, None, None, None
    text_side: TextSide | None = None
    if settings.holding.form != "none":
        original = stock_mask_adapted_clip(inputs.base).to(processes.device).requires_grad_(False)
        found = namer_of(original, settings, where="finetune")
        original_one_pass = found if isinstance(found, OnePass) else None
    if settings.hard_negatives.count:
        of_nouns = inputs.noun_embeddings
        if of_nouns.ndim == 3:  # one embedding per sentence
            of_nouns = functional.normalize(of_nouns.sum(dim=1), dim=-1)
        hard_nouns = HardNouns.of(inputs.pairs, of_nouns.cpu().numpy(), **settings.hard_negatives.model_dump())
    for phase in phases:
        crops = PairSamples(
            inputs.pairs,
            min_scale=settings.augmentation.min_scale,
            max_aspect=settings.augmentation.max_aspect,
            seed=phase.seed,
            crop=adapted.crop,
            with_unmasked=original is not None and "ft" in phase.parts,
            hard_nouns=hard_nouns,
        )
        samples: PairSamples | PictureSamples = crops
        if inputs.one_pass is not None and inputs.scenes is not None:
            samples = PictureSamples(
                crops=replace(crops, with_unmasked=settings.holding.form == "embeddings"),
                scenes=inputs.scenes,
                side_px=inputs.one_pass.side_px,
                grid=inputs.one_pass.grid,
            )
        task = FinetuneTask(
            adapted=adapted,
            phase=phase,
            samples=samples,
            one_pass=inputs.one_pass,
            original_one_pass=original_one_pass,
            noun_embeddings=inputs.noun_embeddings,
            noun_tokens=inputs.base.tokenize(list(inputs.pairs.nouns)).to(processes.device),
            loss=settings.loss,
            holding=settings.holding if original is not None else None,
            original=original,
            train_logit_scale=settings.train_logit_scale,
            validation=inputs.validation,
            processes=processes,
        )
        plan = loop_plan(phase, task, settings, compute)
        if processes.is_first:
            logger.info("phase %d of %d: %s, %d steps", phase.number, len(phases), phase.mode, plan.steps)
        Trainer(task, plan, artifact, processes, run=phase.run).run()
        if task.model.template_weights is not None:
            text_side = TemplateWeights.trained(
                prompt_templates(settings.prompt_templates), task.model.template_weights, adapted.logit_scale
            )
        if task.model.text_prompts is not None:
            text_side = TextPrompts(task.model.text_prompts.detach().cpu().numpy().copy())
    return text_side


def gather_inputs(
    settings: FinetuneSettings, node: Node, processes: Processes, *, left_out: Sequence[str] = ()
) -> Inputs:
    """Load CLIP and the pairs, and embed their nouns once; a run that goes on reads these embeddings back.

    Args:
        node: What, and from what.
        processes: The processes that train together.
        left_out: Classes of the labels that make no pairs.

    Raises:
        PipelineError: If CLIP is not available, or cannot take the prompts.
    """
    base = load_clip(node.clip.settings)
    depth = settings.prompt_depth if MASK_PROMPTS in node.artifact.description.units else 0
    adapted = new_mask_adapted_clip(
        base,
        prompt_depth=depth,
        prompt_seed=settings.seed,
        mask_queries=MASK_QUERIES in node.artifact.description.units,
        blank_patches=settings.blank_patches,
    ).to(processes.device)
    namer = namer_of(adapted, settings, where="finetune")
    one_pass = namer if isinstance(namer, OnePass) else None
    adapted.set_grad_checkpointing(settings.gradient_checkpointing)
    of_node = PairCollection(node["pairs"].artifact, left_out if settings.pair_source == "ground-truth" else ())
    pairs: Pairs = of_node
    if "ground_truth" in node:
        pairs = JoinedPairs((of_node, PairCollection(node["ground_truth"].artifact, left_out)))
    if "text" in settings.phases:
        try:
            causal_with_room(base.clip, base.tokenize(list(pairs.nouns)), settings.text.length)
        except (TypeError, ValueError) as error:
            raise PipelineError(f"finetune: {error}") from error
    pictures = None if one_pass is None else pictures_of(pairs, node["scenes"].artifact)
    validation = validation_of(node, adapted, base, one_pass) if "validation" in node else None
    # What is known before the first step is a checkpoint of its own: the embeddings of all nouns, and the accuracies of
    # stock CLIP. The first process says whether it is there; the others might look while it writes.
    store = CheckpointStore(node.artifact, _START)
    start = store.latest() if processes.is_first else None
    if not processes.from_first(int(start is not None)):
        before = {}
        if validation is not None:
            with single_precision(processes.device, settings.precision):
                untuned = ImageSide(adapted, uses_prompts=False, one_pass=one_pass)
                before = accuracies(
                    validation,
                    untuned if one_pass else lambda crops, _: embed_crops(adapted, crops, at_once=len(crops)),
                    processes,
                )
        if processes.is_first:
            clip = replace(base, clip=adapted.clip)  # the copy on the device; its text tower is never trained
            if any("psm" in phase for phase in settings.phases):
                sentences = prompt_templates(settings.prompt_templates)
                embeddings = sentence_embeddings(clip, pairs.nouns, sentences, processes.device)
            else:
                texts = TextSource.of(node, settings.prompt_templates).open(processes.device, clip)
                embeddings = texts.vectors(pairs.nouns)  # known ones, as mining had with these sentences, are copied
            store.prepare()
            store.save(Checkpoint(step=0, tensors={_NOUN_EMBEDDINGS: embeddings}, facts={"validation": before}))
            listed = ", ".join(f"{name} {value:.4f}" for name, value in before.items())
            logger.info(
                "%d pairs of %d nouns; validation before training: %s", len(pairs), len(pairs.nouns), listed or "none"
            )
        processes.wait()
    start = start or store.load(0)
    nouns = torch.from_numpy(start.tensors[_NOUN_EMBEDDINGS]).to(processes.device)
    measured: Any = start.facts["validation"]
    return Inputs(base, adapted, one_pass, pictures, pairs, validation, nouns, measured)


def pictures_of(pairs: Pairs, artifact: Artifact) -> SceneCollection:
    """Return the scenes that pairs are of.

    Raises:
        PipelineError: If one is not there.
    """
    scenes = SceneCollection(artifact)
    if absent := next((key for key in pairs.pictures if key not in scenes.numbers), None):
        raise PipelineError(
            f"finetune.namer: 'one-pass' reads the pictures of pairs from mine.dataset, which has no {absent!r}; "
            "set mine.dataset to the data set that the pairs were mined from"
        )
    return scenes


def validation_of(node: Node, adapted: MaskAdaptedClip, base: LoadedClip, one_pass: OnePass | None) -> Validation:
    """Return what is measured after each epoch: all class names of the validation scenes, by stock CLIP's texts."""
    scenes = node["validation"].artifact
    labels = ScenesAttributes.of(scenes)
    classifier = TextClassifier(adapted.clip, base.tokenize)
    return Validation(
        scenes=SceneCollection(scenes, labelled=True),
        text_embeddings=classifier.text_embeddings(labels.class_names, VILD),  # the reference's 14 sentences
        groups=seen_groups(labels.seen),
        crop=adapted.crop,
        one_pass=one_pass,
    )


def loop_plan(phase: Phase, task: FinetuneTask, settings: FinetuneSettings, compute: ComputeSettings) -> Plan:
    """Return the numbers of a phase's run that the loop needs.

    Raises:
        PipelineError: If the pairs don't fill a batch.
    """
    pairs = len(task.samples.pairs)
    try:
        order = phase.order(pairs)
    except ValueError as error:
        section = phase.mode if phase.mode in {"mpt", "psm", "text"} else "ft"
        message = f"finetune.{section}.batch_pairs: {error}, or mine more scenes"
        raise PipelineError(message) from error
    return Plan(
        steps=phase.steps(pairs),
        seed=phase.seed,
        schedule=phase.schedule(pairs),
        accumulation_parts=settings.accumulation_steps,
        precision=settings.precision,
        compile=compute.compile,
        loader_workers=compute.loader_workers,
        checkpoint_every=settings.checkpoints.every_steps,
        keep_last=settings.checkpoints.keep_last,
        validate_every=order.steps_per_epoch if task.validation is not None else 0,
        section="finetune",
        trackers=compute.trackers,
    )
