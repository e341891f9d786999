"""Running a stage: what is made on demand, what is refused, and in which order."""

from pathlib import Path

import pytest

from pipeline.dataflow import dataflow
from pipeline.graph import MissingInputError, Node, summary
from pipeline.settings import Settings, SettingsError, load_settings
from pipeline.shard_runner import Execution
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import chosen_stages, is_complete, run
from storage_schemas.artifact import artifacts_below
from tests.flows import flow_stages
from tests.flows.flow_stages import small_dataflow
from tests.pipeline.planned import prepare_scenes, scenes_of


def settings_in(runs: Path, *overrides: str) -> Settings:
    drawn = "{dataset='drawn-world', split='%s', drawn_world={scenes=2, size_px=48}}"
    data_sets = [f"datasets.one={drawn % 'train'}", f"datasets.other={drawn % 'val'}"]
    return load_settings(None, [f"runs_dir={runs}", *data_sets, *overrides])


def test_stages_are_chosen_from_one_on_or_alone():
    assert chosen_stages() == STAGE_NAMES
    assert chosen_stages("finetune") == ("finetune", "evaluate")
    assert chosen_stages(only="mine") == ("mine",)


def test_every_data_set_of_the_settings_is_prepared(tmp_path: Path):
    settings = settings_in(tmp_path)
    assert run("prepare", settings).units_done == 2
    assert is_complete(dataflow(settings), "prepare")
    assert len(list(tmp_path.glob("scenes/*/manifest.json"))) == 2


def test_scenes_are_prepared_when_they_are_missing_and_only_those_named(tmp_path: Path):
    settings = settings_in(tmp_path)
    prepare_scenes(settings, ["one", "one"])
    assert scenes_of(settings, "one").status().finished
    assert not scenes_of(settings, "other").directory.exists()
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")}
    prepare_scenes(settings, ["one"])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("shard-*")} == written


def test_the_digest_of_an_input_is_that_of_its_manifest(tmp_path: Path):
    settings = settings_in(tmp_path)
    prepare_scenes(settings, ["one"])
    node = dataflow(settings).scenes("one")
    assert node.digest() == node.artifact.manifest().digest()
    shard = next(node.artifact.directory.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(MissingInputError, match=r"run 'ovseg prepare' first .*is corrupt"):
        dataflow(settings).scenes("one").digest()


def test_an_input_that_is_not_finished_names_the_command(tmp_path: Path):
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg prepare' first"):
        dataflow(settings_in(tmp_path)).scenes("other").digest()


@pytest.mark.parametrize("stage", STAGE_NAMES[1:3])
def test_a_stage_of_which_the_settings_name_nothing_says_what_is_missing(stage, tmp_path: Path):
    with pytest.raises(SettingsError, match=r"expected, one of one, other; .* \(got ''\)"):
        run(stage, settings_in(tmp_path))
    assert list(artifacts_below(tmp_path)) == []


def test_finetuning_on_nothing_names_both_settings(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"finetune\.pairs_dir: is empty, and so is mine\.dataset"):
        run("finetune", settings_in(tmp_path, "finetune.validation_dataset=one"))
    assert list(artifacts_below(tmp_path)) == []


def test_an_evaluation_on_nothing_is_refused(tmp_path: Path):
    with pytest.raises(SettingsError, match=r"evaluate\.datasets: at least one data set is expected"):
        run("evaluate", settings_in(tmp_path))


def test_nothing_is_prepared_in_vain(tmp_path: Path):
    settings = settings_in(tmp_path, "proposal_net.dataset=one", "mine.dataset=other")
    with pytest.raises(MissingInputError, match="run 'ovseg train-proposals' first"):
        run("mine", settings)
    assert list(artifacts_below(tmp_path)) == []


@pytest.mark.parametrize("pairs", ["nowhere", "", "older"])
def test_no_data_set_is_prepared_where_pairs_are_missing(tmp_path: Path, pairs: str):
    """They lie not where the settings say, or were never mined, or with other settings."""
    runs = tmp_path / "runs"
    named = f"finetune.pairs_dir={tmp_path / 'nowhere'}" if pairs == "nowhere" else "mine.dataset=other"
    small_clip = "clip={architecture='drawn-world-small', pretrained='shipped'}"
    settings = settings_in(runs, small_clip, "finetune.validation_dataset=one", "mine.source=masks-classes", named)
    if pairs == "older":
        run("mine", settings)
        settings = settings.model_copy(update={"mine": settings.mine.model_copy(update={"source": "masks-1-caption"})})
    before = list(artifacts_below(runs))
    with pytest.raises(
        MissingInputError, match="holds no artifact of pairs" if pairs == "nowhere" else "run 'ovseg mine' first"
    ):
        run("finetune", settings)
    assert list(artifacts_below(runs)) == before


def small_node(runs: Path) -> Node:
    return small_dataflow(Settings(runs_dir=runs)).nodes[0]


def test_what_a_command_made_is_known_to_it(tmp_path: Path):
    graph = small_dataflow(Settings(runs_dir=tmp_path))
    first, second = graph.nodes
    assert not is_complete(graph, "prepare")
    with pytest.raises(MissingInputError, match="run 'ovseg run --only prepare' first"):
        second.digest()
    execution = Execution()
    first.make(execution)
    assert is_complete(graph, "prepare")
    second.make(execution)
    assert [report.artifact for report in execution.reports] == [first.artifact, second.artifact]


def test_an_artifact_is_complete_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small_node(tmp_path).make(Execution())
    assert small_node(tmp_path).is_complete()
    monkeypatch.setattr(flow_stages.First, "is_complete", lambda *_: False)
    assert not small_node(tmp_path).is_complete()


def test_a_summary_names_what_is_read_and_written():
    graph = dataflow(load_settings(Path(__file__).parents[2] / "flows" / "configs" / "demo.toml"))
    assert [summary(graph.of_stage(stage)) for stage in STAGE_NAMES] == [
        "data sets -> scenes",
        "scenes -> proposal_net",
        "scenes, proposal_net -> proposals, embeddings, pairs",
        "pairs, scenes -> adapted_clip",
        "scenes, proposal_net, adapted_clip -> scores, reports",
    ]
