"""Crops of many images through one model in full batches, and smaller ones where memory does not suffice."""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import torch
from torch import Tensor

from pipeline.errors import StageError
from pipeline.worker_device import is_out_of_memory

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


def in_full_batches(
    groups: Iterable[tuple[Item, tuple[Tensor, ...]]], forward: Callable[..., Tensor], *, size: int
) -> Iterator[tuple[Item, Tensor]]:
    """Apply a model to groups of rows, always ``size`` rows at a time but for the last time.

    Which rows go together follows from the order of the groups and ``size`` alone, so that the results of a shard have
    the same bits on every run.

    Args:
        groups: Items with the model's arguments, each [row ...]; a group may be empty.
        forward: From rows to results, one each.
        size: Rows of a batch.

    Yields:
        Each item with its results, in order.
    """
    waiting: deque[tuple[Item, int]] = deque()
    parts: list[tuple[Tensor, ...]] = []
    results: list[Tensor] = []
    for item, group in groups:
        waiting.append((item, len(group[0])))
        parts.append(group)
        while sum(len(part[0]) for part in parts) >= size:
            joined = [torch.cat(same) for same in zip(*parts, strict=True)]
            results.append(forward(*(rows[:size] for rows in joined)))
            parts = [tuple(rows[size:] for rows in joined)]
        yield from _completed(waiting, results)
    if any(len(part[0]) for part in parts):
        results.append(forward(*(torch.cat(same) for same in zip(*parts, strict=True))))
    yield from _completed(waiting, results)


def _completed(waiting: deque[tuple[Item, int]], results: list[Tensor]) -> Iterator[tuple[Item, Tensor]]:
    """Hand out the items at the front whose results are all there, and take both away."""
    while waiting and waiting[0][1] <= sum(map(len, results)):
        item, count = waiting.popleft()
        if results:
            joined = torch.cat(results)
            results[:] = [joined[count:]]
            yield item, joined[:count]
        else:  # nothing went through the model yet, and this item has no rows
            yield item, torch.empty(0)


class OutOfMemoryBackOff:
    """A model that takes fewer rows at a time once memory ran out.

    Args:
        model: From rows, in one argument or more, to results, one each.
        where: What runs out of memory, for messages.
    """

    def __init__(self, model: Callable[..., Tensor], *, where: str) -> None:
        self._model = model
        self._where = where
        self._at_once: int | None = None

    def __call__(self, *rows: Tensor) -> Tensor:
        """Return the model's results.

        Raises:
            StageError: If memory does not suffice for a single row.
        """
        results: list[Tensor] = []
        start, count = 0, len(rows[0])
        while start < count:
            some = [part[start : start + (self._at_once or count)] for part in rows]
            if (result := self._tried(*some)) is not None:
                results.append(result)
                start += len(some[0])
        return torch.cat(results)

    def _tried(self, *rows: Tensor) -> Tensor | None:
        """Run the model; where memory runs out, halve what it gets and return None."""
        try:
            return self._model(*rows)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            reason = str(error)
        count = len(rows[0])
        if count == 1:
            message = f"{self._where}: memory does not suffice for one crop ({reason}); free the device, or use another"
            raise StageError(message)
        self._at_once = count // 2
        logger.warning("%s: memory does not suffice for %d crops, %d go on", self._where, count, self._at_once)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None
