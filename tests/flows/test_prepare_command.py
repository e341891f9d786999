"""``ovseg prepare``, as a user types it."""

import json
from pathlib import Path

import pytest

from flows.command import main
from storage_schemas.artifact import Artifact
from tests.pipeline.prepare.layouts import jpeg, make_coco, make_folder, put


def test_a_folder_is_prepared_and_its_place_is_reported(tmp_path, capsys):
    make_folder(tmp_path / "data")
    command = ["prepare", "folder", "--root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    directory = Path(capsys.readouterr().out.strip())
    assert Artifact.open(directory).manifest().counts == {"ok": 3}
    assert main(command) == 0
    assert Path(capsys.readouterr().out.strip()) == directory


def test_options_reach_the_settings(tmp_path, capsys):
    make_coco(tmp_path / "data", images=5)
    command = ["prepare", "coco", "--root", str(tmp_path / "data"), "--split", "val2017", "--labels", "none"]
    assert main([*command, "--no-captions", "--limit", "4", "--scenes-per-shard", "2", "--runs", str(tmp_path)]) == 0
    manifest = Artifact.open(Path(capsys.readouterr().out.strip())).manifest()
    assert [(unit.rows, unit.facts["captions"], unit.facts["labelled"]) for unit in manifest.units] == [(2, 0, 0)] * 2


def test_the_drawn_world_needs_no_root(tmp_path, capsys):
    options = ["--split", "val", "--scenes", "2", "--size-px", "48", "--runs", str(tmp_path)]
    assert main(["prepare", "drawn-world", *options]) == 0
    assert Artifact.open(Path(capsys.readouterr().out.strip())).manifest().rows == 2


def test_a_check_prints_a_table_or_json_and_writes_nothing(tmp_path, capsys):
    make_folder(tmp_path)
    put(tmp_path / "images" / "shot_0.jpg", jpeg()[:99])
    before = sorted(tmp_path.rglob("*"))
    assert main(["prepare", "folder", "--root", str(tmp_path), "--check"]) == 0
    assert "folder: 2 of 3 scenes can be used (1 with a fault), 2 captions" in capsys.readouterr().out
    assert main(["prepare", "folder", "--root", str(tmp_path), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["faults"]["image_truncated"]["scenes"] == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["coco"], "prepare: split: should be named for coco (got nothing)"),
        (["folder", "--labels", "none"], "labels: is an option of coco only (got it for folder)"),
        (["folder", "--limit", "0"], "limit: should be greater than or equal to 1 (got 0)"),
        (["folder", "--workers", "-1"], "prepare: workers: should be greater than or equal to 0 (got -1)"),
        (
            ["folder", "--max-failed-share", "3"],
            "prepare: max_failed_share: should be less than or equal to 1 (got 3",
        ),
        (["folder", "--split", "../x"], "split: "),
        (["folder", "--root", "/nowhere"], "folder: /nowhere is no directory; correct --root"),
    ],
)
def test_wrong_options_are_reported_without_traceback(options, message, capsys):
    assert main(["prepare", *options]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_all_wrong_options_are_reported_at_once(capsys):
    assert main(["prepare", "drawn-world", "--split", "val", "--scenes", "0", "--workers", "-1"]) == 2
    printed = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[2] for line in printed] == ["drawn_world.scenes", "workers"]
