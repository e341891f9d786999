"""Stage 1: trains the proposal net to find regions and to describe each in CLIP's space.

Reads ``scenes`` with labels and CLIP's text tower; writes ``proposal_net``.
"""

import contextlib
import logging
import time

import torch

from pipeline.clip_loading import load_clip
from pipeline.planning import plan_of_proposal_net
from pipeline.proposal_net_loading import WEIGHTS, write_proposal_net
from pipeline.settings import AugmentationSettings, ProposalNetSettings, Settings, writable_runs_dir
from pipeline.shard_runner import StageReport
from pipeline.stage_inputs import prepare_missing
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.held_out import check_held_out
from pipeline.train_proposals.net import TextTower, initial_net
from pipeline.train_proposals.plan import REPORT, ProposalNetPlan
from pipeline.train_proposals.report import write_report
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.train_proposals.task import ProposalTask, Vocabulary
from pipeline.train_proposals.validation import Validation
from pipeline.training.loop import Plan, Trainer
from pipeline.training.metrics import METRICS_FILE, read_metrics
from pipeline.training.processes import Processes, joined
from pipeline.training.schedules import WarmupPoly
from storage_schemas.digests import Json
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes

logger = logging.getLogger(__name__)


def train_proposals(settings: Settings) -> StageReport:
    """Train the proposal net of the settings, as far as that is not done.

    Scenes that are missing are prepared first. Started by ``torchrun``, all its processes train together; the first
    writes. A run that was stopped goes on from its newest checkpoint.

    Raises:
        PipelineError: If the settings don't fit the data, or weights or devices are not to be had.
        StageError: If the loss is not finite, or the device's memory runs out.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """
    started = time.monotonic()
    with joined(settings.compute.device, settings.compute.threads_per_worker) as processes:
        if processes.is_first:
            section = settings.proposal_net
            check_held_out(settings)
            prepare_missing(settings, (section.dataset, section.validation_dataset))
        processes.wait()
        plan = plan_of_proposal_net(settings)
        units = len(plan.artifact.description.units)
        todo = processes.from_first(_todo(plan) if processes.is_first else 0)
        if todo:
            _train(settings, plan, processes)
        elif processes.is_first:
            logger.info("proposal_net %s: was trained before; nothing to do", settings.name)
    return StageReport(plan.artifact, plan.artifact.manifest(), todo, units - todo, time.monotonic() - started)


def _todo(plan: ProposalNetPlan) -> int:
    """Count the units that are not done; at least 1 where the artifact is not finished."""
    status = plan.artifact.status()
    return 0 if status.finished else max(1, len(status.todo))


def _train(settings: Settings, plan: ProposalNetPlan, processes: Processes) -> None:
    """Train to the last step and finish the artifact."""
    with contextlib.ExitStack() as held:
        if processes.is_first:
            writable_runs_dir(settings.runs_dir)
            held.enter_context(plan.artifact.writing(wait_s=settings.compute.wait_s))
        processes.wait()  # a run that is refused ends here
        task = proposal_task(settings, plan, processes)
        Trainer(task, loop_plan(settings), plan.artifact, processes).run()
        if processes.is_first:
            _finish(plan, task)
        processes.wait()


def proposal_task(settings: Settings, plan: ProposalNetPlan, processes: Processes) -> ProposalTask:
    """Build the net and what it is trained and measured on.

    Raises:
        PipelineError: If CLIP, the backbone or weights to start from are not to be had, or do not fit.
    """
    section = settings.proposal_net
    tower = TextTower.of(load_clip(settings.clip))
    embeddings = tower.embeddings(plan.labels.class_names, section.prompt_templates).to(processes.device)
    net = initial_net(section, embedding_dim=embeddings.shape[1], text_width=tower.width).to(processes.device)
    if settings.compute.channels_last:
        net = net.to(memory_format=torch.channels_last)
    validation, held_out = _validation(plan, section, tower, processes)
    return ProposalTask(
        net=net,
        settings=section.training,
        samples=ProposalSamples(
            SceneCollection(plan.scenes, labelled=True),
            _augmentation(section.training.augmentation, plan.labels.ignore_label),
            section.training.seed,
            plan.held_out,
        ),
        vocabulary=Vocabulary.without(plan.held_out, embeddings),
        validation=validation,
        held_out=held_out,
        processes=processes,
        loader_workers=settings.compute.loader_workers,
        channels_last=settings.compute.channels_last,
    )


def _augmentation(settings: AugmentationSettings, ignore_label: int) -> Augmentation:
    """Return how samples are varied."""
    return Augmentation(settings.short_sides_px, settings.max_side_px, settings.crop_px, ignore_label, settings.colours)


def _validation(
    plan: ProposalNetPlan, settings: ProposalNetSettings, tower: TextTower, processes: Processes
) -> tuple[Validation | None, tuple[int, ...]]:
    """Return what the net is measured on, and which of its classes are held out, by their names."""
    if plan.validation is None:
        return None, ()
    labels = ScenesAttributes.of(plan.validation)
    embeddings = tower.embeddings(labels.class_names, settings.prompt_templates).to(processes.device)
    names = {plan.labels.class_names[index] for index in plan.held_out}
    held_out = tuple(index for index, name in enumerate(labels.class_names) if name in names)
    scenes = SceneCollection(plan.validation, labelled=True)
    validation = Validation(
        scenes, embeddings, labels.ignore_label, settings.validation_short_side_px, settings.validation_max_side_px
    )
    return validation, held_out


def loop_plan(settings: Settings) -> Plan:
    """Return the numbers of the run that the loop needs."""
    training = settings.proposal_net.training
    schedule = WarmupPoly(training.steps, training.warmup_steps, training.warmup_factor, training.poly_power)
    validated = bool(settings.proposal_net.validation_dataset)
    return Plan(
        steps=training.steps,
        seed=training.seed,
        schedule=schedule,
        gradient_clip_norm=training.gradient_clip_norm,
        accumulation_parts=training.accumulation_steps,
        precision=training.precision,
        compile=settings.compute.compile,
        checkpoint_every=training.checkpoints.every_steps,
        keep_last=training.checkpoints.keep_last,
        validate_every=settings.proposal_net.validation_every_steps if validated else 0,
        best_by="miou" if validated else "",
        lower_on_memory_error="proposal_net.training.batch_images or augmentation.crop_px",
    )


def _finish(plan: ProposalNetPlan, task: ProposalTask) -> None:
    """Write weights and report of a trained net, then the manifest."""
    artifact, metrics = plan.artifact, plan.artifact.local_directory / METRICS_FILE
    validations = read_metrics(metrics, "validation")
    facts: dict[str, Json] = {
        "steps": task.settings.steps,
        "class_names": list(plan.labels.class_names),
        "held_out_classes": [plan.labels.class_names[index] for index in plan.held_out],
        "validation": {name: value for name, value in validations[-1].items() if name != "group"}
        if validations
        else {},
    }
    sidecars = {WEIGHTS: write_proposal_net(artifact, task.net, facts), REPORT: write_report(artifact, task, plan)}
    artifact.finish(artifact.manifest_of(sidecars))
    logger.info("proposal_net %s: trained over %d steps", artifact.identity.name, task.settings.steps)
