"""Full batches out of groups of any size, and what happens when memory runs out."""

import logging
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import StageError
from pipeline.mine.full_batches import OutOfMemoryBackOff, in_full_batches


@given(st.lists(st.integers(0, 7), max_size=8), st.integers(1, 6))
def test_every_row_comes_back_to_its_item_and_batches_are_full(counts, size):
    rows = torch.arange(2.0 * sum(counts)).view(-1, 2)
    seen: list[int] = []

    def forward(batch, next_to_it):
        seen.append(len(batch))
        assert torch.equal(next_to_it, batch + 1)
        return batch.sum(dim=1, keepdim=True)

    parts = rows.split(counts) if counts else ()
    groups = [(item, (part, part + 1)) for item, part in zip("abcdefgh", parts, strict=False)]
    found = list(in_full_batches(groups, forward, size=size))
    assert [item for item, _ in found] == [item for item, _ in groups]
    for (_, result), (_, (group, _)) in zip(found, groups, strict=True):
        torch.testing.assert_close(result, group.sum(dim=1, keepdim=True)) if len(group) else None
        assert len(result) == len(group)
    assert all(count == size for count in seen[:-1])
    assert sum(seen) == sum(counts)


def test_items_come_as_soon_as_their_rows_are_done():
    read: list[str] = []

    def groups():
        for item in "abcd":
            read.append(item)
            yield item, (torch.zeros(2, 1),)

    results = in_full_batches(groups(), lambda rows: rows, size=3)
    assert next(results)[0] == "a"
    assert read == ["a", "b"]


class ShortOfMemory:
    """A model for which more than a few rows are too many."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.asked: list[int] = []

    def __call__(self, rows):
        self.asked.append(len(rows))
        if len(rows) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return 2 * rows


def test_batches_are_halved_until_memory_suffices_and_stay_so(caplog):
    model = ShortOfMemory(3)
    sparing = OutOfMemoryBackOff(model, where="embed")
    rows = torch.arange(13.0)[:, None]
    with caplog.at_level(logging.WARNING):
        torch.testing.assert_close(sparing(rows), 2 * rows)
        torch.testing.assert_close(sparing(rows[:4]), 2 * rows[:4])
    assert model.asked == [13, 6, 3, 3, 3, 3, 1, 3, 1]
    assert "embed: memory does not suffice for 13 crops, 6 go on" in caplog.text


def test_memory_for_not_even_one_row_is_an_error():
    sparing = OutOfMemoryBackOff(ShortOfMemory(0), where="embed")
    message = "embed: memory does not suffice for one crop (CUDA out of memory"
    with pytest.raises(StageError, match=re.escape(message)):
        sparing(torch.zeros(5, 1))


def test_other_errors_pass_through():
    def broken(rows):
        raise ValueError("shapes differ")

    with pytest.raises(ValueError, match="shapes differ"):
        OutOfMemoryBackOff(broken, where="embed")(torch.zeros(2, 1))
