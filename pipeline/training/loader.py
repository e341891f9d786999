"""Reads a run's batches ahead in other processes; what comes, and in which order, is the data order's alone."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.training.data_order import DataOrder, Draw
from pipeline.training.processes import Processes

Batch = TypeVar("Batch", bound=tuple[Tensor, ...])
"""A NamedTuple of tensors on the CPU, all with one row per sample."""

Batch_co = TypeVar("Batch_co", bound=tuple[Tensor, ...], covariant=True)

_AHEAD = 4  # batches that each worker prepares before they are asked for
_LIMIT_S = 900  # no batch takes as long: a worker that is stuck ends the run instead of holding it forever


class BatchSource(Protocol[Batch_co]):
    """Makes a batch from draws; picklable. Equal draws give equal batches, in any process."""

    def batch(self, draws: Sequence[Draw]) -> Batch_co:
        """Read and augment samples, and stack them.

        A worker hands over each tensor by a file descriptor of its own. So it stacks a batch to a few tensors: one
        tensor per sample would run into the limit of open files, and leave the stacking to the training process.
        """
        ...


def size(batch: tuple[Tensor, ...]) -> int:
    """Return the number of samples of a batch."""
    return len(batch[0])


def rows(batch: Batch, first: int, end: int) -> Batch:
    """Return some samples of a batch, from ``first`` up to, not including, ``end``."""
    return type(batch)(*(tensor[first:end] for tensor in batch))


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Copy a batch to a device; from pinned memory the copy runs beside what the device has in work."""
    return type(batch)(*(tensor.to(device, non_blocking=True) for tensor in batch))


@dataclass(frozen=True, slots=True)
class _Batches(Dataset[Batch_co], Generic[Batch_co]):
    """A source in the form of torch's data sets, whose items are whole batches."""

    source: BatchSource[Batch_co]

    def __getitem__(self, draws: list[Draw]) -> Batch_co:
        return self.source.batch(draws)


@contextlib.contextmanager
def loading(
    source: BatchSource[Batch_co],
    order: DataOrder,
    *,
    first_step: int,
    steps: int,
    processes: Processes,
    workers: int,
) -> Iterator[Iterator[Batch_co]]:
    """Open the stream of one process's batches.

    Args:
        source: Makes the batches.
        order: Decides which.
        first_step: Step to begin with; the samples before it are not read.
        steps: Steps of the whole run, at which the stream ends.
        processes: The processes that share each batch.
        workers: Processes that read ahead; 0 reads in this one.

    Yields:
        An iterator with one batch per step, in pinned memory where the training runs on CUDA.
    """
    # A worker gets the draws of a whole step and knows nothing of the others. Which worker makes a batch, and how many
    # there are, so cannot change it; and the DataLoader hands batches out in the order in which it asked for them.
    loader: DataLoader[Batch_co] = DataLoader(
        _Batches(source),
        batch_size=None,  # the sampler's items are batches already
        sampler=order.batches(first_step, steps, rank=processes.rank, processes=processes.count),
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=processes.device.type == "cuda",
        timeout=_LIMIT_S if workers else 0,
        multiprocessing_context="spawn" if workers else None,  # fork copies held locks; a forkserver hides our death
        generator=torch.Generator(),  # the loader draws a seed for its workers: not from the steps' generator
    )
    batches = iter(loader)
    try:
        yield batches
    finally:
        del batches  # ends the workers now rather than at the next garbage collection


def lost_worker(error: RuntimeError) -> str:
    """Return what to do about a loader worker that died or is stuck; empty if the error is another one.

    torch has no type of its own for these errors, only their texts; they may come up anywhere in the training process.
    """
    text = str(error)
    if "DataLoader" not in text or not ("worker" in text or "timed out" in text):
        return ""
    return (
        f"a process that reads samples ended or is stuck ({text.splitlines()[0]}); lower compute.loader_workers if "
        "memory or /dev/shm is full, or raise the limit of open files (ulimit -n); then run the same command again, it "
        "goes on from the last checkpoint"
    )
