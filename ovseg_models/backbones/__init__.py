"""Backbones: normalised images in, feature maps at strides 4, 8, 16 and 32 out."""

from ovseg_models.backbones.build import build_backbone
from ovseg_models.backbones.feature_maps import STRIDES_PX, FeatureMaps
from ovseg_models.backbones.swin import SwinBackbone
from ovseg_models.backbones.timm_backbone import TimmBackbone

__all__ = ["STRIDES_PX", "FeatureMaps", "SwinBackbone", "TimmBackbone", "build_backbone"]
