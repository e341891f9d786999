"""Keys of our proposal net and of published OVSeg and MaskFormer checkpoints, both ways, and sizes from shapes."""

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from ovseg_models.checkpoint_keys.backbone import published_backbone_names, relative_position_index
from ovseg_models.checkpoint_keys.key_report import Conversion, KeyReport, Rule, rename, take_tensors

_HEAD = "sem_seg_head."
_PREDICTOR = "sem_seg_head.predictor."
_PIXEL_DECODER = "sem_seg_head.pixel_decoder."
_TRANSFORMER = "sem_seg_head.predictor.transformer."
_COCO_STUFF_CLASSES = 171
_NO_OBJECT_WEIGHT = 0.1

_HEAD_RULES = (
    Rule(r"pixel_decoder\.lateral\.(\d)\.conv\.(.+)", _PIXEL_DECODER + "adapter_{0}.{1}", shifts=((0, 1),)),
    Rule(r"pixel_decoder\.lateral\.(\d)\.norm\.(.+)", _PIXEL_DECODER + "adapter_{0}.norm.{1}", shifts=((0, 1),)),
    Rule(r"pixel_decoder\.smooth\.(\d)\.conv\.(.+)", _PIXEL_DECODER + "layer_{0}.{1}", shifts=((0, 1),)),
    Rule(r"pixel_decoder\.smooth\.(\d)\.norm\.(.+)", _PIXEL_DECODER + "layer_{0}.norm.{1}", shifts=((0, 1),)),
    Rule(r"pixel_decoder\.mask_features\.(.+)", _PIXEL_DECODER + "mask_features.{0}"),
    Rule(r"query_decoder\.input_projection\.(.+)", _PREDICTOR + "input_proj.{0}"),
    Rule(r"query_decoder\.query_positions\.(.+)", _PREDICTOR + "query_embed.{0}"),
    Rule(r"query_decoder\.norm\.(.+)", _TRANSFORMER + "decoder.norm.{0}"),
    Rule(
        r"query_decoder\.(encoder|decoder)_layers\.(\d+)\.self_attention\.(.+)",
        _TRANSFORMER + "{0}.layers.{1}.self_attn.{2}",
    ),
    Rule(
        r"query_decoder\.decoder_layers\.(\d+)\.cross_attention\.(.+)",
        _TRANSFORMER + "decoder.layers.{0}.multihead_attn.{1}",
    ),
    Rule(r"query_decoder\.(encoder|decoder)_layers\.(\d+)\.(.+)", _TRANSFORMER + "{0}.layers.{1}.{2}"),
    Rule(r"mask_head\.layers\.(\d)\.(.+)", _PREDICTOR + "mask_embed.layers.{0}.{1}"),
    Rule(r"embedding_head\.layers\.(\d)\.(.+)", _PREDICTOR + "class_embed.layers.{0}.{1}"),
    Rule(r"no_object_embedding", "clip_adapter.non_object_embedding"),
)
_LINEAR_CLASS_HEAD = _PREDICTOR + "class_embed.weight"
_DERIVED_ENDINGS = (".relative_position_index", ".attn_mask", ".num_batches_tracked")
_SWIN_FAMILY = "swin_base_patch4_window12_384"  # one form for all; widths, depths and window are given beside it
_RESNETS: dict[
    tuple[tuple[int, ...], bool], str
] = {  # blocks per stage, and whether the stem is three 3x3 convolutions
    ((3, 4, 23, 3), True): "r101c",
    ((3, 4, 23, 3), False): "resnet101",
    ((3, 4, 6, 3), False): "resnet50",
}


