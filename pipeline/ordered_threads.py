"""Work done by threads beside the caller's own, its results in the order of what it was done on."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 2, ahead: int = 4
) -> Iterator[Result]:
    """Apply a function to items in threads, and yield the results in order.

    Items are taken in the caller's thread, up to ``ahead`` of them before the result in hand is used. Chained, one
    generator's threads decode while the caller computes and another's threads encode.

    Args:
        function: What to do; must be safe to be called from several threads at once.
        items: May be endless.
        threads: Number of threads.
        ahead: Results that may wait or be in work; bounds the memory.
    """
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller has stopped: begin no more
                future.cancel()
