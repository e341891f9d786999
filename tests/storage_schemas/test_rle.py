"""Run lengths against plain numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco_mask

from storage_schemas.errors import SchemaError
from storage_schemas.rle import (
    areas_px,
    boxes_xyxy,
    compressed,
    decode_masks,
    encode_masks,
    iou_matrix,
    run_lengths_of,
)

masks = arrays.arrays(np.bool_, st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(1, 9)))


def naive_box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1] if mask.any() else [0, 0, 0, 0]


@given(masks)
def test_masks_come_back_with_areas_boxes_and_overlaps(stack: np.ndarray) -> None:
    size = stack.shape[1:]
    counts = encode_masks(stack)
    np.testing.assert_array_equal(decode_masks(counts, *size), stack)
    np.testing.assert_array_equal(areas_px(counts, *size), stack.sum(axis=(1, 2)))
    np.testing.assert_array_equal(
        boxes_xyxy(counts, *size), np.array([naive_box(mask) for mask in stack]).reshape(-1, 4)
    )
    intersection = (stack[:, None] & stack[None]).sum(axis=(2, 3))
    union = (stack[:, None] | stack[None]).sum(axis=(2, 3))
    expected = np.where(union > 0, intersection / np.maximum(union, 1), 0)
    np.testing.assert_allclose(iou_matrix(counts, counts, *size), expected, atol=1e-12)


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (64, 64)])
def test_empty_and_full_masks(fill: bool, size: tuple[int, int]) -> None:
    stack = np.full((2, *size), fill)
    np.testing.assert_array_equal(decode_masks(encode_masks(stack), *size), stack)


def test_masks_of_a_transposed_or_strided_array_come_back() -> None:
    stack = np.random.default_rng(0).random((5, 7, 6)) > 0.5
    for view in (stack.transpose(0, 2, 1), stack[::2, ::2, ::3]):
        np.testing.assert_array_equal(decode_masks(encode_masks(view), *view.shape[1:]), view)


def test_what_is_no_stack_of_masks_is_refused() -> None:
    with pytest.raises(SchemaError, match="found uint8 of shape"):
        encode_masks(np.zeros((1, 2, 2), np.uint8))
    with pytest.raises(SchemaError, match=r"found bool of shape \(2, 2\)"):
        encode_masks(np.zeros((2, 2), np.bool_))
    with pytest.raises(SchemaError, match="side of 0 px"):
        encode_masks(np.zeros((1, 0, 2), np.bool_))


def coco_counts(lengths: list[int]) -> bytes:
    """Compress run lengths by pycocotools."""
    return coco_mask.frPyObjects({"size": [1, sum(lengths)], "counts": lengths}, 1, sum(lengths))["counts"]


lengths_of_one = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 2**26)), min_size=1, max_size=7)


@given(st.lists(lengths_of_one, max_size=5), st.booleans())
def test_counts_are_those_of_pycocotools(masks_runs: list[list[int]], begins_inside: bool) -> None:
    if begins_inside:
        masks_runs = [[0, *lengths] for lengths in masks_runs]
    lengths = np.array([length for of_one in masks_runs for length in of_one], np.int64)
    runs = np.array([len(of_one) for of_one in masks_runs], np.int64)
    counts = compressed(lengths, runs)
    assert counts == [coco_counts(of_one) for of_one in masks_runs]
    for one, of_one in zip(counts, masks_runs, strict=True):
        back, number = run_lengths_of([one], 1, sum(of_one))
        assert back.tolist() == of_one
        assert number.tolist() == [len(of_one)]


@given(masks)
def test_run_lengths_of_several_masks_come_back(stack: np.ndarray) -> None:
    counts = encode_masks(stack)
    lengths, runs = run_lengths_of(counts, *stack.shape[1:])
    assert len(runs) == len(stack)
    assert compressed(lengths, runs) == counts
    values = np.concatenate([np.arange(number) % 2 for number in runs]) if len(runs) else lengths
    columns = np.repeat(values.astype(bool), lengths).reshape(-1, stack.shape[2], stack.shape[1])
    np.testing.assert_array_equal(columns.transpose(0, 2, 1), stack)


@pytest.mark.parametrize("numbers", [[2**31 - 1], [0, 2**31 - 1], [7, 2**31 - 1, 3, 1, 2**30, 2**20, 2**15, 1]])
def test_lengths_of_32_bits_are_kept(numbers: list[int]) -> None:
    counts = compressed(np.array(numbers), np.array([len(numbers)]))
    assert run_lengths_of(counts, 1, sum(numbers))[0].tolist() == numbers


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        (b"", "cut off"),
        (b"l", "cut off"),
        (b"0\xff", "characters that counts do not have"),
        (b"PPPPPPPP0", "cut off"),
        (b"4", "other masks than 2 x 3 px"),
        (b"3N3N", "other masks than 2 x 3 px"),
    ],
)
def test_damaged_counts_are_refused(counts: bytes, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        run_lengths_of([b"6", counts], 3, 2)


@pytest.mark.parametrize(("lengths", "runs"), [([3, -1], [2]), ([3], [2]), ([3], [1, 0]), ([2**32], [1])])
def test_lengths_that_are_none_are_refused(lengths: list[int], runs: list[int]) -> None:
    with pytest.raises(SchemaError, match="each mask has at least one run"):
        compressed(np.array(lengths), np.array(runs))
