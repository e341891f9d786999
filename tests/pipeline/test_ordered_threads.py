"""Results in order, items taken no further ahead than said, errors where they happen."""

import threading
import time

import pytest

from pipeline.ordered_threads import in_threads


def test_results_are_in_order_whoever_is_first():
    def slow_if_even(number):
        time.sleep(0.01 if number % 2 == 0 else 0)
        return number * number

    assert list(in_threads(slow_if_even, range(20), threads=4)) == [number * number for number in range(20)]


def test_items_are_taken_in_the_callers_thread_and_not_too_far_ahead():
    taken: list[int] = []

    def items():
        for number in range(100):
            assert threading.current_thread() is threading.main_thread()
            taken.append(number)
            yield number

    results = in_threads(lambda number: number, items(), threads=2, ahead=3)
    assert next(results) == 0
    assert len(taken) == 4
    results.close()
    assert len(taken) == 4


def test_work_runs_beside_the_callers():
    both = threading.Barrier(2, timeout=20)
    results = in_threads(lambda _: both.wait(), range(2), threads=2, ahead=1)
    assert sorted(results) == [0, 1]


def test_an_error_comes_out_in_its_turn():
    results = in_threads(lambda number: 1 // number, [1, 0, 1])
    assert next(results) == 1
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_no_items_give_no_results():
    assert list(in_threads(str, [])) == []
