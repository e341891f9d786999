import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.drawn_world.world import DrawnWorld

GOLDEN_SCRIPT = runpy.run_path(str(Path(__file__).with_name("make_golden.py")))
digest = GOLDEN_SCRIPT["digest"]


def test_scenes_are_the_same_in_any_order():
    forwards = [digest(DrawnWorld(5).scene(index)) for index in range(6)]
    world = DrawnWorld(5)
    backwards = [digest(world.scene(index)) for index in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert len(set(forwards)) == 6


def test_scenes_are_the_same_in_another_process():
    code = (
        "import runpy, sys; from pipeline.drawn_world.world import DrawnWorld; "
        "print(runpy.run_path(sys.argv[1])['digest'](DrawnWorld(5).scene(77)))"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code, str(Path(__file__).with_name("make_golden.py"))],
            env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(Path(__file__).parents[3])},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    assert printed == {digest(DrawnWorld(5).scene(77))}


def test_golden_scenes_have_not_changed():
    golden = json.loads(GOLDEN_SCRIPT["GOLDEN"].read_text(encoding="utf-8"))
    assert GOLDEN_SCRIPT["digests"]() == golden, "if meant: raise WORLD_VERSION and run make_golden.py"


def test_another_seed_or_context_is_another_world():
    first = DrawnWorld(5).scene(0)
    assert digest(DrawnWorld(6).scene(0)) != digest(first)
    assert any(
        digest(DrawnWorld(5, context=0.0).scene(index)) != digest(DrawnWorld(5).scene(index)) for index in range(3)
    )


@pytest.mark.parametrize("index", range(5))
def test_a_larger_picture_is_the_same_scene_drawn_finer(index):
    default, finer = DrawnWorld(0).scene(index), DrawnWorld(0, 480).scene(index)
    assert np.array_equal(finer.label_map[::5, ::5], default.label_map)
    assert np.array_equal(finer.instance_map[::5, ::5], default.instance_map)
    difference = finer.image[::5, ::5].astype(int) - default.image
    assert np.abs(difference).max() <= 28  # twice the largest noise; the colours beneath are the same
    assert [thing.noun for thing in finer.things] == [thing.noun for thing in default.things]


def test_sizes_of_the_true_models_are_drawn():
    for size_px in (256, 480):
        assert DrawnWorld(0, size_px).scene(0).image.shape == (size_px, size_px, 3)


def test_home_and_alien_pictures_differ_and_are_reproducible():
    world = DrawnWorld(0)
    home, alien = (world.single_object(3, "duck", at_home=at_home) for at_home in (True, False))
    assert home.things[0].stuff == "water"
    assert alien.things[0].stuff != "water"
    assert digest(DrawnWorld(0).single_object(3, "duck", at_home=False)) == digest(alien)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed is -1, 0 or more is expected"),
        ({"seed": 0, "size_px": 31}, r"size_px is 31, 32 to 2048 is expected"),
        ({"seed": 0, "size_px": 5000}, r"size_px is 5000, 32 to 2048 is expected"),
        ({"seed": 0, "context": 1.5}, r"context is 1\.5, a share of 0 to 1 is expected"),
    ],
)
def test_worlds_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        DrawnWorld(**arguments)


def test_negative_indices_and_unknown_nouns_are_refused():
    with pytest.raises(ValueError, match=r"scene index is -3, 0 or more is expected"):
        DrawnWorld(0).scene(-3)
    with pytest.raises(ValueError, match=r"'sky' is no thing; expected one of boat, ship"):
        DrawnWorld(0).single_object(0, "sky", at_home=True)
