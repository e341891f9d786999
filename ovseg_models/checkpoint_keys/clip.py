"""Names of CLIP's tensors in published checkpoints and in open_clip, both ways, and sizes from shapes.

For a CLIP with a vision transformer, OpenAI's names are open_clip's names; the layouts differ in prefixes, in OpenAI's
three numbers beside the weights, and in where the mask prompts lie. "open_clip layout" below means open_clip's names
and, if the model has prompts, ``visual.mask_embedding`` [depth patch width], the published name of ``mask_prompts``.

Every function returns a new dict of the same tensors; each pair of functions is an exact round trip.
"""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

MASK_PROMPTS_KEY = "visual.mask_embedding"
OVSEG_PREFIX = "clip_adapter.clip_model."
FINETUNE_PREFIX = "module."
_ADAPTED_PREFIX = "clip."
_ADAPTED_PROMPTS_KEY = "mask_prompts"
_OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")


def from_ovseg(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take CLIP out of a whole OVSeg checkpoint, in open_clip layout; empty if there is none in it."""
    return {
        name.removeprefix(OVSEG_PREFIX): tensor for name, tensor in tensors.items() if name.startswith(OVSEG_PREFIX)
    }


def to_ovseg(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name CLIP's tensors as in a whole OVSeg checkpoint."""
    return {OVSEG_PREFIX + name: tensor for name, tensor in tensors.items()}


def from_finetune(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring the state dict of a checkpoint of CLIP's finetuning, named by DistributedDataParallel, to open_clip layout.

    Raises:
        ValueError: If a name lacks the prefix.
    """
    foreign = [name for name in tensors if not name.startswith(FINETUNE_PREFIX)]
    if foreign:
        raise ValueError(
            f"finetuned CLIP: {len(foreign)} names such as {foreign[0]!r} do not start with {FINETUNE_PREFIX!r}, "
            "all must; check that the file is the checkpoint of one model"
        )
    return {name.removeprefix(FINETUNE_PREFIX): tensor for name, tensor in tensors.items()}


def to_finetune(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name CLIP's tensors as in a checkpoint of CLIP's finetuning."""
    return {FINETUNE_PREFIX + name: tensor for name, tensor in tensors.items()}


def from_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Leave out the three numbers that OpenAI's state dicts hold beside the weights."""
    return {name: tensor for name, tensor in tensors.items() if name not in _OPENAI_NUMBERS}


def to_openai(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add the three numbers of OpenAI's state dicts, read from the shapes; the image tower must take square crops."""
    patches = tensors["visual.positional_embedding"].shape[0] - 1
    numbers = (
        tensors["visual.conv1.weight"].shape[-1] * math.isqrt(patches),
        tensors["positional_embedding"].shape[0],
        tensors["token_embedding.weight"].shape[0],
    )
    return {**tensors, **{name: torch.tensor(value) for name, value in zip(_OPENAI_NUMBERS, numbers, strict=True)}}


def needs_quick_gelu(tensors: Mapping[str, Tensor]) -> bool:
    """Return whether weights in a published layout are known to be trained with the activation QuickGELU.

    OpenAI's are, and OVSeg's, which descend from them. False means unknown.
    """
    return all(name in tensors for name in _OPENAI_NUMBERS) or OVSEG_PREFIX + "logit_scale" in tensors


def from_adapted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring ``MaskAdaptedClip.state_dict()`` to open_clip layout."""
    return {
        MASK_PROMPTS_KEY if name == _ADAPTED_PROMPTS_KEY else name.removeprefix(_ADAPTED_PREFIX): tensor
        for name, tensor in tensors.items()
    }


def to_adapted(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring open_clip layout to what ``MaskAdaptedClip.load_state_dict`` takes."""
    return {
        _ADAPTED_PROMPTS_KEY if name == MASK_PROMPTS_KEY else _ADAPTED_PREFIX + name: tensor
        for name, tensor in tensors.items()
    }


def to_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring any of the layouts above to open_clip layout, finding out which one it is.

    Raises:
        ValueError: If no known layout is there.
    """
    names = set(tensors)
    if any(name.startswith(OVSEG_PREFIX) for name in names):
        return from_ovseg(tensors)
    if FINETUNE_PREFIX + "logit_scale" in names:
        return to_open_clip(from_finetune(tensors))
    if _ADAPTED_PREFIX + "logit_scale" in names:
        return from_adapted(tensors)
    if "logit_scale" in names:
        return from_openai(tensors)
    raise ValueError(
        f"CLIP weights: none of {len(names)} names is 'logit_scale' (with or without a prefix), they are like "
        f"{sorted(names)[:3]}; a CLIP checkpoint of open_clip, OpenAI or OVSeg is expected"
    )


def clip_config_from_published(tensors: Mapping[str, Tensor], *, head_width: int = 64) -> dict[str, Any]:
    """Work out open_clip's configuration of a CLIP with a vision transformer.

    Args:
        tensors: In open_clip layout.
        head_width: Channels of an attention head in both towers, which no shape shows; 64 in all published models.

    Returns:
        What `build_clip` takes. The activation isn't in it, since no shape shows it.

    Raises:
        ValueError: If a tensor is missing from which a size is read, or the heads don't divide a width.
    """
    width, _, patch_px, _ = _shape(tensors, "visual.conv1.weight", 4)
    patches = _shape(tensors, "visual.positional_embedding", 2)[0] - 1
    context_length, text_width = _shape(tensors, "positional_embedding", 2)
    for name, found in (("image", width), ("text", text_width)):
        if found % head_width:
            raise ValueError(
                f"CLIP weights: the {name} tower is {found} wide, a multiple of head_width {head_width} is expected; "
                "give the head width that the model was trained with"
            )
    return {
        "embed_dim": _shape(tensors, "visual.proj", 2)[1],
        "vision_cfg": {
            "image_size": math.isqrt(patches) * patch_px,
            "patch_size": patch_px,
            "width": width,
            "head_width": head_width,
            "layers": _layers(tensors, r"visual\.transformer\.resblocks\.(\d+)\."),
        },
        "text_cfg": {
            "context_length": context_length,
            "vocab_size": _shape(tensors, "token_embedding.weight", 2)[0],
            "width": text_width,
            "heads": text_width // head_width,
            "layers": _layers(tensors, r"transformer\.resblocks\.(\d+)\."),
        },
    }


def _layers(keys: Collection[str], pattern: str) -> int:
    """Count the layers of a tower."""
    return len({match.group(1) for key in keys if (match := re.match(pattern, key))})


def _shape(tensors: Mapping[str, Tensor], key: str, dimensions: int) -> tuple[int, ...]:
    """Return the shape of a weight that must be there."""
    if key not in tensors or tensors[key].ndim != dimensions:
        found = tuple(tensors[key].shape) if key in tensors else "missing"
        raise ValueError(
            f"CLIP weights: {key} is {found}, a tensor of {dimensions} dimensions is expected; "
            "only CLIP with a vision transformer can be read"
        )
    return tuple(tensors[key].shape)
