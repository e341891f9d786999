"""Which net a published checkpoint belongs to, read from its keys and shapes."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from ovseg_models.checkpoint_keys.proposal_net import with_pixel_decoder_level

_PREDICTOR = "sem_seg_head.predictor."
_TRANSFORMER = "sem_seg_head.predictor.transformer."
_SWIN_FAMILY = "swin_base_patch4_window12_384"  # one form for all; widths, depths and window are given beside it
_RESNETS: dict[
    tuple[tuple[int, ...], bool], str
] = {  # blocks per stage, and whether the stem is three 3x3 convolutions
    ((3, 4, 23, 3), True): "r101c",
    ((3, 4, 23, 3), False): "resnet101",
    ((3, 4, 6, 3), False): "resnet50",
}


def arguments_from_published(
    published: Mapping[str, Tensor], *, heads: int = 8, norm_groups: int = 32
) -> dict[str, Any]:
    """Work out the arguments of `build_proposal_net` from a published OVSeg or MaskFormer checkpoint.

    Args:
        published: The checkpoint's tensors.
        heads: Attention heads, which no shape tells; 8 in all published nets.
        norm_groups: Groups of the pixel decoder's norms, which no shape tells; 32 in all published nets.

    Returns:
        Plain arguments without pretrained weights. MaskFormer's own checkpoints have no proposal-embedding head;
        its sizes are left to the builder's defaults.

    Raises:
        ValueError: If a tensor is missing from which a size is read, or backbone or pixel decoder are of no known form.
    """
    shapes = {key: tuple(tensor.shape) for key, tensor in with_pixel_decoder_level(published).items()}
    if any(key.startswith("sem_seg_head.pixel_decoder.transformer.") for key in shapes):
        raise ValueError(
            "published checkpoint: its pixel decoder has transformer layers of its own, as MaskFormer's panoptic "
            "models have, one of convolutions alone is expected; choose a semantic model"
        )
    backbone, backbone_arguments = _backbone(shapes)
    queries, hidden_dim = _shape(shapes, f"{_PREDICTOR}query_embed.weight")
    arguments = {
        "backbone": backbone,
        "backbone_arguments": backbone_arguments,
        "queries": queries,
        "hidden_dim": hidden_dim,
        "mask_dim": _shape(shapes, "sem_seg_head.pixel_decoder.mask_features.weight")[0],
        "feedforward_dim": _shape(shapes, f"{_TRANSFORMER}decoder.layers.0.linear1.weight")[0],
        "encoder_layers": _count(shapes, re.escape(_TRANSFORMER) + r"encoder\.layers\.(\d+)\."),
        "decoder_layers": _count(shapes, re.escape(_TRANSFORMER) + r"decoder\.layers\.(\d+)\."),
        "heads": heads,
        "norm_groups": norm_groups,
    }
    if f"{_PREDICTOR}class_embed.weight" in shapes:
        return arguments
    embedding_dim, embedding_hidden_dim = _shape(shapes, f"{_PREDICTOR}class_embed.layers.1.weight")
    return arguments | {"embedding_dim": embedding_dim, "embedding_hidden_dim": embedding_hidden_dim}


def _backbone(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Any]]:
    """Name the backbone and give its arguments."""
    if "backbone.patch_embed.proj.weight" in shapes:
        return _SWIN_FAMILY, {"timm_arguments": _swin_arguments(shapes)}
    blocks = tuple(_count(shapes, rf"backbone\.res{stage}\.(\d+)\.") for stage in (2, 3, 4, 5))
    has_deep_stem = "backbone.stem.conv3.weight" in shapes
    if (blocks, has_deep_stem) not in _RESNETS:
        raise ValueError(
            f"published checkpoint: its backbone has {blocks} blocks per stage and {'a' if has_deep_stem else 'no'} "
            "deep stem, a Swin Transformer or a ResNet-50 or -101 is expected; check that it is MaskFormer's or OVSeg's"
        )
    frozen = {"freeze_at": 2, "frozen_batch_norm": True}
    return _RESNETS[blocks, has_deep_stem], frozen


def _swin_arguments(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read a Swin Transformer's widths, depths, heads and window."""
    tables = [f"backbone.layers.{stage}.blocks.0.attn.relative_position_bias_table" for stage in range(4)]
    span = math.isqrt(_shape(shapes, tables[0])[0])  # 2 window - 1
    return {
        "embed_dim": shapes["backbone.patch_embed.proj.weight"][0],
        "depths": [_count(shapes, rf"backbone\.layers\.{stage}\.blocks\.(\d+)\.") for stage in range(4)],
        "num_heads": [_shape(shapes, table)[1] for table in tables],
        "window_size": (span + 1) // 2,
    }


def _count(keys: Collection[str], pattern: str) -> int:
    """Count the numbers that stand in a group of the keys."""
    return len({match.group(1) for key in keys if (match := re.match(pattern, key))})


def _shape(shapes: Mapping[str, tuple[int, ...]], key: str) -> tuple[int, ...]:
    """Look up a shape that must be there."""
    if key not in shapes:
        raise ValueError(
            f"published checkpoint: {key} is not among its {len(shapes)} keys, the layout of OVSeg or MaskFormer is "
            "expected; check that it is such a file"
        )
    return shapes[key]
