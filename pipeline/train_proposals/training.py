"""The training of stage 1: the net, what it learns from and is measured on, and what is written at its end."""

import logging

import torch

from pipeline.clip_loading import load_clip
from pipeline.errors import PipelineError
from pipeline.graph import Node
from pipeline.proposal_net_loading import write_proposal_net
from pipeline.settings import ComputeSettings, ProposalNetSettings
from pipeline.shard_runner import Execution, StageReport
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.held_out import held_out_indices
from pipeline.train_proposals.net import TextTower, initial_net
from pipeline.train_proposals.report import write_report
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.train_proposals.task import ProposalTask, Vocabulary
from pipeline.train_proposals.validation import Validation
from pipeline.training.loop import Plan, Trainer
from pipeline.training.metrics import METRICS_FILE, read_metrics
from pipeline.training.processes import Processes
from pipeline.training.schedules import WarmupPoly
from pipeline.training.stage import trained
from storage_schemas.checkpoints import REPORT, WEIGHTS
from storage_schemas.digests import Json
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes

logger = logging.getLogger(__name__)


def train(settings: ProposalNetSettings, compute: ComputeSettings, node: Node, execution: Execution) -> StageReport:
    """Train the proposal net, as far as that is not done.

    Scenes that are missing are prepared first. Started by ``torchrun``, all its processes train together; the first
    writes. A run that was stopped goes on from its newest checkpoint.

    Args:
        node: What, and from what.
        execution: How missing scenes are prepared.

    Raises:
        PipelineError: If the settings don't fit the data, or weights or devices are not available.
        StageError: If the loss is not finite, or the device's memory runs out.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """

    def train_net(processes: Processes) -> None:
        task = proposal_task(settings, compute, node, processes)
        Trainer(task, loop_plan(settings, compute), node.artifact, processes).run()
        if processes.is_first:
            _finish(settings, node, task)

    return trained(node, compute, execution, train_net)


def proposal_task(
    settings: ProposalNetSettings, compute: ComputeSettings, node: Node, processes: Processes
) -> ProposalTask:
    """Build the net and what it is trained and measured on.

    Raises:
        PipelineError: If CLIP, the backbone or weights to start from are not available, or do not fit.
    """
    scenes = node["scenes"].artifact
    labels = ScenesAttributes.of(scenes)
    held_out_of_scenes = held_out_indices(settings.held_out_classes, labels.class_names)
    tower = TextTower.of(load_clip(node.clip.settings), processes.device)
    embeddings = tower.embeddings(labels.class_names, settings.prompt_templates)
    net = initial_net(settings, embedding_dim=embeddings.shape[1], text_width=tower.width).to(processes.device)
    if compute.channels_last:
        net = net.to(memory_format=torch.channels_last)
    try:
        net.set_grad_checkpointing(settings.training.gradient_checkpointing)
    except ValueError as error:
        message = f"proposal_net.training.gradient_checkpointing: {error}"
        raise PipelineError(message) from error
    validation, held_out = _validation(node, settings, tower, processes)
    varied = settings.training.augmentation
    return ProposalTask(
        net=net,
        settings=settings.training,
        samples=ProposalSamples(
            SceneCollection(scenes, labelled=True),
            Augmentation(
                varied.short_sides_px, varied.max_side_px, varied.crop_px, labels.ignore_label, varied.colours
            ),
            settings.training.seed,
            held_out_of_scenes,
        ),
        vocabulary=Vocabulary.without(held_out_of_scenes, embeddings),
        validation=validation,
        held_out=held_out,
        processes=processes,
        loader_workers=compute.loader_workers,
        channels_last=compute.channels_last,
    )


def _validation(
    node: Node, settings: ProposalNetSettings, tower: TextTower, processes: Processes
) -> tuple[Validation | None, tuple[int, ...]]:
    """Return what the net is measured on, and which of its classes are held out, by their names."""
    if "validation" not in node:
        return None, ()
    scenes = node["validation"].artifact
    labels = ScenesAttributes.of(scenes)
    embeddings = tower.embeddings(labels.class_names, settings.prompt_templates)
    validation = Validation(
        SceneCollection(scenes, labelled=True),
        embeddings,
        labels.ignore_label,
        settings.validation_short_side_px,
        settings.validation_max_side_px,
    )
    held_out = (index for index, name in enumerate(labels.class_names) if name in settings.held_out_classes)
    return validation, tuple(held_out)


def loop_plan(settings: ProposalNetSettings, compute: ComputeSettings) -> Plan:
    """Return the numbers of the run that the loop needs."""
    training = settings.training
    schedule = WarmupPoly(training.steps, training.warmup_steps, training.warmup_factor, training.poly_power)
    validated = bool(settings.validation_dataset)
    return Plan(
        steps=training.steps,
        seed=training.seed,
        schedule=schedule,
        gradient_clip_norm=training.gradient_clip_norm,
        accumulation_parts=training.accumulation_steps,
        precision=training.precision,
        compile=compute.compile,
        checkpoint_every=training.checkpoints.every_steps,
        keep_last=training.checkpoints.keep_last,
        validate_every=settings.validation_every_steps if validated else 0,
        best_by="miou" if validated else "",
        section="proposal_net.training",
    )


def _finish(settings: ProposalNetSettings, node: Node, task: ProposalTask) -> None:
    """Write weights and report of a trained net, then the manifest."""
    artifact = node.artifact
    class_names = ScenesAttributes.of(node["scenes"].artifact).class_names
    metrics = artifact.local_directory / METRICS_FILE
    validations = read_metrics(metrics, "validation")
    facts: dict[str, Json] = {
        "steps": task.settings.steps,
        "class_names": list(class_names),
        "held_out_classes": [name for name in class_names if name in settings.held_out_classes],
        "validation": {name: value for name, value in validations[-1].items() if name != "group"}
        if validations
        else {},
    }
    weights = write_proposal_net(artifact, task.net, facts)
    report = write_report(artifact, task, node["scenes"].artifact, settings.held_out_classes)
    artifact.finish(artifact.manifest_of({WEIGHTS: weights, REPORT: report}))
    logger.info("proposal_net %s: trained over %d steps", artifact.identity.name, task.settings.steps)
