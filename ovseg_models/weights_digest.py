"""Digests of weights: the same weights give the same digest, on any device and in any order."""

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ovseg_models.mask_adapted_clip import OpenClip

_SHARED_BY_BOTH_TOWERS = ("logit_scale", "logit_bias")


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the hexadecimal sha256 over names, dtypes, shapes and bytes of tensors, whatever their order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu()
        digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def image_tower_weights(clip: OpenClip) -> dict[str, Tensor]:
    """Return the weights and buffers of an open_clip model's image tower, the very tensors, no copies."""
    return {name: tensor for name, tensor in clip.state_dict(keep_vars=True).items() if name.startswith("visual.")}


def text_tower_weights(clip: OpenClip) -> dict[str, Tensor]:
    """Return the weights and buffers of an open_clip model's text tower, the very tensors, no copies."""
    not_text = ("visual.", *_SHARED_BY_BOTH_TOWERS)
    return {name: tensor for name, tensor in clip.state_dict(keep_vars=True).items() if not name.startswith(not_text)}
