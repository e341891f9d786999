import math

import numpy as np
import pytest

from pipeline.drawn_world.shapes import SHAPES


def square(half_side: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    line = np.linspace(-half_side, half_side, steps)
    u, v = np.meshgrid(line, line)
    return u, v


@pytest.mark.parametrize("name", SHAPES)
def test_shape_fills_part_of_the_unit_square_and_nothing_outside(name):
    u, v = square(1.5, 301)
    inside = SHAPES[name](u, v)
    assert inside.dtype == np.bool_
    assert not inside[(np.abs(u) > 1.0 + 1e-9) | (np.abs(v) > 1.0 + 1e-9)].any()
    assert 0.1 < inside[(np.abs(u) <= 1.0) & (np.abs(v) <= 1.0)].mean() <= 1.0


@pytest.mark.parametrize(
    ("name", "arms", "middle", "swing"), [("star", 5, 0.62, 0.38), ("petals", 6, 0.78, 0.22), ("rays", 10, 0.72, 0.28)]
)
def test_polynomials_in_the_cosine_equal_the_polar_curves(name, arms, middle, swing):
    u, v = square(1.1, 60)
    inside = SHAPES[name](u, v)
    for row, column in np.ndindex(u.shape):
        radius = math.hypot(u[row, column], v[row, column])
        limit = middle + swing * math.cos(arms * math.atan2(u[row, column], -v[row, column]))
        if abs(radius - limit) > 1e-9:
            assert inside[row, column] == (radius < limit)


@pytest.mark.parametrize("name", sorted(set(SHAPES) - {"moon"}))
def test_all_but_the_moon_are_mirror_images_of_themselves(name):
    u, v = square(1.0, 80)
    assert np.array_equal(SHAPES[name](u, v), SHAPES[name](-u, v))


def test_moon_opens_to_the_right():
    u, v = square(1.0, 81)
    inside = SHAPES["moon"](u, v)
    assert inside[40, 4]
    assert not inside[40, 40:].any()
