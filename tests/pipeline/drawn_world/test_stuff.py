import numpy as np
import pytest

from pipeline.drawn_world.stuff import STUFF_NOUNS, WORLD_UNITS, Grid, draw_stuff, fraction, value_noise


def drawn(noun: str, size_px: int, seed: int = 0):
    return draw_stuff(noun, np.random.default_rng(seed), Grid.of_size(size_px))


@pytest.mark.parametrize("noun", STUFF_NOUNS)
def test_texture_shows_both_its_colours(noun):
    stuff = drawn(noun, WORLD_UNITS)
    assert stuff.levels.shape == (WORLD_UNITS, WORLD_UNITS)
    assert stuff.levels.dtype == np.uint8
    assert int(stuff.levels.max()) - int(stuff.levels.min()) > 60
    assert np.abs(stuff.ground - stuff.mark).max() > 15


@pytest.mark.parametrize("noun", STUFF_NOUNS)
def test_a_larger_picture_shows_the_same_texture_drawn_finer(noun):
    default, finer = drawn(noun, WORLD_UNITS), drawn(noun, 5 * WORLD_UNITS)
    assert np.array_equal(finer.levels[::5, ::5], default.levels)
    assert np.array_equal(finer.ground, default.ground)
    assert np.array_equal(finer.mark, default.mark)


@pytest.mark.parametrize("noun", STUFF_NOUNS)
def test_texture_differs_from_seed_to_seed(noun):
    assert not np.array_equal(drawn(noun, 96, seed=0).levels, drawn(noun, 96, seed=1).levels)


@pytest.mark.parametrize(("pitch", "pitch_y"), [(40.0, None), (11.5, None), (1.0, 4.0)])
def test_value_noise_equals_its_scalar_twin(pitch, pitch_y):
    grid = Grid.of_size(64)
    noise = value_noise(np.random.default_rng(3), grid, pitch, pitch_y)
    columns, rows = int(grid.units[-1] / pitch) + 2, int(grid.units[-1] / (pitch_y or pitch)) + 2
    knots = np.random.default_rng(3).random((rows, columns))
    for row, column in [(0, 0), (63, 63), (5, 40), (31, 7)]:
        x, y = grid.units[column] / pitch, grid.units[row] / (pitch_y or pitch)
        left, top = int(x), int(y)
        right, below = x - left, y - top
        upper = knots[top, left] * (1 - right) + knots[top, left + 1] * right
        lower = knots[top + 1, left] * (1 - right) + knots[top + 1, left + 1] * right
        assert noise[row, column] == pytest.approx(upper * (1 - below) + lower * below)


def test_noise_on_its_knots_is_the_knots():
    noise = value_noise(np.random.default_rng(3), Grid.of_size(WORLD_UNITS), 1.0)
    assert np.array_equal(noise, np.random.default_rng(3).random((97, 97))[:96, :96])


def test_fraction_is_the_remainder_by_one_for_negatives_too():
    assert fraction(np.array([-0.25, 0.0, 1.0, 2.5])).tolist() == [0.75, 0.0, 0.0, 0.5]
