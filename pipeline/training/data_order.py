"""Which samples a step sees: a function of seed and step alone, whatever the workers, processes and restarts.

Each epoch is a permutation of all samples, drawn from (seed, epoch) by a counter-based generator, so any step's batch
is found without walking through the steps before it.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Draw(NamedTuple):
    """One sample of a batch.

    Attributes:
        epoch: How many times all samples were gone through before.
        sample: Number of the sample in the data set.
    """

    epoch: int
    sample: int


@dataclass(frozen=True, slots=True)
class DataOrder:
    """The endless sequence of batches of one run.

    Attributes:
        samples: Size of the data set.
        batch: Samples per step over all processes.
        seed: What decides the order.
        drop_last: Begin each epoch with a new batch, leaving out the samples that don't fill one; otherwise a batch may
            hold samples of two epochs.
    """

    samples: int
    batch: int
    seed: int
    drop_last: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch < 1:
            raise ValueError(
                f"data order: {self.samples} samples in batches of {self.batch}; give at least one of each"
            )
        if self.drop_last and self.samples < self.batch:
            raise ValueError(
                f"data order: {self.samples} samples don't fill one batch of {self.batch}; lower the batch"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the data set."""
        return self.samples // self.batch

    def batch_of(self, step: int, *, rank: int = 0, processes: int = 1) -> list[Draw]:
        """Return the samples of one step, or one process's part of them.

        Args:
            step: Number of the step, from 0.
            rank: Number of the process, from 0.
            processes: Number of processes; the parts in order of rank are the whole batch.

        Raises:
            ValueError: If the batch cannot be shared out evenly.
        """
        if self.batch % processes:
            raise ValueError(
                f"batch of {self.batch}: cannot be shared by {processes} processes; make it a multiple of them"
            )
        # All processes number the samples alike and take neighbouring parts: their batch is that of one process.
        per_epoch = self.steps_per_epoch * self.batch if self.drop_last else self.samples
        share = self.batch // processes
        first = step * self.batch + rank * share
        draws = []
        for position in range(first, first + share):  # of the endless sequence of all epochs
            epoch, place = divmod(position, per_epoch)
            draws.append(Draw(epoch, int(_permutation(self.samples, self.seed, epoch)[place])))
        return draws

    def batches(self, first_step: int, last_step: int, *, rank: int = 0, processes: int = 1) -> Iterator[list[Draw]]:
        """Yield one process's part of each step from ``first_step`` up to, not including, ``last_step``."""
        for step in range(first_step, last_step):
            yield self.batch_of(step, rank=rank, processes=processes)


@lru_cache(maxsize=2)  # a batch touches at most two epochs, unless the data set is smaller than a batch
def _permutation(samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    return generator(seed, "order", epoch).permutation(samples)


def generator(*parts: int | str) -> np.random.Generator:
    """Return a random generator that is a function of its arguments alone, such as seed, epoch and key of a sample."""
    return np.random.Generator(np.random.Philox(key=_number(parts, 16)))


def torch_seed(*parts: int | str) -> int:
    """Return a seed for torch that is a function of its arguments alone, such as seed, step and rank."""
    return _number(parts, 8) >> 1  # torch takes 63 bits


def _number(parts: tuple[int | str, ...], size_bytes: int) -> int:
    """Hash the parts, whose kinds and borders count, to a number."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=size_bytes).digest(), "little")
