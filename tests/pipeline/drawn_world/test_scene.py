import colorsys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.drawn_world.layout import Placing, draw_layout
from pipeline.drawn_world.scene import MIN_VISIBLE_SHARE, camera_noise, paint
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS, Thing
from pipeline.drawn_world.words import IGNORE_LABEL, LABELS, NOUNS
from pipeline.drawn_world.world import DrawnWorld

HUE_RANGES = {
    "red": (-0.06, 0.04),
    "orange": (0.04, 0.12),
    "yellow": (0.12, 0.20),
    "green": (0.20, 0.46),
    "blue": (0.46, 0.71),
    "purple": (0.71, 0.94),
}


def check_maps(scene):
    """The maps, the list of things and their boxes agree."""
    assert scene.image.shape == (*scene.label_map.shape, 3)
    assert scene.instance_map.shape == scene.label_map.shape
    assert {array.dtype for array in (scene.image, scene.label_map, scene.instance_map)} == {np.dtype(np.uint8)}
    assert [thing.instance for thing in scene.things] == list(range(1, len(scene.things) + 1))
    assert set(np.unique(scene.instance_map)) - {0} == {thing.instance for thing in scene.things}
    assert (scene.label_map[scene.instance_map == 0] < len(STUFF_NOUNS)).all()
    assert (scene.label_map != IGNORE_LABEL).all()
    for thing in scene.things:
        visible = scene.instance_map == thing.instance
        assert set(scene.label_map[visible]) == {LABELS[thing.noun]}
        assert thing.visible_px == visible.sum() >= MIN_VISIBLE_SHARE * visible.size
        rows, columns = np.nonzero(visible)
        assert thing.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**64),
    index=st.integers(0, 10**9),
    size_px=st.integers(32, 150),
    context=st.floats(0.0, 1.0),
)
def test_maps_are_exact_in_any_scene_of_any_size(seed, index, size_px, context):
    scene = DrawnWorld(seed, size_px, context).scene(index)
    assert scene.label_map.shape == (size_px, size_px)
    check_maps(scene)


def test_nouns_are_balanced():
    scenes = [DrawnWorld(0).scene(index) for index in range(1200)]
    things = Counter(thing.noun for scene in scenes for thing in scene.things)
    mean = sum(things.values()) / len(THING_NOUNS)
    assert mean / 1.6 < min(things[noun] for noun in THING_NOUNS)
    assert max(things.values()) < mean * 1.6
    stuff = Counter(NOUNS[label] for scene in scenes for label in np.unique(scene.label_map[scene.instance_map == 0]))
    mean = sum(stuff.values()) / len(STUFF_NOUNS)
    assert mean / 2.5 < min(stuff[noun] for noun in STUFF_NOUNS)
    assert max(stuff.values()) < mean * 2.5


@pytest.mark.parametrize("noun", THING_NOUNS)
def test_a_single_thing_is_always_visible(noun):
    world = DrawnWorld(1)
    for at_home in (True, False):
        for index in range(4):
            scene = world.single_object(index, noun, at_home=at_home)
            check_maps(scene)
            assert [thing.noun for thing in scene.things] == [noun]
            assert scene.things[0].at_home == at_home


def ball_and_fish(rng):
    layout = draw_layout(rng, ("wall", "carpet"))
    return layout, [Placing(noun, at_home=False, x=48.0, y=48.0, stuff="wall") for noun in ("ball", "fish")]


def test_the_first_placing_is_in_front():
    rng = np.random.default_rng(4)
    layout, (ball, fish) = ball_and_fish(rng)
    for front, back in ((ball, fish), (fish, ball)):
        painting = paint(layout, [front, back], np.random.default_rng(2), 96)
        alone = paint(layout, [front], np.random.default_rng(2), 96)
        assert np.array_equal(painting.instance_map == 1, alone.instance_map == 1)


def test_a_thing_that_is_hidden_is_not_drawn():
    rng = np.random.default_rng(4)
    layout, (ball, _) = ball_and_fish(rng)
    dropped = 0
    for seed in range(20):
        painting = paint(layout, [ball, ball, ball, ball], np.random.default_rng(seed), 96)
        sizes = np.bincount(painting.instance_map.ravel())[1:]
        assert (sizes >= MIN_VISIBLE_SHARE * 96 * 96).all()
        assert len(sizes) == len(painting.things)
        dropped += 4 - len(sizes)
    assert dropped > 0


@pytest.mark.parametrize("noun", THING_NOUNS)
def test_no_thing_is_cut_off_by_the_window_in_which_it_is_painted(noun, monkeypatch):
    world = DrawnWorld(8)
    narrow = [world.single_object(index, noun, at_home=True) for index in range(3)]
    monkeypatch.setattr(Thing, "reach", (4.0, 4.0))
    wide = [world.single_object(index, noun, at_home=True) for index in range(3)]
    for first, second in zip(narrow, wide, strict=True):
        assert np.array_equal(first.image, second.image)
        assert np.array_equal(first.instance_map, second.instance_map)


def test_stuff_stays_where_no_thing_stands():
    layout = draw_layout(np.random.default_rng(0), ("sky", "rock", "snow"))
    placing = Placing("igloo", at_home=True, x=30.0, y=80.0, stuff="snow")
    empty = paint(layout, [], np.random.default_rng(9), 96)
    inhabited = paint(layout, [placing], np.random.default_rng(9), 96)
    outside = inhabited.instance_map == 0
    assert np.array_equal(inhabited.label_map[outside], empty.label_map[outside])
    assert (empty.instance_map == 0).all()
    assert empty.things == ()


@pytest.mark.parametrize("index", range(12))
def test_the_hue_that_is_reported_is_the_hue_that_is_seen(index):
    scene = DrawnWorld(0).single_object(index, "car", at_home=True)
    (car,) = scene.things
    pixels = scene.image[scene.instance_map == 1] / 255.0
    hues, saturations, _ = np.array([colorsys.rgb_to_hsv(*pixel) for pixel in pixels]).T
    strong = hues[saturations > 0.42]
    low, high = HUE_RANGES[car.hue]
    turned = (strong - low + 0.25) % 1.0 - 0.25 + low
    assert low - 0.03 < np.median(turned) < high + 0.03


def test_things_of_fixed_colours_have_no_hue():
    assert DrawnWorld(0).single_object(0, "penguin", at_home=True).things[0].hue is None


def test_camera_noise_has_a_deviation_of_five_levels_and_no_bias():
    noise = camera_noise(np.random.default_rng(0), 200_000)
    assert noise.dtype == np.int16
    assert abs(noise.mean()) < 0.1
    assert 4.8 < noise.std() < 5.1
