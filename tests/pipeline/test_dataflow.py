"""The page of the dataflow: which artifacts settings imply, what each is made of, and what is read to find that out."""

from pathlib import Path

import pytest

from pipeline.dataflow import dataflow
from pipeline.drawn_world.words import NOUNS
from pipeline.graph import MissingInputError, Node
from pipeline.prepare import prepare as preparation
from pipeline.settings import Settings, SettingsError, load_settings
from pipeline.shard_runner import Execution
from pipeline.states import state_of_node
from tests.pipeline.planned import artifact_of, node_of, prepare_scenes

DRAWN = "datasets.drawn={dataset='drawn-world', split='val', drawn_world={scenes=3}, scenes_per_shard=2}"


def stage_1_settings(runs: Path, *overrides: str) -> Settings:
    small_clip = "clip={architecture='drawn-world-small', pretrained='shipped'}"
    return load_settings(None, [f"runs_dir={runs}", DRAWN, small_clip, "proposal_net.dataset=drawn", *overrides])


def made_of(node: Node) -> dict[str, str]:
    return {role: source.label for role, source in node.sources.items() if isinstance(source, Node)}


def test_no_settings_imply_no_artifact():
    assert dataflow(Settings()).nodes == []


def test_every_artifact_follows_those_that_it_is_made_of():
    graph = dataflow(load_settings(Path(__file__).parents[2] / "flows" / "configs" / "demo.toml"))
    seen: set[Node] = set()
    for node in graph.nodes:
        assert set(node.inputs) <= seen
        seen.add(node)
    assert {node.label: made_of(node) for node in graph.nodes if node.step.stage == "mine"} == {
        "proposals/demo": {"scenes": "scenes/drawn-world-train", "proposal_net": "proposal_net/demo"},
        "embeddings/demo": {"scenes": "scenes/drawn-world-train", "proposals": "proposals/demo"},
        "pairs/demo": {
            "scenes": "scenes/drawn-world-train",
            "proposals": "proposals/demo",
            "embeddings": "embeddings/demo",
        },
    }
    assert made_of(graph.only("reports")) == {"demo-drawn-test": "scores/demo-drawn-test"}


def test_each_data_set_implies_its_scenes(tmp_path):
    settings = load_settings(None, [f"runs_dir={tmp_path}", DRAWN])
    (node,) = dataflow(settings).nodes
    assert node.artifact == preparation.plan_prepare(settings.datasets["drawn"], tmp_path).artifact
    assert node.label == "scenes/drawn-world-val"
    assert node.unit_count() == 2
    assert not node.artifact.directory.exists()


def test_a_data_set_that_is_not_there_has_a_reason(tmp_path):
    absent = f"datasets.ade={{dataset='ade20k-150', root='{tmp_path}/absent', split='val', scenes_per_shard=300}}"
    (node,) = dataflow(load_settings(None, [absent])).nodes
    state = state_of_node(node)
    assert (state.artifact, state.dataset, state.state) == ("scenes/ade20k-150-val", "ade", "waiting")
    assert f"{tmp_path}/absent is no directory" in state.reason
    assert node.unit_count() == 7  # of the official 2,000 scenes


def test_the_proposal_net_waits_for_its_scenes(tmp_path):
    settings = stage_1_settings(tmp_path)
    node = node_of(settings, "proposal_net")
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg prepare' first"):
        _ = node.artifact
    assert not node.is_complete()
    node["scenes"].make(Execution())
    assert node.artifact.description.units == ("weights", "report")
    assert node.artifact == artifact_of(settings, "proposal_net")


def test_what_the_proposal_net_is_made_of_decides_its_digest(tmp_path):
    prepare_scenes(stage_1_settings(tmp_path), ["drawn"])

    def directory(*overrides: str) -> Path:
        return artifact_of(stage_1_settings(tmp_path, *overrides), "proposal_net").directory

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
    prepare_scenes(stage_1_settings(tmp_path), ["drawn"])
    with pytest.raises(SettingsError, match=message):
        artifact_of(stage_1_settings(tmp_path, override), "proposal_net")
