"""A map in threads that keeps the order and bounds how far it works ahead.

Threads suffice for what is done here: Pillow decodes and resizes, torch and numpy compute, without the interpreter's
lock.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


_FEWEST, _MOST = 2, 8  # threads by default: a GPU takes no more than eight cores decode, and memory grows with them

_by_default = {"threads": _FEWEST}


def use_threads(setting: int | None, *, processes: int = 1) -> None:
    """Choose how many threads `in_threads` takes in this process where its caller doesn't say.

    Args:
        setting: The number; None for this process's share of the cores.
        processes: That share them.
    """
    # A job's share of the machine, where it has one (Linux).
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    _by_default["threads"] = setting or max(_FEWEST, min(_MOST, cores // max(1, processes)))


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int | None = None, ahead: int | None = None
) -> Iterator[Result]:
    """Apply a function to items in threads, and yield the results in order.

    Items are taken in the caller's thread, up to ``ahead`` of them before the result in hand is used. Chained, one
    generator's threads decode while the caller computes and another's threads encode.

    Args:
        function: What to do; must be safe to be called from several threads at once.
        items: May be endless.
        threads: Number of threads; None for what `use_threads` chose.
        ahead: Results that may wait or be in work; bounds the memory. None for two per thread.
    """
    # Not `ThreadPoolExecutor.map`: it takes all items at once, so neither endless items nor large ones would do.
    threads = threads or _by_default["threads"]
    ahead = 2 * threads if ahead is None else ahead
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:  # so at most `ahead` results wait while the caller uses this one
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller has stopped: begin no more
                future.cancel()
