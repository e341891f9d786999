"""``ovseg status``: every state of units and artifacts, as a table and as JSON."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from flows.command import main
from flows.state_table import STATUS_COLUMNS, as_text
from pipeline.prepare.prepare import plan_prepare, prepare
from pipeline.settings import DrawnWorldSettings, PrepareSettings, load_settings
from pipeline.states import ArtifactState, OddUnits, state_of, states_below
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from tests.pipeline.prepare.layouts import make_folder

UNITS = tuple(f"shard-{number:05d}" for number in range(5))


def planned(runs: Path, name: str = "coco", **settings) -> Artifact:
    identity = Identity(kind="scenes", name=name, schema_version=1, producer_version=1, settings=settings)
    return Artifact.planned(runs, Description(identity=identity, units=UNITS))


def written(artifact: Artifact, units: tuple[str, ...] = UNITS) -> Artifact:
    with artifact.writing():
        sidecars = {}
        for unit in units:
            with artifact.write_unit(unit) as writer:
                writer.file("bin").write(f"content of {unit}".encode())
                sidecars[unit] = writer.commit(rows=1, counts={"ok": 1})
        if units == UNITS:
            artifact.finish(artifact.manifest_of(sidecars))
    return artifact


@pytest.fixture
def spoilt(tmp_path: Path) -> Artifact:
    """One unit done, one of other settings, one with a flipped byte, two missing, and a foreign file."""
    artifact = written(planned(tmp_path / "runs", size=2), UNITS[:3])
    other = written(planned(tmp_path / "other", size=3))
    shutil.copy(other.directory / "shard-00001.json", artifact.directory)
    (artifact.directory / "shard-00002.bin").write_bytes(b"kontent of shard-00002")
    (artifact.directory / "notes.txt").write_text("")
    return artifact


def test_a_finished_artifact(tmp_path):
    artifact = written(planned(tmp_path))
    report = state_of(artifact)
    assert report == ArtifactState(
        artifact=f"scenes/{artifact.directory.name}",
        state="finished",
        units={"done": 5, "stale": 0, "missing": 0, "corrupt": 0},
        rows=5,
        todo=0,
    )


def test_an_artifact_that_is_not_begun(tmp_path):
    report = state_of(planned(tmp_path))
    assert (report.state, report.units["missing"]) == ("not begun", 5)
    assert len(as_text([report], STATUS_COLUMNS, details=True).splitlines()) == 2


def test_every_odd_unit_has_its_reason(spoilt):
    report = state_of(spoilt)
    assert (report.state, report.units) == ("unfinished", {"done": 1, "stale": 1, "missing": 2, "corrupt": 1})
    assert [(odd.label, odd.state) for odd in report.odd_units] == [
        ("shard-00001", "stale"),
        ("shard-00002", "corrupt"),
        ("shard-00003 to shard-00004 (2)", "missing"),
    ]
    stale, corrupt, missing = (odd.reason for odd in report.odd_units)
    assert "its sidecar is of settings" in stale
    assert "shard-00002.bin has sha256" in corrupt
    assert missing == "it has no sidecar"
    assert report.foreign_files == ("notes.txt",)


def test_the_field_that_changed_is_named(tmp_path):
    earlier = written(planned(tmp_path, size=1))
    report = state_of(planned(tmp_path, size=2, fast=True))
    assert report.changes == {
        f"scenes/{earlier.directory.name}": ("settings.fast: absent -> true", "settings.size: 1 -> 2")
    }


def test_a_finished_artifact_is_not_compared_with_others_of_its_name(tmp_path):
    written(planned(tmp_path, size=1))
    assert state_of(written(planned(tmp_path, size=2))).changes == {}


def test_the_table_tells_all_of_it(spoilt):
    written(planned(spoilt.directory.parents[1], size=1))
    lines = as_text([state_of(spoilt)], STATUS_COLUMNS, details=True).splitlines()
    assert lines[0].split() == ["artifact", "state", "done", "stale", "missing", "corrupt"]
    assert lines[1].split() == [f"scenes/{spoilt.directory.name}", "unfinished", "1", "1", "2", "1"]
    assert lines[4] == "    shard-00003 to shard-00004 (2): missing, it has no sidecar"
    assert lines[5] == "    notes.txt: foreign file, nobody reads it"
    assert lines[6].startswith("    differs from scenes/coco-")
    assert lines[7] == "        settings.size: 1 -> 2"


def test_units_are_gathered_only_in_a_row_and_for_one_reason():
    odd = OddUnits(units=("a",), state="missing", reason="r")
    assert odd.label == "a"


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_artifacts_are_found_in_a_runs_directory_a_kind_or_their_own(tmp_path, depth):
    artifact = written(planned(tmp_path))
    directory = [artifact.directory, *artifact.directory.parents][depth]
    assert [report.artifact for report in states_below(directory)] == [f"scenes/{artifact.directory.name}"]


def test_a_damaged_artifact_does_not_hide_the_others(tmp_path):
    damaged, sound = written(planned(tmp_path, "a")), written(planned(tmp_path, "b"))
    (damaged.directory / "artifact.json").write_text("{")
    first, second = states_below(tmp_path)
    assert (first.state, second.state) == ("unreadable", "finished")
    assert "artifact.json: cannot be read" in first.reason
    assert sound.directory.name in second.artifact


def test_an_artifact_that_may_not_be_read_does_not_hide_the_others(tmp_path, monkeypatch):
    hidden, sound = written(planned(tmp_path, "a")), written(planned(tmp_path, "b"))
    status = Artifact.status

    def refusing(artifact, *, deep):
        if artifact == hidden:
            raise PermissionError(13, "Permission denied", str(hidden.directory / "shard-00000.json"))
        return status(artifact, deep=deep)

    monkeypatch.setattr(Artifact, "status", refusing)
    first, second = states_below(tmp_path)
    assert (first.state, first.reason) == ("unreadable", f"{hidden.directory}/shard-00000.json: Permission denied")
    assert (second.state, second.artifact) == ("finished", f"scenes/{sound.directory.name}")


def test_a_damaged_artifact_of_the_same_name_is_reported(tmp_path):
    damaged = written(planned(tmp_path, size=1))
    (damaged.directory / "artifact.json").write_text("{")
    (reason,) = state_of(planned(tmp_path, size=2)).changes[f"scenes/{damaged.directory.name}"]
    assert str(damaged.directory) in reason


def test_a_damaged_manifest_is_reported(tmp_path):
    artifact = written(planned(tmp_path))
    (artifact.directory / "manifest.json").write_text("{}")
    report = state_of(artifact)
    assert report.state == "unfinished"
    assert report.document_faults == ("manifest.json is not what the units and settings require",)
    assert "    manifest.json is not what" in as_text([report], STATUS_COLUMNS, details=True)


# The command


def test_status_of_a_configuration(tmp_path, capsys):
    dataset = PrepareSettings(
        dataset="drawn-world", split="val", drawn_world=DrawnWorldSettings(scenes=3), scenes_per_shard=2
    )
    prepare(dataset, tmp_path / "runs")
    config = tmp_path / "run.toml"
    config.write_text(
        f"runs_dir = '{tmp_path}/runs'\n"
        "[datasets.drawn]\ndataset = 'drawn-world'\nsplit = 'val'\nscenes_per_shard = 2\ndrawn_world = {scenes = 3}\n"
        f"[datasets.absent]\ndataset = 'folder'\nroot = '{tmp_path}/absent'\n"
    )
    assert main(["status", "--config", str(config), "--json"]) == 0
    drawn, absent = json.loads(capsys.readouterr().out)
    assert (drawn["state"], drawn["units"]["done"]) == ("finished", 2)
    assert (absent["artifact"], absent["dataset"], absent["state"]) == ("scenes/folder", "absent", "waiting")
    assert f"{tmp_path}/absent is no directory" in absent["reason"]

    assert main(["status", "--config", str(config), "--set", "datasets.drawn.scenes_per_shard=1"]) == 0
    shown = capsys.readouterr().out
    assert "not begun" in shown
    assert "settings.options.scenes_per_shard: 2 -> 1" in shown


def test_folders_have_the_names_that_settings_give_them(tmp_path, capsys):
    config = tmp_path / "run.toml"
    lines = [f"runs_dir = '{tmp_path}/runs'"]
    for name in ("town", "coast"):
        (tmp_path / name / "images").mkdir(parents=True)
        Image.new("RGB", (8, 8), "red" if name == "town" else "blue").save(tmp_path / name / "images" / "a.png")
        lines += [f"[datasets.{name}]", "dataset = 'folder'", f"root = '{tmp_path}/{name}'"]
    config.write_text("\n".join(lines))
    town, coast = (load_settings(config).datasets[name] for name in ("town", "coast"))
    artifact = prepare(town, tmp_path / "runs").artifact
    assert artifact.identity.name == "folder"  # what settings call it is not part of any digest
    assert plan_prepare(coast, tmp_path / "runs").artifact.earlier().keys() == {artifact.directory}

    assert main(["status", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert [line.split()[1:3] for line in shown.splitlines()[1:]] == [["(town)", "finished"], ["(coast)", "not"]]
    assert "differs from" not in shown

    limited = ["--set", "datasets.coast.limit=1"]
    assert main(["status", "--config", str(config), "--set", "datasets.town.limit=1", *limited]) == 0
    assert capsys.readouterr().out.count(f"differs from scenes/{artifact.directory.name} in") == 2

    assert main(["status", "--config", str(config), "--json"]) == 0
    reports = json.loads(capsys.readouterr().out)
    assert [(each["dataset"], each["changes"]) for each in reports] == [("town", {}), ("coast", {})]


def test_status_of_directories(spoilt, capsys):
    assert main(["status", str(spoilt.directory), str(spoilt.directory.parents[1])]) == 0
    assert capsys.readouterr().out.count(f"scenes/{spoilt.directory.name} ") == 2


def test_deep_status_finds_what_a_quick_one_believes(tmp_path, monkeypatch, capsys):
    artifact = written(planned(tmp_path))
    monkeypatch.setattr("storage_schemas.verification.SETTLED_AFTER_NS", -1)
    state_of(artifact)
    memory = artifact.local_directory / "verified.json"
    (artifact.directory / "shard-00000.bin").write_bytes(b"kontent of shard-00000")
    stat = (artifact.directory / "shard-00000.bin").stat()
    document = json.loads(memory.read_text())
    document["shard-00000.bin"][:4] = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
    memory.write_text(json.dumps(document))
    assert state_of(artifact).state == "finished"
    assert main(["status", "--deep", str(tmp_path)]) == 0
    assert "shard-00000: corrupt, shard-00000.bin has sha256" in capsys.readouterr().out


def test_a_directory_without_artifacts(tmp_path, capsys):
    assert main(["status", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"ovseg: {tmp_path}: holds no artifact; give a runs directory, or an artifact in it\n"
    )


def test_an_artifact_whose_artifact_json_is_gone_or_unreadable_is_named(tmp_path, capsys):
    make_folder(tmp_path / "data")
    for split, harm in (("gone", "unlink"), ("empty", "write"), ("folder", "mkdir")):
        artifact = prepare(PrepareSettings(dataset="folder", root=tmp_path / "data"), tmp_path / split).artifact
        document = artifact.directory / "artifact.json"
        document.unlink()
        if harm == "write":
            document.write_bytes(b"")
        if harm == "mkdir":
            document.mkdir()
        for where in (tmp_path / split, tmp_path / split / "scenes", artifact.directory):
            assert main(["status", str(where), "--json"]) == 0
            (report,) = json.loads(capsys.readouterr().out)
            assert (report["artifact"], report["state"]) == (f"scenes/{artifact.directory.name}", "unreadable")
            assert "artifact.json" in report["reason"]


def test_a_deep_status_covers_the_card(tmp_path, capsys):
    make_folder(tmp_path / "data")
    artifact = prepare(PrepareSettings(dataset="folder", root=tmp_path / "data"), tmp_path / "runs").artifact
    page = artifact.directory / "card" / "prepared.md"
    page.write_text(page.read_text().replace("pictures", "pictares"))
    assert main(["status", str(tmp_path / "runs")]) == 0
    assert "card" not in capsys.readouterr().out
    assert main(["status", str(tmp_path / "runs"), "--deep"]) == 0
    assert "card/prepared.md is not what its card states" in capsys.readouterr().out
    (artifact.directory / "card" / "card.json").write_bytes(b"{}")
    assert main(["status", str(tmp_path / "runs"), "--deep"]) == 0
    assert "card/card.json is damaged" in capsys.readouterr().out


def test_damaged_text_embeddings_are_called_unneeded(tmp_path, capsys):
    identity = Identity(kind="text_embeddings", name="run", schema_version=1, producer_version=1, settings={})
    artifact = written(Artifact.planned(tmp_path / "runs", Description(identity=identity, units=UNITS)))
    assert main(["status", str(tmp_path / "runs")]) == 0
    assert "not needed" not in capsys.readouterr().out
    (artifact.directory / "shard-00002.bin").write_bytes(b"damaged")
    assert main(["status", str(tmp_path / "runs")]) == 0
    printed = capsys.readouterr().out
    assert "not needed by finished pairs; mining makes what it needs of it again" in printed
    assert "shard-00002: corrupt" in printed
