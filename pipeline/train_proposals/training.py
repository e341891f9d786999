"""The training of stage 1: the net, what it learns from and is measured on, and what is written at its end."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.weights import text_tower_weights
from ovseg_models.weights_file import read_weights_file
from pipeline.clip_loading import LoadedClip, load_clip
from pipeline.errors import PipelineError
from pipeline.graph import Node
from pipeline.settings import ComputeSettings, ProposalNetSettings
from pipeline.shard_runner import Execution, StageReport
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.options import held_out_indices, initial_weights_file
from pipeline.train_proposals.report import write_report
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.train_proposals.task import ProposalTask, Vocabulary
from pipeline.train_proposals.validation import Validation
from pipeline.trained_nets import write_proposal_net
from pipeline.training.data_order import torch_seed
from pipeline.training.learning_rates import warmup_poly
from pipeline.training.loop import Plan, Trainer
from pipeline.training.metrics_log import METRICS_FILE, read_metrics
from pipeline.training.processes import Processes
from pipeline.training.stage import run_training
from storage_schemas.checkpoints import REPORT, WEIGHTS
from storage_schemas.digests import Json
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import ScenesAttributes

logger = logging.getLogger(__name__)


def train(settings: ProposalNetSettings, compute: ComputeSettings, node: Node, execution: Execution) -> StageReport:
    """Train the proposal net, as far as that is not complete.

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
        artifact = node.artifact
        task = proposal_task(settings, compute, node, processes)
        Trainer(task, loop_plan(settings, compute), artifact, processes).run()
        if not processes.is_first:
            return
        trained_on = node["scenes"].artifact
        class_names = ScenesAttributes.of(trained_on).class_names
        validations = read_metrics(artifact.local_directory / METRICS_FILE, "validation")
        last = validations[-1] if validations else {}
        facts: dict[str, Json] = {
            "steps": settings.training.steps,
            "class_names": list(class_names),
            "held_out_classes": [name for name in class_names if name in settings.held_out_classes],
            "validation": {name: value for name, value in last.items() if name != "group"},
        }
        weights = write_proposal_net(artifact, task.net, facts)
        report = write_report(artifact, task, trained_on, settings.held_out_classes)
        artifact.finish(artifact.manifest_of({WEIGHTS: weights, REPORT: report}))
        logger.info("proposal_net %s: trained over %d steps", artifact.identity.name, settings.training.steps)

    return run_training(node, compute, execution, train_net)


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
        raise PipelineError(f"proposal_net.training.gradient_checkpointing: {error}") from error
    validation: Validation | None = None
    held_out: tuple[int, ...] = ()
    if "validation" in node:
        measured_on = node["validation"].artifact
        names = ScenesAttributes.of(measured_on).class_names
        validation = Validation(
            SceneCollection(measured_on, labelled=True),
            tower.embeddings(names, settings.prompt_templates),
            ScenesAttributes.of(measured_on).ignore_label,
            settings.validation_short_side_px,
            settings.validation_max_side_px,
        )
        # By name: the validation scenes may be of another vocabulary, with some of the held-out classes or none.
        held_out = tuple(index for index, name in enumerate(names) if name in settings.held_out_classes)
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
        channels_last=compute.channels_last,
    )


@dataclass(frozen=True)
class TextTower:
    """What stage 1 takes from CLIP.

    Attributes:
        width: Of the text transformer; it scales the no-object embedding at the start.
        classifier: Embeds class names.
    """

    width: int
    classifier: TextClassifier

    @classmethod
    def of(cls, loaded: LoadedClip, device: torch.device) -> "TextTower":
        """Take the text tower of a loaded CLIP, which is moved to a device."""
        # Tokenizers and towers differ; the token embedding [vocabulary width] is the one tensor that all of them have.
        (tokens,) = (
            tensor
            for name, tensor in text_tower_weights(loaded.clip).items()
            if name.endswith("token_embedding.weight")
        )
        return cls(tokens.shape[1], TextClassifier(loaded.clip.to(device), loaded.tokenize))

    def embeddings(self, class_names: Sequence[str], templates: str) -> Float[Tensor, "name dim"]:
        """Embed class names in the sentences that a setting names; L2-normalised, without gradient."""
        return self.classifier.text_embeddings(class_names, prompt_templates(templates)).detach()


def initial_net(settings: ProposalNetSettings, *, embedding_dim: int, text_width: int) -> ProposalNet:
    """Build the net as training finds it: random but for what the settings name.

    Args:
        embedding_dim: Of CLIP's space.
        text_width: Of CLIP's text transformer.

    Returns:
        A net in training mode on the CPU, the same for equal settings.

    Raises:
        PipelineError: If the backbone is unknown, or weights are not available or do not fit.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(settings.training.seed, "initial net"))
        try:
            net = build_proposal_net(
                **settings.architecture.arguments(), embedding_dim=embedding_dim, no_object_std=text_width**-0.5
            )
        except (ValueError, OSError, RuntimeError) as error:
            raise PipelineError(f"proposal_net.architecture: {error}") from error
    start = initial_weights_file(settings)
    if start is not None:
        try:
            net.load_state_dict({name: tensor.float() for name, tensor in read_weights_file(start).items()})
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())  # torch lists the tensors that differ over many lines
            raise PipelineError(
                f"proposal_net.initial_weights: {start} does not fit proposal_net.architecture ({reason}); change one"
            ) from error
    return net


def loop_plan(settings: ProposalNetSettings, compute: ComputeSettings) -> Plan:
    """Return the numbers of the run that the loop needs."""
    training = settings.training
    validated = bool(settings.validation_dataset)
    return Plan(
        steps=training.steps,
        seed=training.seed,
        schedule=warmup_poly(
            steps=training.steps,
            warmup_steps=training.warmup_steps,
            warmup_factor=training.warmup_factor,
            power=training.poly_power,
        ),
        gradient_clip_norm=training.gradient_clip_norm,
        accumulation_parts=training.accumulation_steps,
        precision=training.precision,
        compile=compute.compile,
        loader_workers=compute.loader_workers,
        checkpoint_every=training.checkpoints.every_steps,
        keep_last=training.checkpoints.keep_last,
        validate_every=settings.validation_every_steps if validated else 0,
        best_by="miou" if validated else "",
        section="proposal_net.training",
        trackers=compute.trackers,
    )
