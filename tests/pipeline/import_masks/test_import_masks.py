"""The import as a step: kills, workers, status, cards, commands, real samples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.command import main
from pipeline.executors import Compute
from pipeline.graph import Finished, Node
from pipeline.import_masks.import_masks import ImportMasks, import_masks
from pipeline.mine.regions import NetSize
from pipeline.prepare.prepare import prepare
from pipeline.settings import ComputeSettings, MasksSettings, PrepareSettings
from pipeline.shard_runner import Execution, Limits
from pipeline.states import state_of
from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_facts
from storage_schemas.scenes import SceneShard
from tests.pipeline.import_masks.masks_world import (
    UPRIGHT,
    blobs,
    coco_record,
    found_in,
    import_of,
    make_scenes,
    masks_of,
)
from tests.pipeline.prepare.layouts import SHARED_DATA
from tests.storage_schemas.faulty_disks import Killed, KillingDisk

COCO = SHARED_DATA / "coco-sample"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Scenes, and a file with masks of them, one of them broken, and of another picture."""
    place = tmp_path_factory.mktemp("world")
    scenes = make_scenes(place / "runs", place / "pictures")
    records = [coco_record(name, mask) for name, size in UPRIGHT.items() for mask in blobs(size, 5, len(name))]
    records += [coco_record("low", blobs((40, 60), 1)[0], area=1), coco_record("else", blobs((9, 9), 1)[0])]
    path = place / "masks.json"
    path.write_text(json.dumps(records))
    return scenes, path


def files_of(artifact: Artifact) -> dict[str, bytes]:
    found = [path for path in artifact.directory.rglob("*") if path.is_file() and "_local" not in path.parts]
    return {str(path.relative_to(artifact.directory)): path.read_bytes() for path in found}


def node_of(world, runs) -> Node:
    scenes, path = world
    step = ImportMasks(
        settings=MasksSettings(path=path), size=NetSize(40, 80), compute=ComputeSettings(max_failed_share=1.0),
        where=str(path),
    )  # fmt: skip
    return Node(
        step, "folder-imported", runs, {"scenes": Node(Finished("scenes", str(scenes.directory), ""), "", runs, {})}
    )


def test_a_kill_at_any_call_changes_no_byte(world, tmp_path):
    reference = files_of(import_of(world[1], world[0], tmp_path / "calm"))
    kills = 0
    for call in range(1, 40, 4):
        node = node_of(world, tmp_path / "killed")
        try:
            Execution().run(node.step.job(node), replace(node.artifact, disk=KillingDisk(call)))
        except Killed:
            kills += 1
    assert kills > 4
    assert files_of(import_of(world[1], world[0], tmp_path / "killed")) == reference


@pytest.mark.slow
def test_two_workers_give_the_bytes_of_one_process(world, tmp_path):
    alone = import_of(world[1], world[0], tmp_path / "alone")
    node = node_of(world, tmp_path / "shared")
    node.make(Execution(Compute(workers=2), Limits(max_failed_share=1.0)))
    assert files_of(node.artifact) == files_of(alone)


def test_status_and_card_count_every_mask(world, tmp_path):
    artifact = import_of(world[1], world[0], tmp_path, "rules.max_masks=3")
    facts = card_facts(artifact)
    assert facts["read"] == 16
    assert facts["kept"] == 9
    assert facts["rules"] == {"max_masks": 6}
    assert facts["other_rows"] == {"mask_area": 1, "picture_unknown": 1}
    assert facts["read"] == facts["kept"] + sum(facts["rules"].values()) + facts["other_rows"]["mask_area"]
    state = state_of(artifact)
    assert (state.state, state.rows, state.faulty_rows) == ("finished", 11, 2)
    text = (artifact.directory / "card" / "imported.md").read_text()
    assert "rule max_masks" in text
    shard = artifact.directory / f"{artifact.description.units[0]}.parquet"
    shard.write_bytes(shard.read_bytes()[:-1])
    assert state_of(artifact, deep=True).units["corrupt"] == 1


