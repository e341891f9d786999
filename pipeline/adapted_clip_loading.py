"""The adapted CLIP as an artifact of weights: written by stage 3, read by stage 4, the bundle and the exports.

Reads and writes ``adapted_clip``. Unit ``image_tower`` holds ``clip.visual.*`` and ``clip.logit_scale``, unit
``mask_prompts`` holds ``mask_prompts``, each only where a phase trained it; the logit scale lies with the prompts where
MPT alone trained it. The text tower is never trained: it comes from the CLIP that was adapted. Other units, such as a
report, are passed over.
"""

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, cast

import torch
from torch import Tensor

from ovseg_models.checkpoint_keys.key_report import take_tensors
from ovseg_models.mask_adapted_clip import BlankPatches, MaskAdaptedClip
from ovseg_models.pretrained_clip import blank_patches_argument
from pipeline.clip_loading import LoadedClip
from pipeline.errors import PipelineError
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, IMAGE_TOWER, MASK_PROMPTS, read_weights, write_weights
from storage_schemas.digests import Json
from storage_schemas.manifest import Manifest, Sidecar

_TOWER_PREFIX, _LOGIT_SCALE = "clip.visual.", "clip.logit_scale"


def new_mask_adapted_clip(
    base: LoadedClip, *, prompt_depth: int, prompt_seed: int | None = None, blank_patches: BlankPatches = "kept"
) -> MaskAdaptedClip:
    """Put mask prompts beside a copy of stock CLIP, which stays as it is.

    Args:
        base: Stock CLIP.
        prompt_depth: Layers whose inputs take prompts; 0 for a model without prompts.
        prompt_seed: Seed of prompts to be trained; None for zeros.
        blank_patches: Whether the tokens of patches without a mask pixel are dropped.

    Raises:
        PipelineError: If prompts have no meaning in its image tower, it has fewer layers, or it cannot drop tokens.
    """
    try:
        adapted = MaskAdaptedClip(
            copy.deepcopy(base.clip), prompt_depth=prompt_depth, prompt_seed=prompt_seed, blank_patches=blank_patches
        )
    except (TypeError, ValueError) as error:
        message = f"finetune: {error}"
        raise PipelineError(message) from error
    if base.config:
        recorded = blank_patches_argument(blank_patches)
        adapted.arguments = {"model": dict(base.config), "prompt_depth": prompt_depth, **recorded}
    return adapted.eval()


def stock_mask_adapted_clip(base: LoadedClip) -> MaskAdaptedClip:
    """Return the original CLIP in the form of an adapted one without prompts: the baseline."""
    return new_mask_adapted_clip(base, prompt_depth=0)


def write_adapted_clip(
    artifact: Artifact,
    adapted: MaskAdaptedClip,
    base: LoadedClip,
    facts: Mapping[str, Json],
    *,
    written: Mapping[str, Sidecar] = MappingProxyType({}),
) -> Manifest:
    """Write the units of weights that the artifact names, and finish it.

    Args:
        artifact: Held for writing; its description names its units of weights.
        adapted: What was trained.
        base: The CLIP that it was trained from.
        facts: What else is to be known, such as the mode.
        written: Sidecars of its other units, which were written before.

    Raises:
        WriteError: If the operating system refuses.
    """
    told: dict[str, Json] = {
        "base_digest": base.digest,
        "config": cast("Json", dict(base.config)),
        "prompt_depth": adapted.prompt_depth,
        **cast("dict[str, Json]", blank_patches_argument(adapted.blank_patches)),
        **facts,
    }
    sidecars = dict(written)
    for unit, tensors in _tensors_by_unit(adapted, artifact.description.units).items():
        arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
        sidecars[unit] = write_weights(artifact, unit, arrays, told)
    manifest = artifact.manifest_of(sidecars)
    artifact.finish(manifest)
    return manifest


def load_adapted_clip(artifact: Artifact, base: LoadedClip) -> MaskAdaptedClip:
    """Read an adapted CLIP: a copy of the base with what training changed; on the CPU, in evaluation mode.

    Args:
        artifact: A finished ``adapted_clip``.
        base: The CLIP from which it was trained.

    Raises:
        PipelineError: If the artifact is of another kind, or was trained from another CLIP, or its tensors do not fit.
        ArtifactError: If it is not finished, or damaged.
    """
    if artifact.identity.kind != ADAPTED_CLIP:
        message = f"{artifact.directory}: is an artifact of {artifact.identity.kind}, one of {ADAPTED_CLIP} is expected"
        raise PipelineError(message)
    facts: Mapping[str, Any] = artifact.manifest().units[0].facts
    if facts["base_digest"] != base.digest:
        message = (
            f"{artifact.directory}: was trained from CLIP {facts['base_digest'][:12]}, the settings' CLIP is "
            f"{base.digest[:12]}; set 'clip' as it was then, or run 'ovseg finetune' again"
        )
        raise PipelineError(message)
    blank_patches = facts.get("blank_patches", "kept")
    adapted = new_mask_adapted_clip(base, prompt_depth=facts["prompt_depth"], blank_patches=blank_patches)
    for unit, expected in _tensors_by_unit(adapted, artifact.description.units).items():
        found = {name: torch.from_numpy(array) for name, array in read_weights(artifact, unit).items()}
        conversion = take_tensors(found, expected, {name: name for name in expected})
        try:
            conversion.report.require_fit(str(artifact.directory / f"{unit}.safetensors"))
        except ValueError as error:
            raise PipelineError(str(error)) from error
        adapted.load_state_dict(conversion.tensors, strict=False)
    return adapted


def _tensors_by_unit(adapted: MaskAdaptedClip, units: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each unit by their names in the model."""
    state = adapted.state_dict()
    tower = {name: tensor for name, tensor in state.items() if name.startswith((_TOWER_PREFIX, _LOGIT_SCALE))}
    prompts = {name: tensor for name, tensor in state.items() if name == MASK_PROMPTS}
    if IMAGE_TOWER not in units:
        prompts[_LOGIT_SCALE] = state[_LOGIT_SCALE]
    tensors = {IMAGE_TOWER: tower, MASK_PROMPTS: prompts}
    return {unit: tensors[unit] for unit in units if unit in tensors}
