"""Weights as such: their digest, refusing those that are no numbers, and building a net of no more than their size."""

import hashlib
import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

from ovseg_models.mask_adapted_clip import OpenClip

_SHARED_BY_BOTH_TOWERS = ("logit_scale", "logit_bias")
_MASKS = ("attn_mask",)  # additive masks that some files hold beside the weights; -inf is their meaning
_Net = TypeVar("_Net", bound=nn.Module)
# Beside its weights a net holds tables and masks that follow from sizes: less than its weights, or of a tiny net few.
_NUMBERS_PER_NUMBER, _FREE_NUMBERS = 2, 2**24
_TENSORS_PER_TENSOR, _FREE_TENSORS = 2, 1000


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


def require_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse NaN and infinite weights.

    The least and the greatest value are finite exactly if all are, since NaN passes through to both; 100 million
    weights take 0.04 s.

    Args:
        tensors: By name; those of whole numbers are passed over.
        where: Names the file or the net in the message.

    Raises:
        ValueError: With the first such tensor, and how many of its values are NaN or infinite.
    """
    faulty = [
        name
        for name, tensor in tensors.items()
        if tensor.is_floating_point()
        and not name.endswith(_MASKS)
        and tensor.numel()
        and not torch.isfinite(torch.stack((tensor if tensor.itemsize > 1 else tensor.float()).aminmax())).all()
    ]
    if faulty:
        values = tensors[faulty[0]].float()
        others = f", and so do {len(faulty) - 1} other tensors" if len(faulty) > 1 else ""
        raise ValueError(
            f"{where}: {faulty[0]} holds {int(values.isnan().sum())} NaN and {int(values.isinf().sum())} infinite of "
            f"{values.numel()} values{others}; finite weights are expected: the training that wrote them diverged, or "
            "the file is damaged; use an earlier checkpoint or another file"
        )


def build_for(weights: Mapping[str, Tensor], build: Callable[[], _Net]) -> _Net:
    """Build a net if it is about as large as the weights for it.

    It is built without memory first (on torch's device ``meta``) and stopped as soon as it outgrows the weights: some
    hundred bytes of JSON or of tiny tensors can ask for a net of terabytes.

    Args:
        weights: What the net is to be filled with, and other tensors of the same file.
        build: Makes the net; called twice.

    Raises:
        ValueError: If the net is far larger than the weights, or as ``build`` raises it.
    """
    numbers = sum(tensor.numel() for tensor in weights.values())
    numbers_at_most = _NUMBERS_PER_NUMBER * numbers + _FREE_NUMBERS
    tensors_at_most = _TENSORS_PER_TENSOR * len(weights) + _FREE_TENSORS
    thread, found_numbers, found_tensors = threading.get_ident(), 0, 0

    def count(_: nn.Module, name: str, tensor: Tensor | None) -> None:
        nonlocal found_numbers, found_tensors
        if tensor is None or threading.get_ident() != thread:
            return
        found_numbers, found_tensors = found_numbers + tensor.numel(), found_tensors + 1
        if found_numbers > numbers_at_most or found_tensors > tensors_at_most:
            raise ValueError(
                f"the sizes ask for a net of more than {found_numbers} numbers in {found_tensors} tensors (up to "
                f"{name} {tuple(tensor.shape)}), the file of weights has {numbers} in {len(weights)}; the sizes and "
                "the weights of one net are expected"
            )

    handles = [register_module_parameter_registration_hook(count), register_module_buffer_registration_hook(count)]
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            build()
    finally:
        for handle in handles:
            handle.remove()
    return build()
