"""The table of stages: whole, in the order of the dataflow, and with functions that are there."""

import importlib
import inspect
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.planning import PLANNERS, PlannedArtifact
from pipeline.settings import Settings, load_settings
from pipeline.shard_runner import run_stage
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import STAGES, Stage, chosen_stages, prepare_all
from tests.pipeline.runner_jobs import WriteFiles, planned

ROOT = Path(__file__).parents[2]


def test_the_table_has_every_stage_and_planner_in_order():
    assert tuple(stage.name for stage in STAGES) == STAGE_NAMES
    assert tuple(stage.planner for stage in STAGES) == PLANNERS


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_what_the_table_names_takes_settings(stage: Stage):
    for function in filter(None, (stage.function, stage.beside)):
        module, _, name = function.partition(":")
        first = next(iter(inspect.signature(getattr(importlib.import_module(module), name)).parameters))
        assert first == "settings"


def test_stages_are_chosen_from_one_on_or_alone():
    assert [stage.name for stage in chosen_stages()] == list(STAGE_NAMES)
    assert [stage.name for stage in chosen_stages("finetune")] == ["finetune", "evaluate"]
    assert [stage.name for stage in chosen_stages(only="mine")] == ["mine"]


def test_a_stage_is_done_when_its_artifacts_and_what_lies_beside_them_are(tmp_path: Path, monkeypatch):
    artifact = planned(tmp_path, 2)
    plans = [PlannedArtifact(label="test/small", artifact=artifact)]
    card = {"is there": True}
    monkeypatch.setitem(sys.modules, "cards", SimpleNamespace(look=lambda _: card["is there"]))
    stage = Stage(name="mine", dataflow="a -> b", planner=lambda _: plans, function="a:b", beside="cards:look")
    assert not stage.is_done(Settings())
    run_stage(WriteFiles(), artifact)
    assert stage.is_done(Settings())
    card["is there"] = False
    assert not stage.is_done(Settings())
    plans.clear()  # the settings don't ask for the stage
    assert stage.is_done(Settings())


def test_every_data_set_of_the_settings_is_prepared(tmp_path: Path):
    file = tmp_path / "settings.toml"
    file.write_text(
        f'runs_dir = "{tmp_path}"\n'
        '[datasets.a]\ndataset = "drawn-world"\nsplit = "train"\ndrawn_world = { scenes = 2 }\n'
        '[datasets.b]\ndataset = "drawn-world"\nsplit = "val"\ndrawn_world = { scenes = 2 }\n'
    )
    settings = load_settings(file)
    prepare_all(settings)
    assert STAGES[0].is_done(settings)
    assert len(list(tmp_path.glob("scenes/*/manifest.json"))) == 2
