"""Runs a module as a program in which the nets of both trainings run out of memory, in its last process alone.

``python -m tests.pipeline.training.short_of_memory SAMPLES CALLS MODULE [arguments]``: SAMPLES fit once a net was
called CALLS times for training. Stage 3 then fails in a forward pass, stage 1 in a backward pass.
"""

import os
import runpy
import sys
from collections.abc import Callable
from typing import Any

import torch

from ovseg_models.proposal_net import ProposalNet
from pipeline.finetune.task import ImageSide

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB\nmore lines"


def shorten(samples: int, calls: int) -> None:
    """Patch both nets."""
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


def main() -> None:
    samples, calls, module, *arguments = sys.argv[1:]
    if int(os.environ.get("RANK", "0")) == int(os.environ.get("WORLD_SIZE", "1")) - 1:
        shorten(int(samples), int(calls))
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
