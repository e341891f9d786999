"""What a run would do: units, estimates, bytes, and what is missing; and that finding out leaves no trace."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.dry_run.dry_run import dry_run, existing_parent, parameter_counts
from pipeline.graph import ParameterCounts
from pipeline.prepare.prepare import OFFICIAL_SCENES, prepare
from pipeline.settings import load_settings
from pipeline.stage_names import STAGE_NAMES
from pipeline.states import shown_bytes
from tools.count_paper_work import CONFIGS, EVALUATED_IMAGES, RUNS, TRAIN_IMAGES

DRAWN = "datasets.drawn={dataset='drawn-world', split='val', drawn_world={scenes=5}, scenes_per_shard=2}"
SMALL_CLIP = "clip={architecture='drawn-world-small', pretrained='shipped'}"
SMALL_NET = "proposal_net.architecture={backbone={name='resnet18'}, decoder_layers=1, queries=7}"


def settings_of(runs: Path, *overrides: str):
    return load_settings(None, [f"runs_dir={runs}", DRAWN, SMALL_CLIP, SMALL_NET, *overrides])


def all_stages(runs: Path, *overrides: str):
    stages = ("proposal_net.dataset=drawn", "mine.dataset=drawn", "evaluate.datasets=[{dataset='drawn'}]")
    return settings_of(runs, *stages, *overrides)


def of_kind(found, kind: str):
    return next(each for each in found.states if each.artifact.startswith(f"{kind}/"))


def size_bytes(settings, kind: str, nets: ParameterCounts, scenes: int) -> int:
    return dataflow(settings).only(kind).step.size_bytes(nets, scenes)


def files_below(path: Path):
    return {file: file.stat().st_mtime_ns for file in path.rglob("*")}


def test_every_artifact_of_a_run_has_its_units(tmp_path):
    found = dry_run(all_stages(tmp_path / "runs"), STAGE_NAMES)
    assert [(each.artifact.partition("-")[0], each.todo, each.is_estimate) for each in found.states] == [
        ("scenes/drawn", 3, False),
        ("proposal_net/run", 2, True),
        ("proposals/run", 3, True),
        ("embeddings/run", 3, True),
        ("pairs/run", 3, True),
        ("adapted_clip/run", 3, True),
        ("scores/run", 3, True),
        ("reports/run", 1, True),
    ]
    assert found.is_all_there
    assert all("is not finished" in each.reason for each in found.states if each.is_estimate)
    assert found.unknown_sizes == ()


def test_finding_out_leaves_no_trace(tmp_path):
    settings = all_stages(tmp_path / "runs")
    dry_run(settings, STAGE_NAMES)
    assert list(tmp_path.iterdir()) == []
    prepare(settings.datasets["drawn"], settings.runs_dir)
    for memory in tmp_path.rglob("verified.json"):
        memory.unlink()
    before = files_below(tmp_path)
    dry_run(settings, STAGE_NAMES)
    assert files_below(tmp_path) == before


def test_what_is_done_and_what_is_spoilt_is_reported(tmp_path):
    settings = settings_of(tmp_path)
    artifact = prepare(settings.datasets["drawn"], tmp_path).manifest.description
    (scenes,) = dry_run(settings, STAGE_NAMES).states
    assert (scenes.todo, scenes.units["done"], scenes.new_bytes) == (0, 3, 0)
    directory = artifact.identity.directory(tmp_path)
    (directory / "shard-00001.tar").write_bytes(b"damaged")
    (directory / "shard-00002.json").unlink()
    (scenes,) = dry_run(settings, STAGE_NAMES).states
    assert (scenes.todo, scenes.units["done"], scenes.units["corrupt"]) == (2, 1, 1)
    whole = dry_run(settings_of(tmp_path / "other"), STAGE_NAMES).states[0].new_bytes
    assert scenes.new_bytes == round(whole * 2 / 3)


def test_only_the_chosen_stages_are_looked_at(tmp_path):
    found = dry_run(all_stages(tmp_path), ["mine"])
    assert {each.stage for each in found.states} == {"mine"}
    assert len(found.states) == 3


def test_two_parts_of_one_data_set_have_their_own_counts(tmp_path):
    again = "datasets.few={dataset='drawn-world', split='val', drawn_world={scenes=5}, limit=1}"
    found = dry_run(settings_of(tmp_path, again), STAGE_NAMES)
    whole, few = (each.new_bytes for each in found.states)
    assert whole == 5 * few


def test_data_that_is_not_there_is_reported_and_counted_by_its_official_number(tmp_path):
    absent = f"datasets.ade={{dataset='ade20k-150', root='{tmp_path}/absent', split='val', scenes_per_shard=300}}"
    found = dry_run(settings_of(tmp_path, absent), STAGE_NAMES)
    (finding,) = found.findings
    assert (finding.where, finding.is_missing) == ("datasets.ade", True)
    assert f"{tmp_path}/absent is no directory" in finding.text
    ade = found.states[-1]
    assert (ade.artifact, ade.todo, ade.is_estimate) == ("scenes/ade20k-150-val", 7, True)
    assert not found.is_all_there


def test_a_folder_that_is_not_there_has_no_number(tmp_path):
    absent = f"datasets.mine={{dataset='folder', root='{tmp_path}/absent'}}"
    found = dry_run(settings_of(tmp_path, absent), STAGE_NAMES)
    assert found.states[-1].todo is None
    assert found.unknown_sizes == ("scenes/folder",)


def test_folders_are_reported_apart_by_the_names_that_settings_give_them(tmp_path):
    for name in ("town", "coast"):
        (tmp_path / name / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / "images" / "a.png")
    folders = [f"datasets.{name}={{dataset='folder', root='{tmp_path}/{name}'}}" for name in ("town", "coast")]
    found = dry_run(settings_of(tmp_path, *folders), STAGE_NAMES)
    assert [each.dataset for each in found.states if each.artifact.startswith("scenes/folder-")] == ["town", "coast"]


def test_an_empty_folder_is_missing(tmp_path):
    (tmp_path / "empty" / "images").mkdir(parents=True)
    found = dry_run(settings_of(tmp_path, f"datasets.mine={{dataset='folder', root='{tmp_path}/empty'}}"), STAGE_NAMES)
    assert [finding.where for finding in found.findings if finding.is_missing] == ["datasets.mine"]


def test_a_disk_that_is_too_small_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    (finding,) = dry_run(settings_of(tmp_path), STAGE_NAMES).findings
    assert finding.where == "runs_dir"
    assert finding.text.startswith("about ")
    assert "B will be written, 1.0 kB are free there; make room" in finding.text


def test_a_file_in_place_of_the_runs_directory_is_reported(tmp_path):
    (tmp_path / "runs").write_text("")
    (finding,) = dry_run(settings_of(tmp_path / "runs"), STAGE_NAMES).findings
    assert (finding.where, finding.is_missing) == ("runs_dir", True)


def test_pairs_that_are_not_there_are_reported(tmp_path):
    (finding,) = dry_run(settings_of(tmp_path, f"finetune.pairs_dir={tmp_path}/none"), STAGE_NAMES).findings
    assert finding.where == "finetune.pairs_dir"


def test_a_held_out_class_that_is_none_is_reported_where_the_data_set_is_there(tmp_path):
    settings = all_stages(tmp_path, "proposal_net.held_out_classes=['feild']")
    (finding,) = dry_run(settings, STAGE_NAMES).findings
    assert (finding.where, finding.is_missing) == ("proposal_net.held_out_classes", True)
    assert finding.text == "['feild'] are none of the 54 classes of the scenes; correct the names"
    absent = f"datasets.drawn={{dataset='ade20k-150', root='{tmp_path}/absent', split='val'}}"
    found = dry_run(all_stages(tmp_path, "proposal_net.held_out_classes=['feild']", absent), STAGE_NAMES).findings
    assert [finding.where for finding in found] == ["datasets.drawn"]


def test_the_nearest_directory_that_exists(tmp_path):
    assert existing_parent(tmp_path / "a" / "b") == tmp_path
    assert existing_parent(tmp_path) == tmp_path


@pytest.mark.parametrize("name", RUNS)
def test_the_papers_runs_without_data_list_all_that_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    settings = load_settings(CONFIGS / f"{name}.toml")
    found = dry_run(settings, STAGE_NAMES)
    missing = {finding.where for finding in found.findings if finding.is_missing}
    assert missing >= {f"datasets.{key}" for key in settings.datasets}
    assert {"clip.pretrained", "proposal_net.architecture.backbone.pretrained"} <= {f.where for f in found.findings}
    assert of_kind(found, "proposals").todo == 119
    assert of_kind(found, "adapted_clip").todo == 3
    assert 100e9 < found.new_bytes < 250e9
    assert list(tmp_path.iterdir()) == []


def test_official_numbers_agree_with_those_of_the_counted_work():
    assert OFFICIAL_SCENES["coco", "train2017"] == TRAIN_IMAGES
    assert {name: OFFICIAL_SCENES[name, "val"] for name in EVALUATED_IMAGES} == EVALUATED_IMAGES


def test_sizes_of_the_papers_smaller_model_follow_from_its_parameters():
    settings = load_settings(CONFIGS / "ovseg_r101c_vitb16.toml")
    nets = parameter_counts(settings)
    assert (nets.embedding_dim, nets.image_tower) == (512, 86_192_640)
    assert nets.adaptation == nets.image_tower + 3 * 196 * 768
    assert size_bytes(settings, "embeddings", nets, 10) == 10 * 100 * 512 * 2
    assert size_bytes(settings, "proposal_net", nets, 0) == nets.proposal_net * 40


@pytest.mark.parametrize(("mode", "trained"), [("mpt", 3 * 196 * 768), ("query", 12 * 768 * 769), ("ft", 86_192_640)])
def test_what_stage_3_writes_is_what_its_phases_train(mode, trained):
    namer = ["finetune.namer='one-pass'"] if mode == "query" else []
    settings = load_settings(CONFIGS / "ovseg_r101c_vitb16.toml", [f"finetune.mode='{mode}'", *namer])
    assert parameter_counts(settings).adaptation == trained


def test_pairs_grow_with_the_captions(tmp_path):
    one, five = (settings_of(tmp_path, f"mine.source='proposals-{count}'") for count in ("1-caption", "5-captions"))
    nets = ParameterCounts(proposal_net=1, image_tower=1, embedding_dim=1, proposal_dim=1, adaptation=1)
    assert size_bytes(five, "pairs", nets, 100) == 5 * size_bytes(one, "pairs", nets, 100)


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (7 * 10**9, "7.0 GB")])
def test_bytes_have_the_unit_that_suits_them(count, text):
    assert shown_bytes(count) == text


@pytest.mark.parametrize(
    ("tuned", "named", "found"), [("crops", "one-pass", 1), ("one-pass", "crops", 1), ("crops", "crops", 0)]
)
def test_a_clip_tuned_for_another_namer_is_said(tmp_path, tuned, named, found):
    settings = all_stages(
        tmp_path / "runs", "finetune.mode='ft'", f"finetune.namer='{tuned}'", f"evaluate.namer='{named}'"
    )
    said = [each for each in dry_run(settings, STAGE_NAMES).findings if each.where == "evaluate.namer"]
    assert len(said) == found
    assert all(f"is '{named}', and finetune.namer '{tuned}'" in each.text and not each.is_missing for each in said)
