"""How CUDA multiplies numbers of single precision: in full, or as TF32, with half precision's 10 bits of mantissa."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def tf32_products(*, enabled: bool) -> Iterator[None]:
    """Let cuBLAS and cuDNN round the factors of products to TF32, or neither; by torch's default cuDNN alone does.

    The switches belong to the whole process, and a backward pass takes them as it finds them. So enclose it too, and
    don't let contexts of different kinds overlap in threads. A CPU knows no TF32.
    """
    # torch's older switches: the newer ones (`fp32_precision`) make those that torch.compile reads raise an error.
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = enabled
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Compute without autocast and TF32, whatever the caller's precision is: for what 10 bits are too coarse for."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(tf32_products(enabled=False))
        yield
