import io
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from pipeline.drawn_world.captions import MAX_CAPTIONS
from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld
from pipeline.prepare.drawn_world import DrawnWorldSource
from pipeline.prepare.source import SceneSource

SOURCE = DrawnWorldSource(seed=3, first_index=20, scenes=4)


def decoded(png: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png), formats=["PNG"])


def test_it_offers_all_that_a_source_must():
    source: SceneSource = SOURCE
    assert source.vocabulary.class_names == NOUNS
    assert source.ignore_label == 255
    assert "Apache-2.0" in source.licence
    assert list(source.keys()) == ["drawn-00000020", "drawn-00000021", "drawn-00000022", "drawn-00000023"]


@pytest.mark.parametrize("key", SOURCE.keys())
def test_stored_files_hold_the_drawn_scene(key):
    scene, drawn = SOURCE.scene(key), DrawnWorld(3).scene(int(key[-8:]))
    assert np.array_equal(np.asarray(decoded(scene.image)), drawn.image)
    label, instances = decoded(scene.label_png), decoded(scene.instances_png)
    assert (label.mode, instances.mode) == ("L", "I;16")
    assert np.array_equal(np.asarray(label), drawn.label_map)
    assert np.array_equal(np.asarray(instances), drawn.instance_map)
    assert scene.classes == tuple(np.unique(drawn.label_map))
    assert (scene.width_px, scene.height_px, scene.image_suffix, scene.status) == (96, 96, "png", "ok")
    assert (scene.key, scene.image_id) == (key, str(int(key[-8:])))
    assert [caption.text for caption in scene.captions] == [caption.text for caption in drawn.captions]


def test_the_same_key_gives_the_same_bytes():
    assert SOURCE.scene("drawn-00000021") == replace(SOURCE, first_index=21, scenes=1).scene("drawn-00000021")


def test_caption_ids_are_unique_and_ascending_and_do_not_depend_on_the_number_kept():
    source = DrawnWorldSource(seed=0, first_index=0, scenes=40)
    keys = source.keys()
    ids = [caption.caption_id for key in keys for caption in source.scene(key).captions]
    assert ids == sorted(set(ids))
    one = replace(source, captions_per_scene=1).scene("drawn-00000007")
    assert one.captions == source.scene("drawn-00000007").captions[:1]
    assert one.captions[0].caption_id == 7 * MAX_CAPTIONS
    assert replace(source, captions_per_scene=0).scene("drawn-00000007").captions == ()


def test_every_argument_changes_the_identity():
    others = {"seed": 4, "first_index": 21, "scenes": 5, "size_px": 64, "context": 0.5, "captions_per_scene": 2}
    assert {field.name for field in fields(SOURCE)} == set(others)
    for name, value in others.items():
        assert replace(SOURCE, **{name: value}).identity() != SOURCE.identity()
    assert DrawnWorldSource(seed=3, first_index=20, scenes=4).identity() == SOURCE.identity()


@pytest.mark.parametrize("key", ["drawn-00000019", "drawn-00000024", "drawn-20", "coco-00000020", "drawn-0000002x", ""])
def test_foreign_keys_are_refused(key):
    with pytest.raises(KeyError, match=rf"scene '{key}' is asked for, there are 4 scenes from drawn-00000020 to"):
        SOURCE.scene(key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"first_index": -1}, r"scenes -1 to 3 are asked for"),
        ({"scenes": 100_000_000}, r"scenes 20 to 100000020 are asked for"),
        ({"captions_per_scene": 6}, r"captions_per_scene is 6, 0 to 5 is expected"),
        ({"size_px": 8}, r"size_px is 8, 32 to 2048 is expected"),
    ],
)
def test_sources_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SOURCE, **changes)
