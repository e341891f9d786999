"""The artifacts that settings imply."""

from pathlib import Path

import pytest

from pipeline.planning import plan_of_proposal_net, planned_artifacts
from pipeline.prepare.drawn_world.words import NOUNS
from pipeline.prepare.prepare import plan_prepare
from pipeline.settings import PrepareSettings, Settings, SettingsError, load_settings
from pipeline.stage_inputs import MissingInputError, prepare_missing

DRAWN = "datasets.drawn={dataset='drawn-world', split='val', drawn_world={scenes=3}, scenes_per_shard=2}"


def test_no_settings_imply_no_artifact():
    assert list(planned_artifacts(Settings())) == []


def test_each_data_set_implies_its_scenes(tmp_path):
    settings = load_settings(None, [f"runs_dir={tmp_path}", DRAWN])
    (plan,) = planned_artifacts(settings)
    assert plan.artifact == plan_prepare(settings.datasets["drawn"], tmp_path).artifact
    assert plan.label == "scenes/drawn-world-val"
    assert len(plan.artifact.description.units) == 2
    assert not plan.artifact.directory.exists()


def test_a_data_set_that_is_not_there_has_a_reason(tmp_path):
    absent = PrepareSettings(dataset="ade20k-150", root=tmp_path / "absent", split="val")
    (plan,) = planned_artifacts(Settings(datasets={"ade": absent}))
    assert (plan.label, plan.artifact) == ("scenes/ade", None)
    assert f"{Path(absent.root)} is no directory" in plan.reason


def stage_1_settings(runs: Path, *overrides: str) -> Settings:
    small_clip = "clip={architecture='drawn-world-small', pretrained='shipped'}"
    return load_settings(None, [f"runs_dir={runs}", DRAWN, small_clip, "proposal_net.dataset=drawn", *overrides])


def test_the_proposal_net_waits_for_its_scenes(tmp_path):
    settings = stage_1_settings(tmp_path)
    *_, plan = planned_artifacts(settings)
    assert (plan.label, plan.artifact) == ("proposal_net/run", None)
    assert "is not finished; run 'ovseg prepare' first" in plan.reason
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg prepare' first"):
        plan_of_proposal_net(settings)
    prepare_missing(settings, ["drawn"])
    *_, plan = planned_artifacts(settings)
    assert plan.artifact == plan_of_proposal_net(settings).artifact
    assert plan.artifact.description.units == ("weights", "report")


def test_what_the_proposal_net_is_made_of_decides_its_digest(tmp_path):
    prepare_missing(stage_1_settings(tmp_path), ["drawn"])

    def directory(*overrides: str) -> Path:
        return plan_of_proposal_net(stage_1_settings(tmp_path, *overrides)).artifact.directory

    weights = tmp_path / "start.safetensors"
    weights.write_bytes(b"one")
    start = f"proposal_net.initial_weights={weights}"
    renamed = f"datasets.same={DRAWN.removeprefix('datasets.drawn=')}"
    with_start = directory(start)
    changed = {
        directory(),
        with_start,
        directory("proposal_net.validation_dataset=drawn"),
        directory("clip.pretrained=random"),
        directory("proposal_net.training.steps=3"),
        directory("proposal_net.held_out_classes=['field']"),
    }
    assert len(changed) == 6
    assert directory(renamed, "proposal_net.dataset=same", "compute.loader_workers=7") == directory()
    weights.write_bytes(b"other")
    assert directory(start) != with_start


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("proposal_net.held_out_classes=['feild']", r"\['feild'\] are none of the 54 classes of the scenes; correct"),
        (f"proposal_net.held_out_classes={list(NOUNS)}", "all 54 classes are held out; leave one to learn"),
        ("proposal_net.initial_weights=no.pth", r"initial_weights: there is no such file; correct .*'no.pth'"),
        ("proposal_net.architecture.backbone.pretrained=no.pth", "backbone.pretrained: there is no such file; correct"),
    ],
)
def test_settings_that_do_not_fit_the_scenes_are_refused(override, message, tmp_path):
    prepare_missing(stage_1_settings(tmp_path), ["drawn"])
    with pytest.raises(SettingsError, match=message):
        plan_of_proposal_net(stage_1_settings(tmp_path, override))