def published_names(keys: Collection[str]) -> dict[str, str]:
    """Give the published key of each key of our proposal net; batch norm's counters have none.

    Raises:
        ValueError: If a key has no counterpart, for example that of a backbone outside the two published families.
    """
    prefix = "backbone."
    backbone_keys = [key.removeprefix(prefix) for key in keys if key.startswith(prefix)]
    names = {prefix + ours: prefix + theirs for ours, theirs in published_backbone_names(backbone_keys).items()}
    for key in keys:
        if key.startswith(prefix):
            continue
        name = rename(key, _HEAD_RULES)
        if name is None:
            raise ValueError(f"proposal net key {key!r}: no published layout names it; pass ProposalNet.state_dict()")
        names[key] = name
    return names


def proposal_net_from_published(published: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Conversion:
    """Bring the proposal net of a published checkpoint to our keys.

    CLIP's weights, the loss's buffers and tables that follow from sizes are ignored. Checkpoints of the first head
    version, which lack the ``pixel_decoder.`` level, are understood. MaskFormer's own checkpoints have a linear class
    head instead of the proposal-embedding head: the report lists it as unexpected and ours as missing, and says so.

    Args:
        published: The checkpoint's tensors, without a wrapper around them.
        expected: The state dict of our net; a tensor that the checkpoint does not give stays as it is there.
    """
    found = with_pixel_decoder_level(published)
    names = published_names(expected)
    others = ("clip_adapter.", "criterion.", "pixel_mean", "pixel_std")  # of CLIP, of the loss
    ignored = {key for key in found if key.startswith(others) or key.endswith(_DERIVED_ENDINGS)} - set(names.values())
    conversion = take_tensors(found, expected, names, ignored=ignored)
    if _LINEAR_CLASS_HEAD not in found:
        return conversion
    report = conversion.report
    classes = found[_LINEAR_CLASS_HEAD].shape[0] - 1
    note = (
        f"the checkpoint is MaskFormer's own, with a linear head for {classes} classes where proposal embeddings "
        "are expected; the embedding head and the no-object embedding stay as initialised and must be trained"
    )
    return Conversion(conversion.tensors, KeyReport(report.missing, report.unexpected, report.misshapen, (note,)))


def proposal_net_to_published(
    ours: Mapping[str, Tensor], *, num_classes: int = _COCO_STUFF_CLASSES, no_object_weight: float = _NO_OBJECT_WEIGHT
) -> dict[str, Tensor]:
    """Write our proposal net in the published OVSeg layout, with the buffers that a published file holds.

    Args:
        ours: The net's state dict.
        num_classes: Classes in training; the published loss stores one weight for each and one for no object.
        no_object_weight: That last weight.
    """
    names = published_names(ours)
    published = {theirs: ours[key] for key, theirs in names.items()}
    for theirs in tuple(published):
        if theirs.endswith(".relative_position_bias_table"):
            index_name = theirs.removesuffix("bias_table") + "index"
            published[index_name] = relative_position_index(published[theirs])
    published["criterion.empty_weight"] = torch.tensor([1.0] * num_classes + [no_object_weight])
    return published


def with_pixel_decoder_level(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Insert ``pixel_decoder.`` into the keys of the first head version."""
    if any(key.startswith(_PIXEL_DECODER) for key in published):
        return dict(published)
    return {
        _PIXEL_DECODER + key.removeprefix(_HEAD)
        if key.startswith(_HEAD) and not key.startswith(_PREDICTOR)
        else key: tensor
        for key, tensor in published.items()
    }


def arguments_from_published(
    published: Mapping[str, Tensor], *, heads: int = 8, norm_groups: int = 32
) -> dict[str, Any]:
    """Work out the arguments of `build_proposal_net` from a published OVSeg or MaskFormer checkpoint.

    Args:
        heads: Attention heads, which no shape shows; 8 in all published nets.
        norm_groups: Groups of the pixel decoder's norms, which no shape shows; 32 in all published nets.

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
    """Return the shape of a weight that must be there."""
    if key not in shapes:
        raise ValueError(
            f"published checkpoint: {key} is not among its {len(shapes)} keys, the layout of OVSeg or MaskFormer is "
            "expected; check that it is such a file"
        )
    return shapes[key]
