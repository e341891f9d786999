"""Sizes of the nets, from which steps estimate what their artifacts take."""

import torch

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.clip_loading import architecture_of
from pipeline.graph import ParameterCounts
from pipeline.settings import Settings


def parameter_counts(settings: Settings) -> ParameterCounts:
    """Build both nets without any number in them, and count.

    Raises:
        PipelineError: If an architecture's file cannot be read.
        ValueError: If an architecture is unknown.
    """
    with torch.device("meta"):
        model, _ = architecture_of(settings.clip.architecture)
        clip = build_mask_adapted_clip(model, None, prompt_depth=settings.finetune.prompt_depth)
        dim = int(clip.clip.visual.output_dim)
        arguments = settings.proposal_net.architecture.arguments() | {"pretrained": False, "embedding_dim": dim}
        net = build_proposal_net(**arguments)
    return ParameterCounts(
        proposal_net=sum(each.numel() for each in net.parameters()),
        image_tower=sum(each.numel() for each in clip.clip.visual.parameters()),
        mask_prompts=0 if clip.mask_prompts is None else clip.mask_prompts.numel(),
        embedding_dim=dim,
    )
