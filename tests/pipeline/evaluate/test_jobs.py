"""Scoring a data set: equal to the segmenter, live or from stored branches, on any number of workers."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from ovseg_models.text_classifier import TextClassifier
from pipeline.clip_loading import load_clip
from pipeline.evaluate import nets
from pipeline.evaluate.jobs import ScoreJob
from pipeline.evaluate.labelled_images import LabelledImage, decoded
from pipeline.evaluate.nets import ProposalBranch
from pipeline.evaluate.prediction import Branches, Predictor
from pipeline.evaluate.stored_scores import Scores
from pipeline.evaluate.variants import main_variant
from pipeline.executors import Compute
from pipeline.graph import Node
from pipeline.settings import EvaluateSettings
from pipeline.shard_runner import StageReport, run_stage
from pipeline.trained_nets import load_proposal_net, stock_mask_adapted_clip
from storage_schemas.artifact import Artifact
from storage_schemas.scenes import SceneShard
from storage_schemas.scores import merged_confusions, read_predictions, read_scores
from storage_schemas.tars import Member
from tests import forked
from tests.pipeline.evaluate.small_world import (
    DRAWN,
    LENIENT,
    files_of,
    folder_settings,
    make_folder,
    scores_of,
    settings_of,
)
from tests.pipeline.planned import artifact_of


def run(node: Node, compute: Compute = Compute()) -> StageReport:
    return node.make(replace(LENIENT, compute=compute, reports=[]))


def job_of(node: Node) -> ScoreJob:
    return node.step.job(node)


def images_of(artifact: Artifact) -> list[LabelledImage]:
    shards = (SceneShard(artifact, unit) for unit in artifact.description.units)
    return [decoded(scene, 54, 255) for shard in shards for scene in shard.scenes()]


def predictions_of(artifact: Artifact) -> dict[str, np.ndarray]:
    """Read the main variant's predictions by key."""
    found = {}
    for unit in artifact.description.units:
        for row in read_scores(artifact, unit, "images").to_pylist():
            if row["prediction"] is not None:
                (png,) = read_predictions(artifact, unit, [Member(**row["prediction"])])
                found[row["key"]] = np.asarray(Image.open(io.BytesIO(png)))
    return found


def test_class_names_go_through_the_text_tower_once_per_run(tmp_path, monkeypatch):
    embedded, original = [], TextClassifier.text_embeddings

    def noting(self, class_names, *arguments, **options):
        embedded.extend(class_names)
        return original(self, class_names, *arguments, **options)

    monkeypatch.setattr(TextClassifier, "text_embeddings", noting)
    plan = scores_of(settings_of(tmp_path))
    embedded.clear()  # those of the proposal net's training
    run(plan)
    class_names = job_of(plan).nets.class_names
    assert embedded == sorted(class_names)
    worker = job_of(plan).open()  # another one of the same run
    loaded = load_clip(settings_of(tmp_path).clip)
    expected = original(TextClassifier(loaded.clip, loaded.tokenize), class_names, prompt_templates("vild"))
    torch.testing.assert_close(worker.text_embeddings, expected, atol=1e-6, rtol=0)
    assert len(embedded) == len(class_names)


@pytest.mark.parametrize(("weight", "namer"), [(0.7, "crops"), (0.0, "crops"), (1.0, "crops"), (0.7, "one-pass")])
def test_predictions_are_the_segmenters(tmp_path, weight, namer):
    settings = settings_of(tmp_path, datasets={"drawn": DRAWN}, ensemble_weight=weight, namer=namer)
    plan = scores_of(settings)
    report = run(plan)
    assert report.manifest.counts == {"ok": 5}
    base = load_clip(settings.clip)
    segmenter = Segmenter(
        load_proposal_net(artifact_of(settings, "proposal_net")),
        stock_mask_adapted_clip(base),
        tokenizer=base.words,
        settings=SegmenterSettings(
            ensemble_weight=weight,
            short_side_px=64,
            max_side_px=128,
            prompt_templates=prompt_templates("vild"),
            namer=namer,
        ),
    )
    class_names = job_of(plan).nets.class_names
    predictions = predictions_of(plan.artifact)
    for scene in images_of(plan["scenes"].artifact):
        expected = segmenter.segment(scene.image, class_names).label_map.numpy()
        assert np.array_equal(predictions[scene.key], expected), scene.key
    assert len({int(value) for labels in predictions.values() for value in np.unique(labels)}) > 3


