"""Windows: of picture and mask alike, within their bounds, never without a pixel of the mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetune.augmentation import Window, WindowAugmentation

WHOLE = WindowAugmentation(min_scale=1.0, max_aspect=1.0)
PAPER = WindowAugmentation(min_scale=0.9, max_aspect=4 / 3)


def full(height: int, width: int) -> np.ndarray:
    return np.ones((height, width), np.bool_)


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0.05, 1),
    st.floats(1, 4),
    st.integers(0, 2**31),
)
def test_a_window_lies_in_the_crop_and_holds_a_pixel_of_the_mask(
    height: int, width: int, min_scale: float, max_aspect: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.bool_)
    mask[rng.integers(height), rng.integers(width)] = True
    window = WindowAugmentation(min_scale, max_aspect).window(mask, rng)
    assert 0 <= window.left < window.right <= width
    assert 0 <= window.top < window.bottom <= height
    assert window.of(mask).any()


def test_area_and_aspect_have_the_bounds_of_the_settings() -> None:
    rng = np.random.default_rng(0)
    height, width = 1000, 3000
    areas, aspects = [], []
    for _ in range(300):
        left, top, right, bottom = PAPER.window(full(height, width), rng)
        areas.append((right - left) * (bottom - top) / (height * width))
        aspects.append((right - left) / (bottom - top) / (width / height))
    assert min(areas) > 0.899
    assert min(aspects) < 0.92
    assert max(aspects) > 1.08
    assert len(set(areas)) > 250
    # 0.9 of the area leaves room for an aspect of 1 / 0.9 at most, though the setting allows 4 / 3
    assert max(aspects) < 1.12


def test_a_scale_of_one_and_no_other_aspect_is_the_whole_crop() -> None:
    window = WHOLE.window(full(7, 11), np.random.default_rng(0))
    assert window == Window(0, 0, 11, 7)


def test_the_window_is_the_same_part_of_picture_and_mask() -> None:
    pixels = np.arange(5 * 6 * 3).reshape(5, 6, 3)
    window = Window(1, 2, 5, 4)
    np.testing.assert_array_equal(window.of(pixels), pixels[2:4, 1:5])


@pytest.mark.parametrize("seed", range(3))
def test_the_same_chance_gives_the_same_window(seed: int) -> None:
    first, second = (PAPER.window(full(90, 80), np.random.default_rng(seed)) for _ in range(2))
    assert first == second
