"""Which CLIP a published checkpoint belongs to, read from its keys and shapes."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor


def clip_config_from_published(tensors: Mapping[str, Tensor], *, head_width: int = 64) -> dict[str, Any]:
    """Work out open_clip's configuration of a CLIP with a vision transformer.

    Args:
        tensors: In open_clip layout.
        head_width: Channels of an attention head in both towers, which no shape tells; 64 in all published models.

    Returns:
        What `build_clip` takes. The activation isn't in it, since no shape tells it either.

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
    """Look up a shape that must be there."""
    if key not in tensors or tensors[key].ndim != dimensions:
        found = tuple(tensors[key].shape) if key in tensors else "missing"
        raise ValueError(
            f"CLIP weights: {key} is {found}, a tensor of {dimensions} dimensions is expected; "
            "only CLIP with a vision transformer can be read"
        )
    return tuple(tensors[key].shape)
