import numpy as np
import pytest

from pipeline.drawn_world.shapes import MARKS, SHAPES, MarkStyle
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import OWN, THING_NOUNS, THINGS


def test_there_are_42_things_of_13_shapes_and_9_textures():
    parts = [part for thing in THINGS.values() for part in thing.parts]
    assert len(THING_NOUNS) == 42
    assert {part.shape for part in parts} == set(SHAPES)
    assert len(SHAPES) == 13
    assert {part.marks for part in parts} == {*MARKS, ""}
    assert len(MARKS) + 1 == 9


@pytest.mark.parametrize("noun", THING_NOUNS)
def test_thing_has_a_home_and_one_to_six_parts(noun):
    thing = THINGS[noun]
    assert thing.home
    assert set(thing.home) <= set(STUFF_NOUNS)
    assert 1 <= len(thing.parts) <= 6
    assert max(thing.reach) <= 1.2


def test_no_two_things_are_alike():
    assert len({thing.parts for thing in THINGS.values()}) == len(THINGS)


def test_the_ambiguous_pairs_and_the_look_alikes_are_there():
    assert {"ship", "boat", "tree", "pine", "sled", "table", "balloon", "buoy"} <= set(THING_NOUNS)


def test_hue_can_be_told_of_things_with_an_own_colour_alone():
    assert THINGS["car"].has_own_colour
    assert not THINGS["penguin"].has_own_colour
    assert OWN in THINGS["car"].colours


@pytest.mark.parametrize("name", MARKS)
def test_marks_cover_part_of_a_part(name):
    line = np.linspace(-1.0, 1.0, 101)
    u, v = np.meshgrid(line, line)
    marked = MARKS[name](u, v, MarkStyle.drawn(np.random.default_rng(0)))
    assert marked.shape == u.shape
    assert 0.15 < marked.mean() < 0.7
