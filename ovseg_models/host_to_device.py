"""Copies from the host to a device for which the host does not wait.

A plain ``tensor.to("cuda")`` makes the host wait until the GPU has done all that was queued before it: torch starts
the copy and then synchronises the stream. With ``non_blocking=True`` it only starts it. That is safe from ordinary,
pageable memory too, since CUDA returns when it has taken the bytes into memory of its own. Up to 64 KiB it takes at
once; of more it may take the rest only when the stream comes to it, so larger copies go by way of pinned memory, which
torch keeps until the copy is done.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TAKEN_AT_ONCE_BYTES = 2**16
_ALIGNMENT_BYTES = 8  # of the widest numbers that are sent


def sent(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device that is not waited for; one that is on a device is moved by torch alone."""
    if values.device.type != "cpu":
        return values.to(device)  # without waiting, the host could read what has not arrived
    if device.type == "cuda" and values.nbytes > TAKEN_AT_ONCE_BYTES:
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def sent_together(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> tuple[Tensor, ...]:
    """Copy arrays of any types and shapes to a device in one copy; on the CPU they are shared, not copied."""
    if device.type == "cpu":
        return tuple(torch.from_numpy(array) for array in arrays)
    ends = np.cumsum([array.nbytes + -array.nbytes % _ALIGNMENT_BYTES for array in arrays])
    starts = [0, *ends[:-1].tolist()]
    packed = np.empty(int(ends[-1]), np.uint8)
    for start, array in zip(starts, arrays, strict=True):
        packed[start : start + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    there = sent(torch.from_numpy(packed), device)
    types = [torch.from_numpy(np.empty(0, array.dtype)).dtype for array in arrays]
    return tuple(
        there[start : start + array.nbytes].view(kind).view(array.shape)
        for start, array, kind in zip(starts, arrays, types, strict=True)
    )
