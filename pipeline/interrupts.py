"""Holds a Ctrl-C back from code that it must not cut, and lets it through again where it may.

Libraries that start processes or speak to servers leave things half done, or take the interrupt for an error of their
own, when it strikes in the middle of them. Only the main thread is ever interrupted, so elsewhere nothing is held.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int | None


@dataclass(slots=True)
class _Hold:
    """One block in which interrupts are held back."""

    before: Handler  # of the signal, before the block
    came: bool = False  # an interrupt that has not taken effect

    def record(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True


_holds: list[_Hold] = []  # the innermost last


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a Ctrl-C that comes while the block runs take effect in `let_through`, or else at the block's end.

    One that comes while another is on its way out of the block has no effect.
    """
    if not _in_main_thread():
        yield
        return
    hold = _Hold(before=signal.getsignal(signal.SIGINT))
    _holds.append(hold)
    signal.signal(signal.SIGINT, hold.record)
    try:
        yield
    except KeyboardInterrupt:
        hold.came = False
        raise
    finally:
        _holds.pop()
        signal.signal(signal.SIGINT, hold.before)
        if hold.came:
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Undo the innermost `held_back` for the time of the block; what it held back takes effect at once."""
    if not _holds or not _in_main_thread():
        yield
        return
    hold = _holds[-1]
    signal.signal(signal.SIGINT, hold.before)
    try:
        if hold.came:
            hold.came = False
            signal.raise_signal(signal.SIGINT)
        yield
    finally:
        signal.signal(signal.SIGINT, hold.record)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
