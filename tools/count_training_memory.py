"""Count the memory that a GPU needs for the paper's two trainings, by parts of a batch, with and without checkpointing.

Prints the table of docs/guides/train_proposals.md, as Markdown. A whole step is run on tensors that have shapes and no
numbers (torch's FakeTensorMode), and the bytes that are alive at a time are added up: weights, moments, gradients,
activations and what is made in between, in the forward and in the backward pass. Attention is counted as CUDA's
memory-efficient kernel. Not counted are CUDA itself, workspaces of its libraries, and gaps of the allocator: some GiB.
It takes minutes.

    python -m tools.count_training_memory
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ovseg_models import proposal_losses
from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.mask_adapted_clip import MaskAdaptedClip, select_trainable
from ovseg_models.masked_crops import normalised
from ovseg_models.matching import LossWeights, Matches, matching_costs
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.targets import TargetBatch, Targets
from pipeline.dry_run.crop_cost import EfficientAttention, LiveBytes
from pipeline.finetune.task import ImageSide
from pipeline.settings import Settings, load_settings
from tools.count_paper_work import CONFIGS, RUNS

CLASSES = 171  # of COCO-Stuff
CLASSES_OF_AN_IMAGE = 8
GPU_GIB = 78  # what a GPU of 80 GB has for torch


def peak_gib(build: Callable[[], nn.Module], step: Callable[[Any], Tensor]) -> float:
    """Return the most memory that is alive in a training step.

    Args:
        build: Makes the model.
        step: From the model, in training mode, to the loss of a part of a batch, whose tensors it makes by
            ``new_empty`` of the model's.
    """
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.device("meta"):  # without numbers too, but no autocast knows it
        model = build().train()
    with fake:
        model.to_empty(device="cpu")
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        moments = [torch.empty_like(parameter) for parameter in trained for _ in range(2)]
    live = LiveBytes()
    for tensor in (*model.parameters(), *model.buffers(), *moments):
        live.add(tensor)
    with live, EfficientAttention():
        step(model).backward()
    return live.peak / 2**30


def stage_1(settings: Settings, images: int, *, checkpointing: bool) -> float:
    """Return the GiB of a step of the proposal net on a part of a batch."""
    architecture, training = settings.proposal_net.architecture, settings.proposal_net.training
    side_px = training.augmentation.crop_px
    embedding_dim = 768 if "L-14" in settings.clip.architecture else 512

    def build() -> ProposalNet:
        net = build_proposal_net(**architecture.arguments() | {"pretrained": False, "embedding_dim": embedding_dim})
        net.set_grad_checkpointing(checkpointing)
        return net

    def step(net: ProposalNet) -> Tensor:
        empty = net.no_object_embedding.detach().new_empty
        pictures = empty(images, 3, side_px, side_px, dtype=torch.uint8)
        names = empty(CLASSES, embedding_dim)
        masks = [empty(CLASSES_OF_AN_IMAGE, side_px, side_px, dtype=torch.bool) for _ in range(images)]
        output = net(net.preprocess(pictures))
        logits = [net.class_logits(layer.proposal_embeddings, names) for layer in output.layers]
        # The assignment alone needs numbers; any has the same memory.
        with mock.patch.object(proposal_losses, "match_queries", first_queries):
            return proposal_losses.proposal_losses(
                output,
                logits,
                [Targets(torch.arange(CLASSES_OF_AN_IMAGE), mask) for mask in masks],
                image_size=(side_px, side_px),
                num_masks=images * CLASSES_OF_AN_IMAGE,
                query_weight=1.0,
                checkpointing=checkpointing,
            ).total

    return peak_gib(build, step)


def first_queries(
    mask_logits: Sequence[Tensor], class_logits: Sequence[Tensor], targets: TargetBatch, *, weights: LossWeights
) -> list[Matches]:
    """Compute all costs, as matching does, and give each image's targets its first queries."""
    with torch.no_grad():
        torch.stack(
            [
                matching_costs(masks, classes, targets, weights=weights)
                for masks, classes in zip(mask_logits, class_logits, strict=True)
            ]
        )
    images = torch.arange(len(targets.counts)).repeat_interleave(torch.tensor(targets.counts))
    numbers = torch.arange(len(images))
    return [Matches(images, numbers % CLASSES_OF_AN_IMAGE, numbers)] * len(mask_logits)


