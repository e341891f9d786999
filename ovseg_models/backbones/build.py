"""One builder for every backbone, with weights from timm, from a file, or random."""

import logging
from pathlib import Path
from typing import Any, Literal

import timm

from ovseg_models.backbones.swin import SwinBackbone, build_swin
from ovseg_models.backbones.timm_backbone import TimmBackbone, build_r101c, build_timm_backbone
from ovseg_models.checkpoint_keys.backbone import backbone_from_published
from ovseg_models.weights import require_finite
from ovseg_models.weights_file import WEIGHTS_SUFFIXES, read_weights_file

_LOGGER = logging.getLogger(__name__)
_R101C_TIMM_NAME = "resnet101s"


def build_backbone(
    name: str, *, pretrained: str | Literal[False] = False, **arguments: Any
) -> TimmBackbone | SwinBackbone:
    """Build a backbone.

    Args:
        name: ``r101c``, a timm Swin Transformer (``swin_base_patch4_window12_384`` is the paper's), or any timm
            model whose ``features_only`` form has maps at strides 4, 8, 16 and 32 (``resnet18``, ...).
        pretrained: A timm tag (``ms_in22k``), a file of weights (.safetensors, or .pth, .pt, .bin, .pkl read without
            running code) in timm's, detectron2's or the official Swin layout, or False for random weights.
        **arguments: Of `build_r101c`, `build_swin` or `build_timm_backbone`.

    Returns:
        A module that maps normalised images [batch 3 height width] to `FeatureMaps`, with ``channels``.

    Raises:
        ValueError: If the name or the tag is unknown, or the file's tensors do not fit.
        FileNotFoundError: If pretrained names a file that is not there.
    """
    timm_name = _R101C_TIMM_NAME if name == "r101c" else name
    if not timm.is_model(timm_name):
        raise ValueError(f"backbone {name!r}: no such backbone; use 'r101c' or a name of timm.list_models()")
    weights_path = Path(pretrained) if pretrained and Path(pretrained).suffix in WEIGHTS_SUFFIXES else None
    tag = pretrained if pretrained and weights_path is None else None
    if tag is not None:  # refused before timm tries to fetch anything
        known = [full_name.partition(".")[2] for full_name in timm.list_pretrained(f"{timm_name}.*")]
        if tag not in known:
            raise ValueError(
                f"backbone {timm_name!r}: pretrained is {tag!r}, which is neither a tag that timm knows {known} nor a "
                f"file ending in one of {sorted(WEIGHTS_SUFFIXES)}; choose one of them or False"
            )
    backbone: TimmBackbone | SwinBackbone
    if name == "r101c":
        backbone = build_r101c(tag=tag, **arguments)
    elif timm_name.startswith("swin_"):
        backbone = build_swin(timm_name, tag=tag, **arguments)
    else:
        backbone = build_timm_backbone(timm_name, tag=tag, **arguments)
    if tag is not None:
        require_finite(backbone.state_dict(), f"backbone {timm_name}.{tag}")
    if weights_path is not None:
        conversion = backbone_from_published(read_weights_file(weights_path), backbone.state_dict())
        conversion.report.require_fit(str(weights_path))
        backbone.load_state_dict(conversion.tensors)
        _LOGGER.info("%s: %d tensors read into the backbone", weights_path, len(conversion.tensors))
    return backbone
