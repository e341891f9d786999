"""Masks of others in the proposal net's place: CLIP alone names them, pixels in none take the nearest one's class."""

import json

import numpy as np
import pytest
from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.evaluate.stored_scores import Scores
from pipeline.evaluate.variants import ablation_variants, main_variant
from pipeline.settings import SettingsError
from pipeline.stages import run, run_imports
from storage_schemas.columns import OK
from storage_schemas.scenes import SceneShard
from storage_schemas.scores import read_scores
from tests.pipeline.evaluate.small_world import DRAWN, scores_on, settings_of
from tests.pipeline.import_masks.masks_world import coco_record
from tests.pipeline.planned import prepare_scenes, scenes_of


def with_masks(runs, path, **evaluate):
    """Settings whose masks lie at a path, at the size of the drawn pictures."""
    sizes = {"short_side_px": 96, "max_side_px": 96}
    settings = settings_of(runs, proposals="imported", **sizes, **evaluate)
    document = settings.model_dump(mode="json") | {"masks": {"drawn": {"path": str(path), "background": [255]}}}
    return type(settings).model_validate(document)


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory):
    """The label maps of the drawn scenes as PNG files: masks of others that are perfect."""
    place = tmp_path_factory.mktemp("labels")
    settings = settings_of(tmp_path_factory.mktemp("runs"))
    prepare_scenes(settings, ["drawn"])
    artifact = scenes_of(settings, "drawn")
    for unit in artifact.description.units:
        for scene in SceneShard(artifact, unit).scenes():
            (place / f"{scene.key}.png").write_bytes(scene.label_png)
    return place


def counts_of(settings, variant=None):
    scores = Scores(scores_on(run("evaluate", settings), "drawn"))
    return scores.counts(variant or scores.attributes.main_variant), scores


def test_perfect_masks_of_others_score_as_the_label_maps_own(tmp_path, label_maps):
    imported, scores = counts_of(with_masks(tmp_path, label_maps))
    assert scores.attributes.main_variant == "clip-only"
    own = settings_of(tmp_path, proposals="ground-truth", short_side_px=96, max_side_px=96)
    expected, _ = counts_of(own)
    assert imported.keys == expected.keys
    for name in ("true_px", "intersection_px", "predicted_px"):
        np.testing.assert_array_equal(getattr(imported.counts, name), getattr(expected.counts, name))
    assert not list(tmp_path.glob("proposal_net/*"))  # none is trained or asked for


def test_perfect_masks_named_perfectly_are_perfect(tmp_path, label_maps):
    found, _ = counts_of(with_masks(tmp_path, label_maps, oracle_labels=True))
    np.testing.assert_array_equal(found.counts.intersection_px, found.counts.true_px)
    np.testing.assert_array_equal(found.counts.predicted_px, found.counts.true_px)


def test_a_scene_without_masks_is_scored_all_the_same(tmp_path, label_maps):
    """Nothing is known of it, and all its pixels get the first class."""
    mask = np.zeros((96, 96), bool)
    mask[:50] = True
    first = min(path.stem for path in label_maps.iterdir())
    path = tmp_path / "m.json"
    path.write_text(json.dumps([coco_record(first, mask)]))
    artifact = scores_on(run("evaluate", with_masks(tmp_path, path)), "drawn")
    assert artifact.manifest().counts[OK] == len(list(label_maps.iterdir()))
    table = Scores(artifact).counts("clip-only")
    others = table.counts.predicted_px[[key != first for key in table.keys]]
    assert others[:, 1:].sum() == 0


def test_ablations_of_imported_masks_are_those_that_say_something(tmp_path, label_maps):
    settings = with_masks(tmp_path, label_maps, sweep={"validation_dataset": "drawn"})
    names = [variant.name for variant in ablation_variants(settings.evaluate, 0.7)]
    assert names[0] == main_variant(settings.evaluate, 0.7).name == "clip-only"
    assert main_variant(settings.evaluate, 0.7, unseen_only=True) == main_variant(settings.evaluate, 1.0)
    assert set(names) == {"clip-only", "unmasked-crops", "true-masks-original", "true-boxes-original", "oracle-labels",
                          "original-clip-only"}  # fmt: skip
    ablated = run("evaluate", settings, ablate=True)
    scores = Scores(scores_on(ablated, "drawn"))
    assert set(scores.attributes.variants) == set(names)
    assert not list(tmp_path.glob("branches/*"))
    report = json.loads((ablated.artifact.directory / "report.numbers.json").read_text())
    assert report["models"]["proposal_net"] == "imported masks"
    rows = {row["variant"] for row in read_scores(scores.artifact, "shard-00000", "images").to_pylist()}
    assert rows == set(names)


def test_the_flow_imports_masks_before_it_scores(tmp_path, label_maps):
    settings = with_masks(tmp_path, label_maps)
    graph = dataflow(settings)
    labels = [node.label for node in graph.nodes]
    assert labels.index("proposals/drawn-world-test-imported") < labels.index("scores/tiny-drawn")
    assert set(graph.of_kind("scores")[0].sources) == {"scenes", "proposals", "clip"}
    report = run_imports(settings).of_kind("proposals")[0]
    assert report.artifact == graph.of_kind("proposals")[0].artifact


def test_a_data_set_without_masks_is_named(tmp_path):
    settings = settings_of(tmp_path, datasets={"drawn": DRAWN}, proposals="imported")
    with pytest.raises(SettingsError, match=r"masks: 'drawn' has no entry, evaluate.datasets needs its masks"):
        run("evaluate", settings)


def test_changed_masks_make_other_scores(tmp_path, label_maps):
    copies = tmp_path / "copies"
    copies.mkdir()
    for path in label_maps.iterdir():
        (copies / path.name).write_bytes(path.read_bytes())
    before = scores_on(run("evaluate", with_masks(tmp_path / "runs", copies)), "drawn")
    labels = np.asarray(Image.open(min(copies.iterdir()))).copy()
    labels[:40] = labels[50, 50]
    Image.fromarray(labels).save(min(copies.iterdir()))
    after = scores_on(run("evaluate", with_masks(tmp_path / "runs", copies)), "drawn")
    assert before.directory != after.directory
