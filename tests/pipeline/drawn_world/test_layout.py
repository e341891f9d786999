from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.drawn_world.layout import (
    ENVIRONMENTS,
    GROUNDS,
    draw_layout,
    draw_scene_plan,
    draw_single_plan,
)
from pipeline.drawn_world.stuff import STUFF_NOUNS, WORLD_UNITS
from pipeline.drawn_world.things import THING_NOUNS, THINGS


def plans(count: int, context: float = 0.85):
    rng = np.random.default_rng(11)
    return [draw_scene_plan(rng, context) for _ in range(count)]


def test_six_environments_offer_all_stuff_in_grounds_of_two_or_three_bands():
    assert len(ENVIRONMENTS) == 6
    assert {stuff for ground in GROUNDS for stuff in ground} == set(STUFF_NOUNS)
    assert {len(ground) for ground in GROUNDS} == {2, 3}
    assert all(len(set(ground)) == len(ground) for ground in GROUNDS)


def test_things_are_planned_equally_often_whatever_the_share_of_their_homes():
    counts = Counter(placing.noun for _, placings in plans(8000) for placing in placings)
    mean = sum(counts.values()) / len(THING_NOUNS)
    assert mean / 1.25 < min(counts[noun] for noun in THING_NOUNS)
    assert max(counts.values()) < mean * 1.25


def test_context_is_the_share_of_things_placed_at_home():
    for context, low, high in ((0.0, 0.0, 0.0), (0.85, 0.83, 0.87), (1.0, 1.0, 1.0)):
        placings = [placing for _, placings in plans(1500, context) for placing in placings]
        share = sum(placing.at_home for placing in placings) / len(placings)
        assert low <= share <= high


def test_a_thing_at_home_stands_on_a_home_stuff_of_its_own():
    for layout, placings in plans(300):
        for placing in placings:
            assert layout.bands[layout.band_at(placing.x, placing.y)] == placing.stuff
            if placing.at_home:
                assert placing.stuff in THINGS[placing.noun].home


def test_foreign_stuff_appears_now_and_then_and_never_takes_a_home_away():
    foreign = [layout.bands for layout, _ in plans(1500) if layout.bands not in GROUNDS]
    assert 0.03 < len(foreign) / 1500 < 0.12
    assert all(len(set(bands)) == len(bands) for bands in foreign)


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), ground=st.sampled_from(GROUNDS), band=st.integers(0, 2))
def test_every_band_is_visible_at_every_x_and_points_lie_in_their_band(seed, ground, band):
    rng = np.random.default_rng(seed)
    layout = draw_layout(rng, ground)
    edges = layout.edges(np.linspace(0.0, WORLD_UNITS, 200))
    limits = np.concatenate([np.zeros((1, 200)), edges, np.full((1, 200), float(WORLD_UNITS))])
    assert (np.diff(limits, axis=0) > 5.0).all()
    x, y = layout.point_in(band % len(ground), rng)
    assert layout.band_at(x, y) == band % len(ground)


@pytest.mark.parametrize("noun", THING_NOUNS)
def test_single_plans_show_the_home_or_none_of_it(noun):
    rng = np.random.default_rng(5)
    for _ in range(5):
        _, (at_home,) = draw_single_plan(rng, noun, at_home=True)
        alien_layout, (alien,) = draw_single_plan(rng, noun, at_home=False)
        assert at_home.stuff in THINGS[noun].home
        assert set(alien_layout.bands).isdisjoint(THINGS[noun].home)
        assert not alien.at_home
