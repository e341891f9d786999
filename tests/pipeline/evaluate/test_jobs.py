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
from pipeline.adapted_clip_loading import stock_mask_adapted_clip
from pipeline.clip_loading import load_clip
from pipeline.evaluate import nets
from pipeline.evaluate.counts import Scores
from pipeline.evaluate.decoding import NO_LABEL, LabelledImage, decoded
from pipeline.evaluate.nets import ProposalBranch
from pipeline.evaluate.plan import ScoresPlan, plan_scores
from pipeline.evaluate.predicting import LiveBranches, Predictor
from pipeline.evaluate.variants import main_variant
from pipeline.executors import Compute
from pipeline.proposal_net_loading import load_proposal_net
from pipeline.settings import EvaluateSettings, Settings
from pipeline.shard_runner import Limits, StageReport, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.scenes import SceneShard
from storage_schemas.scores import merged_confusions, read_predictions, read_scores
from storage_schemas.tars import Member
from tests.pipeline.evaluate.small_world import files_of, folder_settings, inputs_of, make_folder, settings_of


def planned(settings: Settings, *, ablate: bool = False, **inputs) -> ScoresPlan:
    return plan_scores(settings, settings.evaluate.datasets[0], inputs_of(settings, **inputs), ablate=ablate)


def run(plan: ScoresPlan, **options) -> StageReport:
    for branch in plan.branches:
        run_stage(branch.job, branch.artifact, **options)
    return run_stage(plan.job, plan.artifact, **options)


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


@pytest.mark.parametrize("weight", [0.7, 0.0, 1.0])
def test_predictions_are_the_segmenters(tmp_path, weight):
    settings = settings_of(tmp_path)
    dataset = settings.evaluate.datasets[0].model_copy(update={"ensemble_weight": weight})
    inputs = inputs_of(settings)
    plan = plan_scores(settings, dataset, inputs)
    report = run(plan)
    assert report.manifest.counts == {"ok": 5}
    base = load_clip(settings.clip)
    segmenter = Segmenter(
        load_proposal_net(inputs.proposal_net),
        stock_mask_adapted_clip(base),
        tokenizer=base.words,
        settings=SegmenterSettings(
            ensemble_weight=weight,
            short_side_px=64,
            max_side_px=128,
            prompt_templates=prompt_templates("vild"),
        ),
    )
    class_names = plan.job.nets.class_names
    predictions = predictions_of(plan.artifact)
    for scene in images_of(inputs.scenes):
        expected = segmenter.segment(scene.image, class_names).label_map.numpy()
        assert np.array_equal(predictions[scene.key], expected), scene.key
    assert len({int(value) for labels in predictions.values() for value in np.unique(labels)}) > 3


def test_the_confusion_is_that_of_the_stored_predictions(tmp_path):
    plan = planned(settings_of(tmp_path))
    run(plan)
    tables = [read_scores(plan.artifact, unit, "confusion") for unit in plan.artifact.description.units]
    merged = merged_confusions(tables[::-1], 54)["ensemble"]
    expected = np.zeros((54, 54), np.int64)
    predictions = predictions_of(plan.artifact)
    for scene in images_of(plan.inputs.scenes):
        labelled = scene.labels != 255
        np.add.at(expected, (scene.labels[labelled], predictions[scene.key][labelled]), 1)
    assert np.array_equal(merged, expected)
    assert expected.sum() > 40_000


def test_any_number_of_workers_gives_the_same_bytes(tmp_path):
    settings = settings_of(tmp_path)
    plan = planned(settings)
    inline = files_of(run(plan).artifact)
    again = run(plan)
    assert (again.units_done, again.units_skipped) == (0, 3)
    for unit in plan.artifact.description.units:
        (plan.artifact.directory / f"{unit}.json").unlink()
    resumed = run(plan, compute=Compute(workers=2))
    assert resumed.units_done == 3
    assert files_of(plan.artifact) == inline


def test_stored_branches_score_as_the_nets_do_and_other_weights_run_no_model(tmp_path, monkeypatch):
    settings = settings_of(tmp_path, sweep={"ensemble_weights": [0.0, 0.5], "mask_thresholds": [0.5, 0.6]})
    plan = planned(settings, ablate=True)
    run(plan)
    live = replace(plan.job, stored=None)
    other = Artifact.planned(tmp_path / "live", plan.artifact.description)
    run_stage(live, other)
    assert files_of(other) == files_of(plan.artifact)

    def none_is_loaded(*arguments):
        raise AssertionError(f"a model is loaded: {arguments}")

    for name in ("load_proposal_net", "load_clip", "load_adapted_clip"):
        monkeypatch.setattr(nets, name, none_is_loaded)
    swept = settings_of(tmp_path, sweep={"ensemble_weights": [0.25, 0.3], "mask_thresholds": [0.5, 0.6]})
    inputs = plan.inputs
    new = plan_scores(swept, swept.evaluate.datasets[0], inputs, ablate=True)
    assert new.artifact.directory != plan.artifact.directory
    assert [branch.artifact.directory for branch in new.branches] == [b.artifact.directory for b in plan.branches]
    assert run(new).units_done == 3


