"""When a Ctrl-C takes effect."""

import signal
import threading

import pytest

from pipeline.interrupts import held_back, let_through


def interrupt() -> None:
    signal.raise_signal(signal.SIGINT)


def interrupt_and(seen: list[str]) -> None:
    interrupt()
    seen.append("went on")


@pytest.fixture(autouse=True)
def handler_is_put_back() -> None:
    """See to it that Ctrl-C raises, as it does in a process of its own."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_waits_for_the_end_of_the_block() -> None:
    seen: list[str] = []
    with pytest.raises(KeyboardInterrupt), held_back():
        interrupt_and(seen)
    assert seen == ["went on"]
    with pytest.raises(KeyboardInterrupt):
        interrupt()  # is held back no more


def test_an_interrupt_takes_effect_where_it_is_let_through() -> None:
    seen: list[str] = []

    def work() -> None:
        with held_back():
            with let_through():
                seen.append("not interrupted yet")
            interrupt_and(seen)
            with let_through():
                seen.append("never reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["not interrupted yet", "went on"]
    with pytest.raises(KeyboardInterrupt), held_back(), let_through():
        interrupt_and(seen)
    assert seen == ["not interrupted yet", "went on"]


def test_blocks_may_lie_in_each_other() -> None:
    seen: list[str] = []

    def work() -> None:
        with held_back(), let_through(), held_back():
            interrupt_and(seen)
            with let_through():
                seen.append("never reached")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert seen == ["went on"]
    with pytest.raises(KeyboardInterrupt), held_back(), held_back(), let_through():  # the outer one still holds it
        interrupt_and(seen)
    assert seen == ["went on", "went on"]


def test_an_interrupt_on_its_way_is_the_only_one() -> None:
    def work() -> None:
        with held_back():
            try:
                with let_through():
                    interrupt()
            finally:
                interrupt()  # the impatient user's second one

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert raised.value.__context__ is None


def test_an_interrupt_outlives_an_error() -> None:
    def work() -> None:
        with held_back():
            interrupt()
            message = "trouble"
            raise ValueError(message)

    with pytest.raises(KeyboardInterrupt) as raised:
        work()
    assert isinstance(raised.value.__context__, ValueError)


def test_other_threads_hold_nothing_back() -> None:
    seen: list[object] = []

    def look() -> None:
        with held_back(), let_through():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.default_int_handler]
