"""Run lengths against plain numpy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from storage_schemas.errors import SchemaError
from storage_schemas.rle import areas_px, boxes_xyxy, decode_masks, encode_masks, iou_matrix

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
