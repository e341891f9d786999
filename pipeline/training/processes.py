"""The processes of one training run: one by default, more when started by ``torchrun``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.worker_device import chosen_device


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together.

    Attributes:
        rank: Number of this process, from 0; 0 writes files.
        count: Number of processes.
        device: Where this process computes.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return the tensors of all processes in order of rank, one after another along the first dimension.

        They must be of one shape. No gradient flows through.
        """
        if self.count == 1:
            return values.detach()
        parts = [torch.empty_like(values) for _ in range(self.count)]
        dist.all_gather(parts, values.detach().contiguous())
        return torch.cat(parts)

    def wait(self) -> None:
        """Wait until all processes are here."""
        if self.count > 1:
            dist.barrier()

    def from_first(self, value: int) -> int:
        """Return the first process's number on all of them."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64, device=self.device)
        dist.broadcast(shared, 0)
        return int(shared.item())


@contextmanager
def joined(device: str, threads: int) -> Iterator[Processes]:
    """Join the processes that ``torchrun`` started, or stand alone; leave them at the end.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:N"``, or ``"auto"``: CUDA where there is one.
        threads: Threads of torch in each of them. Sums on a CPU may depend on it, so a run that goes on must not take
            what an earlier stage or the machine happens to have set.

    Raises:
        PipelineError: If CUDA is asked for and there is none.
    """
    torch.set_num_threads(threads)
    count = int(os.environ.get("WORLD_SIZE", "1"))
    chosen = chosen_device(device, int(os.environ.get("LOCAL_RANK", "0")) if count > 1 else None)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen)
    finally:
        dist.destroy_process_group()
