"""``ovseg run --dry-run``: what it prints, its exit status, and that it leaves nothing behind."""

from pathlib import Path

import pytest

from flows.command import main
from flows.state_table import dry_run_text
from pipeline.dry_run.dry_run import DryRun
from pipeline.dry_run.weights import Finding
from pipeline.states import ArtifactState

CONFIG = """
datasets.drawn = {dataset = "drawn-world", split = "val", drawn_world = {scenes = 5}, scenes_per_shard = 2}
clip = {architecture = "drawn-world-small", pretrained = "shipped"}
proposal_net = {dataset = "drawn", architecture = {backbone = {name = "resnet18"}}}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.toml"
    path.write_text(CONFIG)
    return path


def test_where_all_is_there_the_status_is_0_and_nothing_is_made(config, capsys):
    assert main(["run", "--config", str(config), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split() for line in printed.splitlines()]
    assert rows[0] == ["stage", "artifact", "to", "do", "done", "stale", "corrupt", "will", "write"]
    assert rows[1][:1] + rows[1][2:5] == ["prepare", "3", "0", "0"]
    assert rows[2][:5] == ["train-proposals", "proposal_net/run", "~2", "?", "?"]
    assert "is not finished; run 'ovseg prepare' first" in printed
    assert printed.endswith("all is there\n")
    assert list(config.parent.iterdir()) == [config]


def test_where_something_is_missing_the_status_is_2(config, capsys):
    absent = "datasets.drawn={dataset='pascal-voc-20', split='val', root='absent'}"
    assert main(["run", "--config", str(config), "--dry-run", "--set", absent]) == 2
    printed = capsys.readouterr().out
    assert "missing (1):\n  datasets.drawn: pascal-voc-20: absent is no directory" in printed
    assert printed.endswith("the run would stop for lack of these; nothing was done\n")


def test_an_unknown_architecture_is_reported_in_one_line(config, capsys):
    overrides = ["--set", "clip.architecture=ViT-nowhere", "--set", "clip.pretrained=random"]
    assert main(["run", "--config", str(config), "--dry-run", *overrides]) == 2
    assert "open_clip has no model 'ViT-nowhere'" in capsys.readouterr().err


def test_all_that_cannot_be_known_is_said_to_be_unknown():
    done, made = ({"done": done, "stale": 1, "missing": missing, "corrupt": 0} for done, missing in ((2, 0), (3, 1)))
    states = (
        ArtifactState(
            stage="prepare",
            artifact="scenes/mine",
            state="waiting",
            is_estimate=True,
            reason="mine is no directory",
        ),
        ArtifactState(
            stage="train-proposals", artifact="proposal_net/a", state="finished", todo=0, units=done, new_bytes=0
        ),
        ArtifactState(stage="mine", artifact="pairs/a", state="unfinished", todo=2, units=made, new_bytes=2_500_000),
    )
    note = Finding("clip.pretrained", "will be downloaded", is_missing=False)
    found = DryRun(states=states, findings=(note,), disk=Path("/data"), free_bytes=3_000_000_000)
    lines = dry_run_text(found).splitlines()
    assert lines[1].split()[2:] == ["unknown", "?", "?", "?", "unknown"]
    assert lines[2].split()[2:] == ["0", "2", "1", "0", "-"]
    assert lines[3].split()[2:] == ["2", "3", "1", "0", "~2.5", "MB"]
    assert "disk: ~2.5 MB to write, 3.0 GB free in /data" in lines
    assert "      not counted, as their pictures cannot be: scenes/mine" in lines
    assert lines[-3:] == ["to know:", "  clip.pretrained: will be downloaded", "all is there"]
