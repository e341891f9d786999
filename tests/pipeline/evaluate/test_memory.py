"""Evaluation with remembered masks: what ships is what is measured, and no memory of the evaluated pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from ovseg_models.memory import Memory
from ovseg_models.segmenter import Segmenter
from pipeline.bundle import bundle
from pipeline.errors import PipelineError
from pipeline.evaluate.labelled_images import LabelledImage, LabelledScenes
from pipeline.evaluate.stored_scores import Scores
from pipeline.settings import SettingsError
from storage_schemas.scenes import ScenesAttributes
from storage_schemas.scores import read_predictions
from tests.pipeline.evaluate.small_world import LENIENT, scores_of, settings_of
from tests.tiny_segmenter import picture


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a runs directory with scenes and a net, a segmenter of them, and its folder."""
    runs = tmp_path_factory.mktemp("runs")
    settings = settings_of(runs)
    node = scores_of(settings)
    bundle(settings, runs / "model", original_clip=True)
    scenes = node["scenes"].artifact
    return runs, runs / "model", scenes


def scenes_in(scenes) -> list[LabelledImage]:
    labels = ScenesAttributes.of(scenes)
    labelled = LabelledScenes(artifact=scenes, class_count=len(labels.class_names), ignore_label=labels.ignore_label)
    return [scene for unit in scenes.description.units for scene in labelled.of_unit(unit)]


def remembered(model, path, *, image=None, names=("sky", "boat")) -> Segmenter:
    segmenter = Segmenter.load(model)
    for place, name in enumerate(names):
        segmenter.remember(name, picture(160, 160, 40 + place) if image is None else image, place)
    segmenter.memory.save(path)
    return segmenter


def test_scores_are_those_of_the_segmenter_with_its_memory(world, tmp_path):
    runs, model, scenes = world
    segmenter = remembered(model, tmp_path / "m.safetensors")
    settings = settings_of(runs, memory=str(tmp_path / "m.safetensors"))
    node, plain = scores_of(settings), scores_of(settings_of(runs))
    assert node.artifact.identity.settings.keys() - plain.artifact.identity.settings.keys() == {"memory"}
    node.make(LENIENT)
    names = ScenesAttributes.of(scenes).class_names
    alone, changed, pictures = Segmenter.load(model), 0, {scene.key: scene.image for scene in scenes_in(scenes)}
    for stored in Scores(node.artifact).images():
        (png,) = read_predictions(node.artifact, stored.unit, [stored.prediction])
        predicted, picture_ = np.asarray(Image.open(io.BytesIO(png))), pictures[stored.key]
        assert np.array_equal(predicted, segmenter.segment(picture_, names).label_map.numpy())
        changed += not np.array_equal(predicted, alone.segment(picture_, names).label_map.numpy())
    assert changed


def test_equal_memories_have_one_digest_and_others_another(world, tmp_path):
    runs, model, _ = world
    path = tmp_path / "m.safetensors"
    settings = settings_of(runs, memory=str(path))
    segmenter = remembered(model, path)
    first = scores_of(settings).artifact.identity.digest()
    key = segmenter.remember("cat", picture(160, 160, 50), 2)
    segmenter.memory.save(path)
    assert scores_of(settings).artifact.identity.digest() != first
    segmenter.memory.without([key]).save(path)
    assert scores_of(settings).artifact.identity.digest() == first


def test_a_memory_of_an_evaluated_picture_is_refused(world, tmp_path):
    runs, model, scenes = world
    scene = scenes_in(scenes)[2]
    remembered(model, tmp_path / "m.safetensors", image=scene.image, names=("sky",))
    node = scores_of(settings_of(runs, memory=str(tmp_path / "m.safetensors")))
    with pytest.raises(PipelineError, match=rf"picture of scene '{scene.key}', which is evaluated"):
        node.make(LENIENT)
    assert not node.status().finished


def test_what_a_memory_does_not_go_with_is_refused(world, tmp_path):
    runs, model, _ = world
    path = tmp_path / "m.safetensors"
    with pytest.raises(SettingsError, match=r"evaluate\.memory: .*m\.safetensors: there is no such file"):
        scores_of(settings_of(runs, memory=str(path))).make(LENIENT)
    remembered(model, path)
    for options in ({"masked_crops": False}, {"oracle_labels": True}, {"proposals": "ground-truth"}):
        with pytest.raises(SettingsError, match=r"evaluate\.memory"):
            scores_of(settings_of(runs, memory=str(path), **options)).make(LENIENT)
    with pytest.raises(SettingsError, match=r"evaluate\.memory"):
        scores_of(settings_of(runs, memory=str(path), ensemble_weight=0.0)).make(LENIENT)
    with pytest.raises(SettingsError, match=r"evaluate\.memory"):
        scores_of(settings_of(runs, memory=str(path)), ablate=True).make(LENIENT)
    Memory("another CLIP", Memory.load(path).masks).save(path)
    with pytest.raises(PipelineError, match="remember the masks again"):
        scores_of(settings_of(runs, memory=str(path))).make(LENIENT)
