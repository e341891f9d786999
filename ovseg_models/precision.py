"""Precisions that nets compute in, and how CUDA multiplies numbers of single precision.

"tf32" rounds the factors of products to half precision's 10 bits of mantissa; "bf16" and "fp16" compute in half
precision what torch's autocast chooses. On a CPU each means full single precision.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal, TypeAlias

import torch
from torch import nn

Precision: TypeAlias = Literal["fp32", "tf32", "bf16", "fp16"]  # in pipeline.settings too, which imports no torch

_lock = threading.Lock()
_entered: list[bool] = []  # what the contexts that are open now ask for, the latest last
_before = [False, True]  # the switches of matmul and cuDNN outside of all contexts


@contextmanager
def autocast(device: torch.device, precision: Precision) -> Iterator[None]:
    """Let nets compute in a precision; on a CPU always in full single precision.

    In half precision autocast chooses the operations; what it leaves in single precision is computed in full. Without
    this context torch computes CUDA's convolutions in TF32 and other products in full, so "fp32" needs it too.
    """
    with single_precision(device, precision):
        dtype = half_precision(device, precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            yield


@contextmanager
def single_precision(device: torch.device, precision: Precision) -> Iterator[None]:
    """Let numbers of single precision be multiplied in a precision's way: as TF32, or in full for all others.

    This is the part of a precision that holds for a whole run, backward passes and validation included.
    """
    if device.type == "cuda":
        with tf32_products(enabled=precision == "tf32"):
            yield
    else:
        yield


def half_precision(device: torch.device, precision: Precision) -> torch.dtype | None:
    """Return the type that autocast computes in; None on a CPU, and where a precision has 32 bits."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision) if device.type == "cuda" else None


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute without autocast and TF32, whatever the caller's precision is: for what 10 bits are too coarse for."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(tf32_products(enabled=False))
        yield


@contextmanager
def tf32_products(*, enabled: bool) -> Iterator[None]:
    """Let cuBLAS and cuDNN round the factors of products to TF32, or neither; by torch's default cuDNN alone does.

    The switches belong to the whole process, and a backward pass takes them as it finds them. So enclose it too.
    Contexts of one kind may overlap in threads: the last one that is left puts back what was there before the first.
    Those of different kinds must not. A CPU knows no TF32.
    """
    # torch's older switches: the newer ones (`fp32_precision`) make those that torch.compile reads raise an error.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    with _lock:
        if not _entered:
            _before[:] = matmul.allow_tf32, cudnn.allow_tf32
        _entered.append(enabled)
        matmul.allow_tf32 = cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        with _lock:
            # Contexts of one thread are left in reverse order: of equal ones it doesn't matter which.
            del _entered[len(_entered) - 1 - _entered[::-1].index(enabled)]
            matmul.allow_tf32, cudnn.allow_tf32 = (_entered[-1],) * 2 if _entered else _before


def keep_half(module: nn.Module, dtype: torch.dtype) -> None:
    """Keep the weights of products and convolutions in half precision, in place.

    These are the weights that autocast rounds to half precision whenever it multiplies with them, so that under it
    results stay the same to the bit. All others (norms, positions, prompts), which are few, stay in single precision.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d):
            names = ("weight", "bias")
        elif isinstance(part, nn.MultiheadAttention):
            names = ("in_proj_weight", "in_proj_bias")
        else:
            continue
        for name in names:
            parameter = getattr(part, name)
            if parameter is not None:
                parameter.data = parameter.data.to(dtype)