def test_the_command_imports_and_exports(world, tmp_path, capsys):
    scenes, path = world
    arguments = [str(path), "--scenes", str(scenes.directory), "--runs", str(tmp_path / "runs")]
    sides = ["--short-side-px", "40", "--max-side-px", "80", "--max-failed-share", "1"]
    assert main(["import-masks", *arguments, *sides, "--set", "rules.min_share=0.01", "--set", "format=coco"]) == 0
    directory = capsys.readouterr().out.strip()
    assert Artifact.open(Path(directory)).identity.name == "folder-imported"
    out = tmp_path / "exported.json"
    assert main(["export-masks", directory, "--scenes", str(scenes.directory), "--out", str(out)]) == 0
    records = json.loads(out.read_text())
    assert capsys.readouterr().out == f"{out}: {len(records)} masks\n"
    assert {tuple(record["segmentation"]["size"]) for record in records} == {(40, 60), (60, 40)}
    again = import_of(out, scenes, tmp_path / "again")
    for name, scene in found_in(Artifact.open(Path(directory))).items():
        if name in UPRIGHT:
            np.testing.assert_array_equal(masks_of(found_in(again)[name]), masks_of(scene))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["import-masks"], "--config alone, or the path of masks and --scenes"),
        (["import-masks", "m.json"], "--config alone, or the path of masks and --scenes"),
        (["import-masks", "m.json", "--scenes", "nowhere"], "nowhere"),
        (["import-masks", "m.json", "--scenes", "SCENES", "--set", "rules.max_mask=3"], "rules.max_mask"),
        (["import-masks", "m.json", "--scenes", "SCENES", "--set", "format=yolo"], "format"),
        (["import-masks", "m.json", "--scenes", "SCENES", "--short-side-px", "9"], "short_side_px"),
        (["import-masks", "m.json", "--scenes", "SCENES"], "there is nothing at m.json; correct the path"),
    ],
)
def test_wrong_options_are_one_message(world, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    given = [str(world[0].directory) if argument == "SCENES" else argument for argument in arguments]
    assert main(given) != 0
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


@pytest.mark.skipif(not COCO.is_dir(), reason=f"{COCO} with the real samples is absent")
@pytest.mark.slow
def test_real_panoptic_and_instance_files_give_equal_masks(tmp_path):
    """COCO's own panoptic maps and objects, in all pixels; net and picture have one size."""
    from pycocotools import coco

    settings = PrepareSettings(dataset="coco", root=COCO, split="train2017", labels="none", limit=3, captions=False)
    scenes = prepare(settings, tmp_path / "runs").artifact
    index = read_index(scenes)
    file = COCO / "annotations" / "panoptic_train2017.json"
    listed = {record["image_id"]: record for record in json.loads(file.read_text())["annotations"]}
    for row in index:
        size = NetSize(min(row["height_px"], row["width_px"]), 8192)
        found = found_in(imported(file, scenes, tmp_path / row["key"], size))[row["key"]]
        record = listed[int(row["image_id"])]
        rgb = np.asarray(Image.open(COCO / "annotations" / "panoptic_train2017" / record["file_name"])).astype(int)
        numbers = rgb @ np.array([1, 256, 65536])
        expected = np.stack([numbers == info["id"] for info in record["segments_info"]])
        np.testing.assert_array_equal(masks_of(found), expected)
        assert found.areas_px.tolist() == [info["area"] for info in record["segments_info"]]
    api = coco.COCO(COCO / "annotations" / "instances_train2017.json")
    for row in index:
        objects = api.loadAnns(api.getAnnIds([int(row["image_id"])]))
        if objects:
            size = NetSize(min(row["height_px"], row["width_px"]), 8192)
            found = found_in(imported(COCO / "annotations" / "instances_train2017.json", scenes, tmp_path / "i", size))
            expected = np.stack([api.annToMask(thing) > 0 for thing in objects])
            np.testing.assert_array_equal(masks_of(found[row["key"]]), expected[expected.any(axis=(1, 2))])


def read_index(scenes: Artifact):
    return [row for unit in scenes.description.units for row in SceneShard(scenes, unit).index.to_pylist()]


def imported(path, scenes, runs, size) -> Artifact:
    compute = ComputeSettings(max_failed_share=1.0)
    return import_masks(MasksSettings(path=path), scenes.directory, runs, size=size, compute=compute).artifact
