"""Windows: of picture and mask alike, within their bounds, never without a pixel of the mask."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetune.samples import random_window

PAPER = {"min_scale": 0.9, "max_aspect": 4 / 3}


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
    window = random_window(mask, rng, min_scale=min_scale, max_aspect=max_aspect)
    lines, columns = window
    assert 0 <= columns.start < columns.stop <= width
    assert 0 <= lines.start < lines.stop <= height
    assert mask[window].any()


def test_area_and_aspect_have_the_bounds_of_the_settings() -> None:
    rng = np.random.default_rng(0)
    height, width = 1000, 3000
    areas, aspects = [], []
    for _ in range(300):
        lines, columns = (part.stop - part.start for part in random_window(full(height, width), rng, **PAPER))
        areas.append(columns * lines / (height * width))
        aspects.append(columns / lines / (width / height))
    assert min(areas) > 0.899
    assert min(aspects) < 0.92
    assert max(aspects) > 1.08
    assert len(set(areas)) > 250
    # 0.9 of the area leaves room for an aspect of 1 / 0.9 at most, though the setting allows 4 / 3
    assert max(aspects) < 1.12


def test_a_scale_of_one_and_no_other_aspect_is_the_whole_crop() -> None:
    window = random_window(full(7, 11), np.random.default_rng(0), min_scale=1.0, max_aspect=1.0)
    assert window == (slice(0, 7), slice(0, 11))


@pytest.mark.parametrize("seed", range(3))
def test_the_same_chance_gives_the_same_window(seed: int) -> None:
    first, second = (random_window(full(90, 80), np.random.default_rng(seed), **PAPER) for _ in range(2))
    assert first == second
