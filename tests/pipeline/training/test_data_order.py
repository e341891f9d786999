"""The data order is a function of seed and step alone."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.data_order import DataOrder, generator, torch_seed


@given(samples=st.integers(1, 40), batch=st.integers(1, 12), seed=st.integers(0, 99))
def test_every_sample_comes_once_an_epoch(samples: int, batch: int, seed: int) -> None:
    order = DataOrder(samples, batch, seed)
    draws = [draw for step in range(3 * samples) for draw in order.batch_of(step)]
    first_epochs = [draw for draw in draws if draw.epoch < 3 * batch]
    counts = Counter(first_epochs)
    assert set(counts.values()) == {1}
    assert sorted(draw.sample for draw in draws if draw.epoch == 1) == list(range(samples))


@given(samples=st.integers(8, 40), step=st.integers(0, 100), processes=st.sampled_from([1, 2, 4, 8]))
def test_the_parts_of_all_processes_are_the_batch(samples: int, step: int, processes: int) -> None:
    order = DataOrder(samples, 8, 3)
    parts = [order.batch_of(step, rank=rank, processes=processes) for rank in range(processes)]
    assert [draw for part in parts for draw in part] == order.batch_of(step)


@given(samples=st.integers(8, 40), seed=st.integers(0, 99))
def test_dropping_the_last_samples_begins_each_epoch_with_a_new_batch(samples: int, seed: int) -> None:
    order = DataOrder(samples, 8, seed, drop_last=True)
    for step in range(3 * order.steps_per_epoch):
        batch = order.batch_of(step)
        assert {draw.epoch for draw in batch} == {step // order.steps_per_epoch}
        assert len({draw.sample for draw in batch}) == 8


def test_a_later_step_needs_no_earlier_one() -> None:
    from_start = list(DataOrder(10, 4, 0).batches(0, 9))
    assert list(DataOrder(10, 4, 0).batches(6, 9)) == from_start[6:]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    first = [draw.sample for draw in DataOrder(30, 30, 0).batch_of(0)]
    second = [draw.sample for draw in DataOrder(30, 30, 0).batch_of(1)]
    other = [draw.sample for draw in DataOrder(30, 30, 1).batch_of(0)]
    assert first != second != other != first


def test_orders_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="give at least one"):
        DataOrder(0, 4, 0)
    with pytest.raises(ValueError, match="don't fill one batch of 4"):
        DataOrder(3, 4, 0, drop_last=True)
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        DataOrder(8, 4, 0).batch_of(0, rank=0, processes=3)


def test_generators_depend_on_all_their_parts() -> None:
    values = {tuple(generator(*parts).integers(0, 2**60, 2)) for parts in [(1, "a"), (1, "b"), (2, "a"), ("1", "a")]}
    assert len(values) == 4
    assert len({torch_seed(0, "step", step) for step in range(100)}) == 100
