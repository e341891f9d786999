"""Key maps between our backbones and detectron2's ResNet, the official Swin Transformer, and plain timm.

A published key is always computed from ours, so that reading and writing cannot disagree.
"""

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from ovseg_models.checkpoint_keys.key_report import Conversion, KeyReport, Rule, rename, take_tensors

_RESNET_STAGES = (
    Rule(r"body\.layer(\d)\.(\d+)\.conv(\d)\.(.+)", "res{0}.{1}.conv{2}.{3}", shifts=((0, 1),)),
    Rule(r"body\.layer(\d)\.(\d+)\.bn(\d)\.(.+)", "res{0}.{1}.conv{2}.norm.{3}", shifts=((0, 1),)),
    Rule(r"body\.layer(\d)\.(\d+)\.downsample\.0\.(.+)", "res{0}.{1}.shortcut.{2}", shifts=((0, 1),)),
    Rule(r"body\.layer(\d)\.(\d+)\.downsample\.1\.(.+)", "res{0}.{1}.shortcut.norm.{2}", shifts=((0, 1),)),
)
_DEEP_STEM = (
    Rule(r"body\.conv1\.0\.(.+)", "stem.conv1.{0}"),
    Rule(r"body\.conv1\.1\.(.+)", "stem.conv1.norm.{0}"),
    Rule(r"body\.conv1\.3\.(.+)", "stem.conv2.{0}"),
    Rule(r"body\.conv1\.4\.(.+)", "stem.conv2.norm.{0}"),
    Rule(r"body\.conv1\.6\.(.+)", "stem.conv3.{0}"),
    Rule(r"body\.bn1\.(.+)", "stem.conv3.norm.{0}"),
)
_PLAIN_STEM = (
    Rule(r"body\.conv1\.(.+)", "stem.conv1.{0}"),
    Rule(r"body\.bn1\.(.+)", "stem.conv1.norm.{0}"),
)
_SWIN = (
    Rule(r"body\.patch_embed\.(.+)", "patch_embed.{0}"),
    Rule(r"body\.layers_(\d)\.blocks\.(.+)", "layers.{0}.blocks.{1}"),
    Rule(r"body\.layers_(\d)\.downsample\.(.+)", "layers.{0}.downsample.{1}", shifts=((0, -1),)),
    Rule(r"norms\.(\d)\.(.+)", "norm{0}.{1}"),
)
# timm's whole models: features_only flattens the first two levels of Swin's names and none of a ResNet's.
_TIMM_SWIN = (
    Rule(r"norms\.(\d)\.(.+)", "norm{0}.{1}"),
    Rule(r"body\.layers_(\d)\.(.+)", "layers.{0}.{1}"),
    Rule(r"body\.(.+)", "{0}"),
)
_TIMM = (Rule(r"body\.(.+)", "{0}"),)
_CLASSIFIER = ("head.", "fc.", "linear.", "classifier.", "norm.", "stem.fc.")
_DERIVED_ENDINGS = (".relative_position_index", ".attn_mask", ".num_batches_tracked")


def published_backbone_names(keys: Collection[str]) -> dict[str, str]:
    """Give the published key of each of our backbone's keys (detectron2's ResNet or the official Swin names).

    Batch norm's counters have none and are left out.

    Raises:
        ValueError: If the backbone is of another family, which has no published layout.
    """
    if _is_swin(keys):
        return _renamed(keys, _SWIN)
    stem = _DEEP_STEM if "body.conv1.0.weight" in keys else _PLAIN_STEM
    return _renamed(keys, (*stem, *_RESNET_STAGES))


def backbone_from_published(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Conversion:
    """Bring a backbone file to our keys; the layout follows from the keys.

    Understood are detectron2's ResNet (``stem.conv1.weight``), the official Swin Transformer, timm's whole
    models, and our own; each with or without ``backbone.`` before every key. Classifiers and tables that follow
    from sizes are ignored, and the four new norms of a Swin backbone may be missing.

    Args:
        expected: The state dict of our backbone.
    """
    if found and all(key.startswith("backbone.") for key in found):
        found = {key.removeprefix("backbone."): tensor for key, tensor in found.items()}
    found = {key: tensor for key, tensor in found.items() if not key.endswith(_DERIVED_ENDINGS)}
    names = _names_in_file(found, expected)
    ignored = {key for key in found if key.startswith(_CLASSIFIER)}
    conversion = take_tensors(found, expected, names, ignored=ignored)
    new_norms = {names[key] for key in names if key.startswith("norms.")}
    report = conversion.report
    missing = tuple(key for key in report.missing if key not in new_norms)
    return Conversion(conversion.tensors, KeyReport(missing, report.unexpected, report.misshapen, report.notes))


def relative_position_index(bias_table: Tensor) -> Tensor:
    """Rebuild the index that published Swin files store beside each bias table.

    Args:
        bias_table: [(2 window - 1)^2 head].

    Returns:
        int64 [window^2 window^2]: the row of the table for each pair of tokens of a window.
    """
    span = math.isqrt(bias_table.shape[0])
    window = (span + 1) // 2
    position = torch.arange(window, device=bias_table.device)
    rows, columns = position.repeat_interleave(window), position.repeat(window)
    row_offset = rows[:, None] - rows + window - 1
    column_offset = columns[:, None] - columns + window - 1
    return row_offset * span + column_offset


def _names_in_file(found: Collection[str], expected: Collection[str]) -> dict[str, str]:
    """Give the file's key of each of ours, by the layout that the file's keys show."""
    if any(key.startswith("body.") for key in found):
        return {key: key for key in expected if not key.endswith(_DERIVED_ENDINGS)}
    if _is_swin(expected):
        merges_end_a_stage = any(key.startswith("layers.0.downsample.") for key in found)
        return _renamed(expected, _SWIN if merges_end_a_stage else _TIMM_SWIN)
    if any(key.startswith("stem.conv1.") for key in found):
        return published_backbone_names(expected)
    return _renamed(expected, _TIMM)


def _is_swin(keys: Collection[str]) -> bool:
    """Return whether these are the keys of a Swin backbone of ours."""
    return any(key.startswith("body.patch_embed.") for key in keys)


def _renamed(keys: Collection[str], rules: tuple[Rule, ...]) -> dict[str, str]:
    """Rename every key that is not derived."""
    names = {}
    for key in keys:
        if key.endswith(_DERIVED_ENDINGS):
            continue
        name = rename(key, rules)
        if name is None:
            raise ValueError(
                f"backbone key {key!r}: no published layout names it, those of a ResNet or a Swin Transformer are "
                "expected; keep this backbone in the project's own format"
            )
        names[key] = name
    return names
