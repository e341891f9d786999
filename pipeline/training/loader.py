"""Reads a run's samples ahead in other processes; what comes, and in which order, is the data order's alone."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.training.data_order import DataOrder, Draw
from pipeline.training.processes import Processes

Sample_co = TypeVar("Sample_co", covariant=True)
_AHEAD = 4  # batches that each worker prepares before they are asked for


class SampleSource(Protocol[Sample_co]):
    """Makes a sample from a draw; picklable. Equal draws give equal samples, in any process."""

    def sample(self, draw: Draw) -> Sample_co:
        """Read and augment one sample."""
        ...


@dataclass(frozen=True, slots=True)
class _Drawn(Dataset[Sample_co], Generic[Sample_co]):
    """A source as torch's DataLoader wants it."""

    source: SampleSource[Sample_co]

    def __getitem__(self, draw: Draw) -> Sample_co:
        return self.source.sample(draw)


@contextlib.contextmanager
def loading(
    source: SampleSource[Sample_co],
    order: DataOrder,
    *,
    first_step: int,
    steps: int,
    processes: Processes,
    workers: int,
) -> Iterator[Iterator[Sequence[Sample_co]]]:
    """Open the stream of one process's samples.

    Args:
        source: Makes the samples.
        order: Decides which.
        first_step: Step to begin with; the samples before it are not read.
        steps: Steps of the whole run, at which the stream ends.
        processes: The processes that share each batch.
        workers: Processes that read ahead; 0 reads in this one.

    Yields:
        An iterator with one list of samples per step.
    """
    loader: DataLoader[Sample_co] = DataLoader(
        _Drawn(source),
        batch_sampler=_Batches(order, first_step, steps, processes.rank, processes.count),
        collate_fn=list,
        num_workers=workers,
        prefetch_factor=_AHEAD if workers else None,
        pin_memory=processes.device.type == "cuda",
        multiprocessing_context="spawn" if workers else None,  # fork copies held locks; a forkserver hides our death
        worker_init_fn=_use_one_thread if workers else None,
        generator=torch.Generator(),  # the global one is left alone
    )
    batches = iter(loader)
    try:
        yield batches
    finally:
        del batches  # ends the workers now rather than at the next garbage collection


@dataclass(frozen=True, slots=True)
class _Batches:
    """The draws of each step, as torch's DataLoader wants them."""

    order: DataOrder
    first_step: int
    steps: int
    rank: int
    processes: int

    def __iter__(self) -> Iterator[list[Draw]]:
        return self.order.batches(self.first_step, self.steps, rank=self.rank, processes=self.processes)

    def __len__(self) -> int:
        return self.steps - self.first_step


def _use_one_thread(_: int) -> None:
    torch.set_num_threads(1)