def test_the_confusion_is_that_of_the_stored_predictions(tmp_path):
    plan = scores_of(settings_of(tmp_path))
    run(plan)
    tables = [read_scores(plan.artifact, unit, "confusion") for unit in plan.artifact.description.units]
    merged = merged_confusions(tables[::-1], 54)["ensemble"]
    expected = np.zeros((54, 54), np.int64)
    predictions = predictions_of(plan.artifact)
    for scene in images_of(plan["scenes"].artifact):
        labelled = scene.labels != 255
        np.add.at(expected, (scene.labels[labelled], predictions[scene.key][labelled]), 1)
    assert np.array_equal(merged, expected)
    assert expected.sum() > 40_000


def test_what_is_missing_is_made_again_with_the_same_bytes(tmp_path):
    plan = scores_of(settings_of(tmp_path))
    first = files_of(run(plan).artifact)
    again = run(plan)
    assert (again.units_done, again.units_skipped) == (0, 3)
    for unit in plan.artifact.description.units:
        (plan.artifact.directory / f"{unit}.json").unlink()
    assert run(plan).units_done == 3
    assert files_of(plan.artifact) == first


def test_stored_branches_score_as_the_nets_do_and_other_weights_run_no_model(tmp_path, monkeypatch):
    settings = settings_of(tmp_path, sweep={"ensemble_weights": [0.0, 0.5], "mask_thresholds": [0.5, 0.6]})
    plan = scores_of(settings, ablate=True)
    run(plan)
    live = job_of(plan)
    other = Artifact.planned(tmp_path / "live", plan.artifact.description)
    run_stage(live, other)
    assert files_of(other) == files_of(plan.artifact)

    def none_is_loaded(*arguments):
        raise AssertionError(f"a model is loaded: {arguments}")

    for name in ("load_proposal_net", "load_clip", "load_adapted_clip"):
        monkeypatch.setattr(nets, name, none_is_loaded)
    branches = sorted(tmp_path.glob("branches/*"))
    swept = settings_of(tmp_path, sweep={"ensemble_weights": [0.25, 0.3], "mask_thresholds": [0.5, 0.6]})
    new = scores_of(swept, ablate=True)
    assert new.artifact.directory != plan.artifact.directory
    assert run(new).units_done == 3
    assert sorted(tmp_path.glob("branches/*")) == branches


def test_evaluations_of_other_clips_share_the_proposals_on_any_number_of_workers(tmp_path, monkeypatch):
    alone = scores_of(settings_of(tmp_path / "alone"))
    first, second = (
        scores_of(settings_of(tmp_path / "shared", share_proposals=True, masked_crops=masked))
        for masked in (True, False)
    )
    run(alone)
    with forked.dask_workers():
        run(first, compute=Compute(workers=2))
    assert files_of(first.artifact) == files_of(alone.artifact)
    monkeypatch.setattr(nets, "load_proposal_net", lambda *arguments: pytest.fail("the proposal net is loaded"))
    assert run(second).units_done == 3
    assert files_of(second.artifact) != files_of(alone.artifact)
    assert [path.name.startswith("tiny-drawn-proposals-") for path in tmp_path.glob("shared/branches/*")] == [True]
    assert not (tmp_path / "alone" / "branches").exists()


def test_another_threshold_runs_the_clip_branch_alone(tmp_path, monkeypatch):
    first, second = (
        scores_of(settings_of(tmp_path, sweep={"mask_thresholds": [threshold]}), ablate=True)
        for threshold in (0.5, 0.3)
    )
    run(first)
    known = set(tmp_path.glob("branches/*"))
    monkeypatch.setattr(nets, "load_proposal_net", lambda *arguments: pytest.fail("the proposal net is loaded"))
    assert run(second).units_done == 3
    (new,) = set(tmp_path.glob("branches/*")) - known
    assert new.name.startswith("tiny-drawn-original-t300-no-prompts")


