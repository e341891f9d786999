"""Building a net for weights that are already there, without trusting the sizes that a file asks for."""

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_parameter_registration_hook,
)

_Net = TypeVar("_Net", bound=nn.Module)
# Beside its weights a net holds tables and masks that follow from sizes: less than its weights, or of a tiny net few.
_NUMBERS_PER_NUMBER, _FREE_NUMBERS = 2, 2**24
_TENSORS_PER_TENSOR, _FREE_TENSORS = 2, 1000


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
