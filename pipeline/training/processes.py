"""The processes of one training run: one by default, more when started by ``torchrun``."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from pipeline.worker_device import chosen_device, use_deterministic_algorithms

STEP_LIMIT = timedelta(minutes=30)
"""Longest wait within a step. A loader gives up on a batch after half of it."""

PATIENT_LIMIT = timedelta(days=2)
"""Longest wait for the first process while it prepares data, embeds nouns or writes a checkpoint.

Preparing a large data set in one process takes hours, where NCCL gives up after ten minutes. A process that dies ends
the wait of the others at once: ``torchrun`` stops them.
"""


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those that train together.

    Tensors on the CPU travel through the CPU (gloo), those on CUDA from device to device (NCCL).

    Attributes:
        rank: Number of this process, from 0; 0 writes files.
        device: Where this process computes.
        patient: The same processes as a group whose members wait for hours; None where there is one process.
    """

    rank: int
    count: int
    device: torch.device
    patient: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def share(self, items: int) -> range:
        """Return the numbers of this process's part of some items, every ``count``-th of them."""
        return range(self.rank, items, self.count)

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.count > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def any(self, mine: bool) -> bool:
        """Return whether it is so in any process; the device is not waited for."""
        if self.count == 1:
            return mine
        votes = torch.tensor(int(mine))  # on the CPU, so that gloo carries it: nothing is queued on the device
        dist.all_reduce(votes)
        return bool(votes.item())

    def take_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first process."""
        for tensor in tensors if self.count > 1 else ():
            sent = tensor.detach().contiguous()  # no backend sends a channels-last tensor as it is
            dist.broadcast(sent, 0)
            tensor.detach().copy_(sent)

    def wait(self) -> None:
        """Wait until all processes are here, for hours if need be."""
        if self.count > 1:
            dist.barrier(self.patient)

    def from_first(self, value: int) -> int:
        """Return the first process's number on all of them; they wait for hours if need be."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.int64)
        dist.broadcast(shared, 0, group=self.patient)
        return int(shared.item())


class SummedGradients:
    """The gradients of one step, which become their sum over all processes in one exchange at its end.

    DistributedDataParallel exchanges them while the backward pass runs. A process whose memory runs out in that pass
    would leave the others waiting forever; here it can say so first.

    Args:
        parameters: What is trained, in the same order in all processes, of one type.
        processes: The processes that train together.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], processes: Processes) -> None:
        self.parameters = parameters
        self._processes = processes
        # One block of memory for all, taken now: the exchange needs none when a step has used all that there is.
        self._block = None
        if processes.count > 1:
            self._block = torch.zeros(sum(map(torch.numel, parameters)), device=processes.device)

    def clear(self) -> None:
        """Begin a step: no gradients."""
        if self._block is None:
            for parameter in self.parameters:
                parameter.grad = None
            return
        self._block.zero_()
        first = 0
        for parameter in self.parameters:  # the backward pass adds to views of the block
            parameter.grad = self._block[first : first + parameter.numel()].view(parameter.shape)
            first += parameter.numel()

    def exchange(self) -> None:
        """Add up what the processes have found."""
        # The sum, not the mean: losses are normalised over all processes already. A parameter that no process used has
        # a gradient of zeros, as views of the block have.
        if self._block is not None:
            dist.all_reduce(self._block)


@contextmanager
def joined(device: str, threads: int, *, deterministic: bool = False) -> Iterator[Processes]:
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
    if deterministic:
        use_deterministic_algorithms(chosen)
    if count == 1:
        yield Processes(0, 1, chosen)
        return
    on_cuda = chosen.type == "cuda"
    if on_cuda:
        torch.cuda.set_device(chosen)  # else what is allocated without a device's number lands on the first GPU
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_cuda else "gloo", timeout=STEP_LIMIT, device_id=chosen if on_cuda else None
    )
    try:
        patient = cast("dist.ProcessGroup", dist.new_group(backend="gloo", timeout=PATIENT_LIMIT))
        yield Processes(dist.get_rank(), dist.get_world_size(), chosen, patient)
    finally:
        dist.destroy_process_group()