def test_named_label_maps_do_not_depend_on_the_proposal_net(tmp_path):
    roles = {}
    for regions in ("net", "ground-truth"):
        plan = scores_of(settings_of(tmp_path, proposals=regions))
        roles[regions] = set(plan.artifact.identity.inputs)
    assert roles == {"net": {"scenes", "proposal_net", "clip"}, "ground-truth": {"scenes", "clip"}}


def test_an_image_without_a_labelled_pixel_is_passed_by(tmp_path):
    make_folder(tmp_path / "data", ["sky", "grass", "boat"], images=2)
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(tmp_path / "data" / "labels" / "im1.png")
    data = {"mine": folder_settings(tmp_path / "data")}
    plan = scores_of(settings_of(tmp_path / "runs", datasets=data, proposals="ground-truth"))
    assert run(plan).manifest.counts == {"ok": 1, "no_label": 1}
    rows = {row["key"]: row["status"] for row in read_scores(plan.artifact, "shard-00000", "images").to_pylist()}
    assert rows == {"im0": "ok", "im1": "no_label"}


def test_an_image_all_of_whose_masks_are_empty_is_named_by_the_proposal_net(tmp_path):
    plan = scores_of(settings_of(tmp_path))
    (scene, *_) = images_of(plan["scenes"].artifact)
    opened = job_of(plan).open()
    branch = ProposalBranch(torch.full((9, 16, 16), -9.0), torch.eye(9, 55))
    clip = opened.regions(scene, job_of(plan).variants[0].view, branch, 255)
    assert (clip.regions.tolist(), clip.clip_logits.shape) == ([], (0, 54))
    live = Branches(opened, 255)
    live.proposals = lambda scene: branch
    predictor = Predictor(scene, live, class_count=54, ignore_label=255, net_sides_px=(64, 128))
    assert np.array_equal(predictor.predict(job_of(plan).variants[0]), np.zeros((96, 96)))


def test_clip_names_no_proposals_that_it_is_not_given(tmp_path):
    plan = scores_of(settings_of(tmp_path))
    (scene, *_) = images_of(plan["scenes"].artifact)
    with pytest.raises(ValueError, match="regions are proposals, None is given; pass"):
        job_of(plan).open().regions(scene, job_of(plan).variants[0].view, None, 255)


def test_scenes_that_cannot_be_scored_are_rows(tmp_path):
    make_folder(tmp_path / "data", ["sky", "grass", "boat"], images=4)
    (tmp_path / "data" / "images" / "im1.png").write_bytes(b"\x89PNG none")
    (tmp_path / "data" / "labels" / "im2.png").unlink()
    settings = settings_of(tmp_path / "runs", datasets={"mine": folder_settings(tmp_path / "data")})
    plan = scores_of(settings)
    report = run(plan)
    assert report.manifest.rows == 4
    statuses = {row["key"]: row["status"] for row in read_scores(plan.artifact, "shard-00000", "images").to_pylist()}
    assert statuses["im0"] == statuses["im3"] == "ok"
    assert (statuses["im1"], statuses["im2"]) == ("image_unreadable", "no_label")
    assert report.manifest.counts == {"image_unreadable": 1, "no_label": 1, "ok": 2}
    assert Scores(plan.artifact).failures() == {"image_unreadable": 1, "no_label": 1}


def test_torch_threads_are_those_of_the_settings(tmp_path):
    plan = scores_of(settings_of(tmp_path))
    job_of(plan).open()
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (33, 300)])
def test_true_masks_with_true_names_give_the_label_map_at_any_size(size):
    labels = np.random.default_rng(0).integers(0, 4, size).astype(np.uint16)
    labels[0, 0] = 3
    labels.flat[1::7] = 255
    scene = LabelledImage("key", Image.new("RGB", size[::-1]), labels)
    settings = EvaluateSettings(proposals="ground-truth", oracle_labels=True)
    predictor = Predictor(scene, None, class_count=4, ignore_label=255, net_sides_px=(16, 32))
    predicted = predictor.predict(main_variant(settings, 0.7))
    labelled = labels != 255
    assert np.array_equal(predicted[labelled], labels[labelled])
