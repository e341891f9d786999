"""Lets the nets of both trainings run out of memory: stage 3 in a forward pass, stage 1 in a backward pass."""

import os
from collections.abc import Callable
from typing import Any

import torch

from ovseg_models.proposal_net import ProposalNet
from pipeline.finetune.task import ImageSide

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB\nmore lines"


def shorten(samples: int, calls: int) -> None:
    """Patch both nets, in the last of the processes that train together alone.

    Args:
        samples: What fits from then on.
        calls: How often a net is called for training before.
    """
    if int(os.environ.get("RANK", "0")) < int(os.environ.get("WORLD_SIZE", "1")) - 1:
        return
    seen: list[int] = []

    def is_short(batch: torch.Tensor) -> bool:
        seen.append(len(batch))
        return len(seen) > calls and len(batch) > samples

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    def forward_or_fail(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: ImageSide, crops: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            if self.training and is_short(crops):
                fail()
            return forward(self, crops, *others)

        return run

    def failing_backward(forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(self: ProposalNet, images: torch.Tensor, **options: Any) -> Any:
            output = forward(self, images, **options)
            if self.training and is_short(images):
                output.proposal_embeddings.register_hook(fail)
            return output

        return run

    ImageSide.forward = forward_or_fail(ImageSide.forward)  # type: ignore[method-assign]
    ProposalNet.forward = failing_backward(ProposalNet.forward)  # type: ignore[method-assign]
