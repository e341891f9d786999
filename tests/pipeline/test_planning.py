"""The artifacts that settings imply."""

from pathlib import Path

from pipeline.planning import planned_artifacts
from pipeline.prepare.prepare import plan_prepare
from pipeline.settings import Settings, load_settings
from pipeline.settings.prepare import PrepareSettings

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