def test_another_threshold_runs_the_clip_branch_alone(tmp_path, monkeypatch):
    inputs = inputs_of(settings_of(tmp_path))
    plans = [
        plan_scores(settings, settings.evaluate.datasets[0], inputs, ablate=True)
        for settings in (settings_of(tmp_path, sweep={"mask_thresholds": [t]}) for t in (0.5, 0.3))
    ]
    run(plans[0])
    new = [
        branch
        for branch in plans[1].branches
        if branch.artifact.directory not in {known.artifact.directory for known in plans[0].branches}
    ]
    assert [branch.job.view.mask_threshold for branch in new] == [0.3]
    monkeypatch.setattr(nets, "load_proposal_net", lambda *arguments: pytest.fail("the proposal net is loaded"))
    assert run(plans[1]).units_done == 3


def test_named_label_maps_do_not_depend_on_the_proposal_net(tmp_path):
    inputs = inputs_of(settings_of(tmp_path))
    roles = {}
    for regions in ("net", "ground-truth"):
        settings = settings_of(tmp_path, proposals=regions)
        plan = plan_scores(settings, settings.evaluate.datasets[0], inputs)
        roles[regions] = set(plan.artifact.identity.inputs)
    assert roles == {"net": {"scenes", "proposal_net"}, "ground-truth": {"scenes"}}


def test_an_image_without_a_labelled_pixel_is_passed_by(tmp_path):
    make_folder(tmp_path / "data", ["sky", "grass", "boat"], images=2)
    Image.fromarray(np.full((40, 56), 255, np.uint8)).save(tmp_path / "data" / "labels" / "im1.png")
    data = {"mine": folder_settings(tmp_path / "data")}
    plan = planned(settings_of(tmp_path / "runs", datasets=data, proposals="ground-truth"), name="mine")
    assert run(plan, limits=Limits(expected=frozenset({NO_LABEL}))).manifest.counts == {"ok": 1, "no_label": 1}
    rows = {row["key"]: row["status"] for row in read_scores(plan.artifact, "shard-00000", "images").to_pylist()}
    assert rows == {"im0": "ok", "im1": "no_label"}


def test_an_image_all_of_whose_masks_are_empty_is_named_by_the_proposal_net(tmp_path):
    plan = planned(settings_of(tmp_path))
    (scene, *_) = images_of(plan.inputs.scenes)
    opened = plan.job.open()
    branch = ProposalBranch(torch.full((9, 16, 16), -9.0), torch.eye(9, 55))
    look = opened.look(scene, plan.job.variants[0].view, branch.mask_logits, 255)
    assert (look.regions.tolist(), look.clip_logits.shape) == ([], (0, 54))
    live = LiveBranches(opened, 255)
    live.proposals = lambda scene: branch
    predictor = Predictor(scene, live, class_count=54, ignore_label=255, net_sides_px=(64, 128))
    assert np.array_equal(predictor.predict(plan.job.variants[0]), np.zeros((96, 96)))


def test_clip_names_no_proposals_that_it_is_not_given(tmp_path):
    plan = planned(settings_of(tmp_path))
    (scene, *_) = images_of(plan.inputs.scenes)
    with pytest.raises(ValueError, match="CLIP is to name proposals, none are given; pass their mask logits"):
        plan.job.open().look(scene, plan.job.variants[0].view, None, 255)


def test_scenes_that_cannot_be_scored_are_rows(tmp_path):
    make_folder(tmp_path / "data", ["sky", "grass", "boat"], images=4)
    (tmp_path / "data" / "images" / "im1.png").write_bytes(b"\x89PNG none")
    (tmp_path / "data" / "labels" / "im2.png").unlink()
    settings = settings_of(tmp_path / "runs", datasets={"mine": folder_settings(tmp_path / "data")})
    plan = planned(settings, name="mine")
    report = run(plan, limits=Limits(max_failed_share=0.9))
    assert report.manifest.rows == 4
    statuses = {row["key"]: row["status"] for row in read_scores(plan.artifact, "shard-00000", "images").to_pylist()}
    assert statuses["im0"] == statuses["im3"] == "ok"
    assert (statuses["im1"], statuses["im2"]) == ("image_unreadable", "no_label")
    assert report.manifest.counts == {"image_unreadable": 1, "no_label": 1, "ok": 2}
    assert Scores(plan.artifact).failures() == {"image_unreadable": 1, "no_label": 1}


def test_torch_threads_are_those_of_the_settings(tmp_path):
    plan = planned(settings_of(tmp_path))
    plan.job.open()
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
