"""Memory for time: what a module's backward pass needs is computed again instead of being kept."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


class Blocks(nn.Sequential):
    """Blocks of a backbone, one after another, each of which can be computed again in the backward pass.

    Attributes:
        checkpointing: Whether they are; results, gradients and statistics have the same bits either way on a CPU.
    """

    checkpointing: bool = False

    def forward(self, features: Tensor) -> Tensor:
        """Apply the blocks."""
        for block in self:
            features = checkpointed(block, features) if self.checkpointing else block(features)
        return features


def checkpointed(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call a module or function, keep its arguments alone for the backward pass, and call it again there.

    Random numbers are the same both times. Batch norms inside update their running statistics the first time alone.
    """
    if not torch.is_grad_enabled():
        return function(*arguments)
    module = function if isinstance(function, nn.Module) else None
    result: Result = checkpoint(
        function,
        *arguments,
        use_reentrant=False,
        context_fn=lambda: (contextlib.nullcontext(), _statistics_kept(module)),
    )
    return result


def running_statistics(module: nn.Module) -> list[Tensor]:
    """Return what those batch norms that are in training mode learn from a forward pass."""
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = (each for each in module.modules() if isinstance(each, kinds) and each.training)
    return [statistic for norm in norms for statistic in norm.buffers(recurse=False)]


@contextlib.contextmanager
def _statistics_kept(module: nn.Module | None) -> Iterator[None]:
    """Bring the running statistics of batch norms back to what they were."""
    statistics = running_statistics(module) if module else []
    before = [statistic.clone() for statistic in statistics]
    try:
        yield
    finally:
        for statistic, value in zip(statistics, before, strict=True):
            statistic.data.copy_(value)  # by way of data: autograd would take the norm's input for changed
