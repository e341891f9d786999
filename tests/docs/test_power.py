"""How many seeds show a difference: against simulation, tables of textbooks, and what follows from the definition."""

import numpy as np
import pytest
from scipy import stats

from tools.power import MOST_SEEDS, deviation_bounds, power, power_table, seeds_for, smallest_shown


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 20), (1.0, 5), (2.0, 3)])
def test_power_is_the_share_of_simulated_measurements_that_show_it(effect, seeds):
    values = np.random.default_rng(0).normal(effect, 1.0, (40_000, seeds))
    half = stats.t.ppf(0.975, seeds - 1) * values.std(axis=1, ddof=1) / seeds**0.5
    assert power(effect, 1.0, seeds) == pytest.approx((values.mean(axis=1) > half).mean(), abs=0.01)
    assert power(2 * effect, 2.0, seeds) == pytest.approx(power(effect, 1.0, seeds))


def test_without_an_effect_it_shows_in_one_case_of_forty():
    assert power(0.0, 1.0, 12) == pytest.approx(0.025)


def test_the_fewest_seeds_are_found():
    # 34 pairs for a difference of half a deviation at 80 %, 44 at 90 %: the textbooks' numbers for a paired t-test
    assert (seeds_for(0.5, 1.0, 0.8), seeds_for(0.5, 1.0, 0.9)) == (34, 44)
    for effect in (0.3, 1.0, 4.0):
        seeds = seeds_for(effect, 1.0, 0.8)
        assert power(effect, 1.0, seeds) >= 0.8
        assert seeds == 2 or power(effect, 1.0, seeds - 1) < 0.8
    assert seeds_for(0.001, 1.0, 0.8) is None


def test_the_smallest_difference_that_shows():
    found = smallest_shown(1.2, 20, 0.8)
    assert power(found - 0.05, 1.2, 20) < 0.8 <= power(found, 1.2, 20)


def test_bounds_of_a_deviation_hold_it_in_95_of_100_cases():
    samples = np.random.default_rng(1).normal(0.0, 3.0, (2_000, 5))
    bounds = [deviation_bounds(list(sample)) for sample in samples]
    assert np.mean([low <= 3.0 <= high for low, high in bounds]) == pytest.approx(0.95, abs=0.015)


def test_a_table_says_what_cannot_be_reached_and_leaves_out_what_has_no_spread():
    values = [1.0, -1.0, 1.0, -1.0, 1.0, -1.0]
    table = power_table([("A above B", 0.01, values), ("C above D", 3.0, [2.0, 2.0]), ("E above F", 1.0, [1.0])])
    _, _, line = table.splitlines()
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["A above B", "+0.0", "6"]
    assert cells[3].startswith("1.10 (0.68 to 2.69)")
    assert cells[4] == f"over {MOST_SEEDS:,}, over {MOST_SEEDS:,}"
