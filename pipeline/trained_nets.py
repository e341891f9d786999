"""The nets that stages 1 and 3 train, as artifacts of weights: written by these stages, read by all that use them.

``proposal_net`` has one unit, ``weights``: all tensors of the net, and the arguments to build it again as facts.

``adapted_clip`` holds only what training changed; the rest, such as the text tower, comes from the CLIP that was
adapted. Unit ``image_tower`` holds ``clip.visual.*``, ``clip.logit_scale`` and a sigmoid model's ``clip.logit_bias``,
unit ``mask_prompts`` holds ``mask_prompts``, unit ``mask_queries`` holds ``mask_queries.*``, each only where a phase
trained it; scale and bias are with prompts or queries where these alone were trained. Unit ``template_weights`` or
``text_prompts`` holds what was trained of the text side (see `pipeline.text_side`).

Both may have other units, such as a report, which are passed over here.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from ovseg_models.checkpoint_keys.key_report import take_tensors
from ovseg_models.mask_adapted_clip import BlankPatches, MaskAdaptedClip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.clip_loading import LoadedClip
from pipeline.errors import PipelineError
from pipeline.text_side import TemplateWeights, TextSide
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import (
    ADAPTED_CLIP,
    IMAGE_TOWER,
    MASK_PROMPTS,
    MASK_QUERIES,
    PROPOSAL_NET,
    WEIGHTS,
    read_weights,
    write_weights,
)
from storage_schemas.digests import Json
from storage_schemas.manifest import Manifest, Sidecar

_TOWER_PREFIX, _OF_LOGITS = "clip.visual.", ("clip.logit_scale", "clip.logit_bias")


def write_proposal_net(artifact: Artifact, net: ProposalNet, facts: Mapping[str, Json]) -> Sidecar:
    """Write a net as the unit of weights; the artifact has to be held for writing.

    Args:
        artifact: Of kind ``proposal_net``.
        net: Built by `build_proposal_net`, on any device.
        facts: What else to record, such as what it was trained on; ``"arguments"`` is added.

    Raises:
        ValueError: If the net was not built from arguments.
        WriteError: If the operating system refuses.
    """
    if not net.arguments:
        raise ValueError("write_proposal_net: the net has no arguments to be built again from; use build_proposal_net")
    tensors = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in net.state_dict().items()}
    arguments: Any = net.arguments
    return write_weights(artifact, WEIGHTS, tensors, {**facts, "arguments": arguments})


def load_proposal_net(artifact: Artifact, device: str | torch.device = "cpu") -> ProposalNet:
    """Build the net of a finished artifact, in evaluation mode.

    Args:
        artifact: Of kind ``proposal_net``.
        device: Where to put it.

    Raises:
        PipelineError: If its weights don't fit the net that its facts describe.
        ArtifactError: If it is of another kind, not finished, or a file of it is not what was written.
    """
    artifact.require(PROPOSAL_NET)
    (facts,) = (unit.facts for unit in artifact.manifest().units if unit.unit == WEIGHTS)
    arguments: Any = facts["arguments"]
    tensors = {name: torch.from_numpy(array) for name, array in read_weights(artifact, WEIGHTS).items()}
    try:
        net = build_proposal_net(**arguments)
        net.load_state_dict(tensors)
    except (ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise PipelineError(
            f"{artifact.directory}: its weights do not fit this version's net ({reason}); train it again"
        ) from error
    return net.eval().to(device)


def new_mask_adapted_clip(
    base: LoadedClip,
    *,
    prompt_depth: int,
    prompt_seed: int | None = None,
    mask_queries: bool = False,
    blank_patches: BlankPatches = "kept",
) -> MaskAdaptedClip:
    """Put mask prompts, or queries of mask tokens, beside a copy of stock CLIP, which is not changed.

    Args:
        base: Stock CLIP.
        prompt_depth: Layers whose inputs take prompts; 0 for a model without prompts.
        prompt_seed: Seed of prompts to be trained; None for zeros.
        mask_queries: Whether mask tokens of one pass have queries of their own.
        blank_patches: Whether the tokens of patches without a mask pixel are dropped.

    Raises:
        PipelineError: If prompts have no meaning in its image tower, it has fewer layers, or it cannot drop tokens.
    """
    try:
        return replace(base, clip=copy.deepcopy(base.clip)).mask_adapted(
            prompt_depth=prompt_depth, prompt_seed=prompt_seed, mask_queries=mask_queries, blank_patches=blank_patches
        )
    except (TypeError, ValueError) as error:
        raise PipelineError(f"finetune: {error}") from error


def stock_mask_adapted_clip(base: LoadedClip) -> MaskAdaptedClip:
    """Return the original CLIP in the form of an adapted one without prompts: the baseline."""
    return new_mask_adapted_clip(base, prompt_depth=0)


def write_adapted_clip(
    artifact: Artifact,
    adapted: MaskAdaptedClip,
    base: LoadedClip,
    facts: Mapping[str, Json],
    *,
    text_side: TextSide | None = None,
    written: Mapping[str, Sidecar] = MappingProxyType({}),
) -> Manifest:
    """Write the units of weights that the artifact names, and finish it.

    Args:
        artifact: Held for writing; its description names its units of weights.
        base: The CLIP that it was trained from.
        facts: What else to record, such as the mode.
        text_side: What was trained of what crops are compared with.
        written: Sidecars of its other units, which were written before.

    Raises:
        WriteError: If the operating system refuses.
    """
    recorded: dict[str, Json] = {  # in the sidecar of each unit: `load_adapted_clip` reads those of the first
        "base_digest": base.digest,
        "config": cast("Json", dict(base.config)),
        "prompt_depth": adapted.prompt_depth,
        # Only where it is not the default, so that artifacts from before it was a choice keep their bytes.
        **({} if adapted.blank_patches == "kept" else {"blank_patches": adapted.blank_patches}),
        **facts,
    }
    sidecars = dict(written)
    for unit, tensors in _tensors_by_unit(adapted, artifact.description.units).items():
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        sidecars[unit] = write_weights(artifact, unit, arrays, recorded)
    if text_side is not None:
        own = {**recorded, **text_side.facts()}
        sidecars[text_side.unit] = write_weights(artifact, text_side.unit, {text_side.unit: text_side.weights}, own)
    manifest = artifact.manifest_of(sidecars)
    artifact.finish(manifest)
    return manifest


def load_adapted_clip(artifact: Artifact, base: LoadedClip) -> MaskAdaptedClip:
    """Read an adapted CLIP: a copy of the base with what training changed; on the CPU, in evaluation mode.

    Args:
        artifact: A finished ``adapted_clip``.
        base: The CLIP from which it was trained.

    Raises:
        PipelineError: If it was trained from another CLIP, or its tensors do not fit.
        ArtifactError: If it is of another kind, not finished, or damaged.
    """
    artifact.require(ADAPTED_CLIP)
    facts: Mapping[str, Any] = artifact.manifest().units[0].facts
    if facts["base_digest"] != base.digest:
        raise PipelineError(
            f"{artifact.directory}: was trained from CLIP {facts['base_digest'][:12]}, the settings' CLIP is "
            f"{base.digest[:12]}; set 'clip' as it was then, or run 'ovseg finetune' again"
        )
    weights = TemplateWeights.of(artifact)
    temperature = None if weights is None else weights.temperature
    if temperature is not None:  # of one sentence: a factor on cosines, as the model's own is
        if temperature <= 0:
            raise PipelineError(
                f"{artifact.directory}: the trained weight of its sentence makes a factor of {temperature:.4g}, one "
                "above 0 is expected; lower finetune.psm.learning_rate and train again"
            )
        base = replace(base, temperature="model")
    blank_patches = facts.get("blank_patches", "kept")
    adapted = new_mask_adapted_clip(
        base,
        prompt_depth=facts["prompt_depth"],
        mask_queries=MASK_QUERIES in artifact.description.units,
        blank_patches=blank_patches,
    )
    for unit, expected in _tensors_by_unit(adapted, artifact.description.units).items():
        found = {name: torch.from_numpy(array) for name, array in read_weights(artifact, unit).items()}
        conversion = take_tensors(found, expected, {name: name for name in expected})
        try:
            conversion.report.require_fit(str(artifact.directory / f"{unit}.safetensors"))
        except ValueError as error:
            raise PipelineError(str(error)) from error
        adapted.load_state_dict(conversion.tensors, strict=False)
    if temperature is not None:
        adapted.logit_scale.data.fill_(math.log(temperature))
    return adapted


def _tensors_by_unit(adapted: MaskAdaptedClip, units: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each unit by their names in the model."""
    state = adapted.state_dict()
    tower = {name: tensor for name, tensor in state.items() if name.startswith((_TOWER_PREFIX, *_OF_LOGITS))}
    of_logits = () if IMAGE_TOWER in units else _OF_LOGITS
    prompts = {name: tensor for name, tensor in state.items() if name in (MASK_PROMPTS, *of_logits)}
    queries = {name: tensor for name, tensor in state.items() if name.startswith((f"{MASK_QUERIES}.", *of_logits))}
    tensors = {IMAGE_TOWER: tower, MASK_PROMPTS: prompts, MASK_QUERIES: queries}
    return {unit: tensors[unit] for unit in units if unit in tensors}
