"""The flow in this process, on one Prefect server: what it runs, skips, tries again, shows, and how it ends."""

import base64
import json
from pathlib import Path

import pytest

from flows.command import main
from pipeline.shard_runner import run_stage
from storage_schemas.artifact import artifacts_below
from tests.flows import flow_stages
from tests.flows.flow_stages import PNG, Flaky, Plan
from tests.flows.prefect_pages import Pages
from tests.pipeline.runner_jobs import WriteFiles, planned, snapshot


@pytest.fixture(autouse=True)
def small_stages(monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.setattr("pipeline.dataflow.dataflow", flow_stages.small_dataflow)
    monkeypatch.setattr(flow_stages, "CURRENT", Plan())
    return flow_stages.CURRENT


@pytest.fixture
def pages(prefect_api: str) -> Pages:
    return Pages(prefect_api)


def run(settings_file: Path, *options: str) -> int:
    return main(["run", "--config", str(settings_file), *options])


@pytest.mark.slow
def test_a_run_makes_task_runs_and_shows_what_it_made(pages: Pages, settings_file: Path) -> None:
    assert run(settings_file) == 0
    runs = pages.flow_runs()
    assert {name: run["state_type"] for name, run in runs.items()} == dict.fromkeys(
        ("trial", "prepare trial", "evaluate trial"), "COMPLETED"
    )
    tasks = pages.task_runs(runs["prepare trial"])
    assert {name: task["state_type"] for name, task in tasks.items()} == {
        f"test small shard-0000{number}": "COMPLETED" for number in range(3)
    }
    shown = pages.artifacts(runs["evaluate trial"])
    table = json.loads(shown["evaluate-units"]["data"])
    assert [(row["units"], row["skipped"], row["made"], row["failed"], row["rows"]) for row in table] == [
        (2, 0, 2, 0, 4)
    ]
    assert shown["test-small-progress"]["data"] == 100.0
    assert "2 of 2 units, 0 were complete before; " in shown["test-small-progress"]["description"]
    assert base64.b64encode(PNG).decode() in shown["test-small-shard-00000-sheet"]["data"]
    assert "All is **well**" in shown["test-small-shard-00000-card"]["data"]
    assert f"{settings_file.parent}/runs/test/small-" in shown["test-small-links"]["data"]
    assert "shard-00000.report.html" in shown["test-small-links"]["data"]
    whole = pages.artifacts(runs["trial"])
    assert [row["artifact"].partition("-")[0] for row in json.loads(whole["run"]["data"])] == ["test/small"] * 2


@pytest.mark.slow
def test_a_second_run_starts_nothing(pages: Pages, settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings_file) == 0
    known = Pages(pages.api)
    capsys.readouterr()
    assert run(settings_file) == 0
    assert "prepare, evaluate: already complete; nothing to do" in capsys.readouterr().err
    assert known.flow_runs() == {}


@pytest.mark.slow
def test_a_run_does_what_is_missing_alone(pages: Pages, settings_file: Path) -> None:
    flow_stages.CURRENT.units = 4
    run_stage(WriteFiles(), planned(settings_file.parent / "runs", 4, of="first"))
    (next((settings_file.parent / "runs").glob("test/*/shard-00002.json"))).unlink()
    assert run(settings_file, "--only", "prepare") == 0
    runs = pages.flow_runs()
    assert sorted(runs) == ["prepare trial", "trial"]
    assert list(pages.task_runs(runs["prepare trial"])) == ["test small shard-00002"]
    (row,) = json.loads(pages.artifacts(runs["prepare trial"])["prepare-units"]["data"])
    assert (row["units"], row["skipped"], row["made"], row["state"]) == (4, 3, 1, "finished")
    assert run(settings_file, "--from", "evaluate") == 0
    assert set(pages.flow_runs()) - set(runs) == {"evaluate trial"}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_io_errors_are_tried_again_and_others_are_not(
    pages: Pages, settings_file: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    marks = settings_file.parent
    passing = Flaky(at=("shard-00001",), times=2, marks=str(marks))
    flow_stages.CURRENT.job, flow_stages.CURRENT.units = passing, 4
    options = ("--only", "prepare", "--set", f"compute.workers={workers}")
    assert run(settings_file, *options) == 0
    printed = capsys.readouterr().err
    assert "test small shard-00001: shard-00001: the cable is loose; it is tried again in 0.2 s" in printed
    assert "it is tried again in 0.4 s" in printed
    task = pages.task_runs(pages.flow_runs()["prepare trial"])["test small shard-00001"]
    assert (task["state_type"], task["run_count"]) == ("COMPLETED", 3)
    reference = run_stage(WriteFiles(), planned(marks / "reference", 4, of="first")).artifact
    (artifact,) = artifacts_below(marks / "runs")
    assert snapshot(artifact.directory) == snapshot(reference.directory)


@pytest.mark.slow
@pytest.mark.parametrize("error", ["ValueError", "PermissionError"])
def test_a_failed_unit_does_not_stop_the_others_and_the_flow_ends_with_the_list(
    pages: Pages, settings_file: Path, capsys: pytest.CaptureFixture[str], error: str
) -> None:
    flow_stages.CURRENT.job = Flaky(
        at=("shard-00000", "shard-00001"), times=9, error=error, marks=str(settings_file.parent)
    )
    assert run(settings_file) == 1
    printed = capsys.readouterr().err
    message = f"2 units failed (shard-00000: {error}: shard-00000: the cable is loose; shard-00001: {error}: "
    assert message in printed
    assert "1 were made and are kept" in printed
    assert "tried again" not in printed
    assert "Traceback" not in printed
    runs = pages.flow_runs()
    assert {name: run["state_type"] for name, run in runs.items()} == {"trial": "FAILED", "prepare trial": "FAILED"}
    assert message in runs["trial"]["state"]["message"]
    tasks = pages.task_runs(runs["prepare trial"])
    assert [tasks[name]["state_type"] for name in sorted(tasks)] == ["FAILED", "FAILED", "COMPLETED"]
    (row,) = json.loads(pages.artifacts(runs["prepare trial"])["prepare-units"]["data"])
    assert (row["made"], row["failed"], row["to do"], row["state"]) == (1, 2, 0, "unfinished")


def test_a_stage_without_its_input_is_reported(
    prefect_api: str, settings_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(settings_file, "--only", "evaluate") == 2
    assert "is not finished; run 'ovseg run --only prepare' first" in capsys.readouterr().err


def test_from_and_only_exclude_each_other(settings_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(settings_file, "--from", "evaluate", "--only", "prepare") == 2
    assert "run: --from evaluate and --only prepare: exclude each other; give one of them" in capsys.readouterr().err
