"""What happens at Ctrl-C, and the blocks of code that hold it back.

In order, in a run of ``ovseg``:

1. The terminal sends SIGINT to all processes of the group. Workers have it blocked (`executors._local_cluster`), so it
   reaches the main thread of this process alone.
2. In code that it must not cut, it is only noted: libraries that start processes or speak to servers leave things half
   done, or take the interrupt for an error of their own. `held_back` marks such code, `let_through` the places within
   where it may take effect. All else is interrupted at once.
3. As a ``KeyboardInterrupt`` it leaves `shard_runner.run_stage`, where one line says how many units are saved. Nothing
   has to be saved at this point: each unit was committed when it was done, and one that was not leaves only temporary
   files, which nobody reads.
4. Units that run are cancelled, and workers stopped (`executors.executor_for`); the artifact's lock is released.
5. The command ends with exit code 130 (`flows.command`). The same command, typed again, makes what is missing.

Only the main thread is ever interrupted, so elsewhere nothing is held back.
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

    before: Handler  # what SIGINT did before the block: raise KeyboardInterrupt, or `record` of an outer block
    came: bool = False  # whether one came that has not taken effect

    def record(self, _number: int, _frame: FrameType | None) -> None:
        self.came = True


_holds: list[_Hold] = []  # the innermost last


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Let a Ctrl-C that comes while the block runs take effect in `let_through`, or else at the block's end.

    One that comes while another is on its way out of the block has no effect: the user has pressed twice.
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
        if hold.came:  # raised as a signal, so that an outer block holds it back in turn
            signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def let_through() -> Iterator[None]:
    """Lift the innermost `held_back` while the block runs; what it held back takes effect at once."""
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