def stage_3(settings: Settings, mode: str, pairs: int, *, checkpointing: bool) -> float:
    """Return the GiB of a step of CLIP's adaptation on a part of a batch."""

    def build() -> ImageSide:
        clip = build_clip(settings.clip.architecture, quick_gelu=settings.clip.quick_gelu == "on")
        adapted = MaskAdaptedClip(clip, prompt_depth=settings.finetune.prompt_depth)
        select_trainable(adapted, "mpt" if mode == "mpt" else "ft", train_logit_scale=True)
        adapted.set_grad_checkpointing(checkpointing)
        return ImageSide(adapted, uses_prompts=mode == "mpt")

    def step(side: ImageSide) -> Tensor:
        adapted = side.adapted
        empty = adapted.logit_scale.detach().new_empty
        crops = empty(pairs, 3, adapted.crop_px, adapted.crop_px, dtype=torch.uint8)
        patches = empty(pairs, (adapted.crop_px // adapted.patch_px) ** 2, dtype=torch.bool)
        nouns = empty(pairs, adapted.embedding_dim)
        with half_precision(enabled=settings.finetune.precision in {"fp16", "bf16"}):
            embeddings = side(normalised(crops), patches)
        return contrastive_loss(embeddings, nouns, adapted.logit_scale.exp())

    return peak_gib(build, step)


@contextmanager
def half_precision(*, enabled: bool) -> Iterator[None]:
    """Compute in half precision as on CUDA."""
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
        yield


def table(rows: Sequence[tuple[str, int, Callable[..., float]]]) -> str:
    """Return a table in Markdown, two rows per training: without and with gradient checkpointing.

    The whole batch and a quarter of it are counted; others lie on the line through both, as memory grows with the part.
    """
    lines = [
        "| training | batch | whole | in 2 parts | in 4 parts | each sample | parts on 80 GB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, batch, gib in rows:
        for checkpointing in (False, True):
            whole, quarter = (gib(size, checkpointing=checkpointing) for size in (batch, batch // 4))
            sample = (whole - quarter) / (batch - batch // 4)
            fixed = whole - sample * batch
            parts = 1
            while fixed + sample * math.ceil(batch / parts) > GPU_GIB:
                parts *= 2
            label = f"{name}, checkpointing" if checkpointing else name
            cells = f"{whole:.1f} | {fixed + sample * batch / 2:.1f} | {quarter:.1f} | {1024 * sample:.0f} MiB"
            lines.append(f"| {label} | {batch} | {cells} | {parts} |")
            print(lines[-1], file=sys.stderr)  # it takes a while
    return "\n".join(lines)


def main() -> int:
    """Print the table; return the exit status."""
    rows: list[tuple[str, int, Callable[..., float]]] = []
    for run in RUNS:
        settings = load_settings(CONFIGS / f"{run}.toml")
        backbone = "Swin-B" if settings.proposal_net.architecture.backbone.is_swin else "R101c"
        training, adaptation = settings.proposal_net.training, settings.finetune
        label = f"stage 1, {backbone}, {training.augmentation.crop_px} px, {training.precision}"
        rows.append((label, training.batch_images, partial(stage_1, settings)))
        for mode, phase in (("ft", adaptation.ft), ("mpt", adaptation.mpt)):
            label = f"stage 3, {mode.upper()}, {settings.clip.architecture}, {adaptation.precision}"
            rows.append((label, phase.batch_pairs, partial(stage_3, settings, mode)))
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
