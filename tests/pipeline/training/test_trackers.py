"""Trackers get what metrics.jsonl holds, once, whatever happens; stub modules record what they are called with."""

import json
import logging
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.settings import load_settings, result_settings
from pipeline.training.loop import Trainer
from pipeline.training.processes import joined
from pipeline.training.trackers import STATE_FILE, check_trackers
from tests.pipeline.training.toy_run import Stopped, ToyTask, toy_artifact, toy_plan

DEMO = Path(__file__).parents[3] / "flows" / "configs" / "demo.toml"
STEPS = 20  # checkpoints at 7 and 14, validations at 10 and 20
NAMES = ("wandb", "mlflow", "trackio")


class Service:
    """What the three stub modules have been given: rows of step and numbers, by run."""

    def __init__(self) -> None:
        self.rows: dict[str, list[tuple[int, dict[str, float]]]] = {}
        self.begun: list[dict[str, Any]] = []
        self.ends: list[Any] = []
        self.fail_at: int | None = None

    def begin(self, run_id: str | None, **options: Any) -> str:
        self.begun.append({"id": run_id, **options})
        run_id = run_id or f"run-{len(self.rows) + 1}"
        self.rows.setdefault(run_id, [])
        return run_id

    def add(self, run_id: str, step: int, values: dict[str, float]) -> None:
        if self.fail_at == step:
            raise ConnectionError("the network\nis away")
        self.rows[run_id].append((step, values))


def wandb_stub(service: Service) -> ModuleType:
    def init(**options: Any) -> SimpleNamespace:
        run_id = service.begin(options.pop("id"), **options)

        def log(row: dict[str, float]) -> None:
            service.add(run_id, row["step"], {name: row[name] for name in row if name != "step"})

        def finish(exit_code: int) -> None:
            service.ends.append(exit_code)

        return SimpleNamespace(id=run_id, log=log, finish=finish, define_metric=lambda *_, **__: None)

    return module("wandb", init=init, Settings=lambda **settings: settings)


def mlflow_stub(service: Service) -> ModuleType:
    class MlflowClient:
        def get_experiment_by_name(self, name: str) -> None:
            return None

        def create_experiment(self, name: str) -> str:
            return f"experiment {name}"

        def create_run(self, experiment: str, run_name: str) -> SimpleNamespace:
            run_id = service.begin(None, project=experiment.removeprefix("experiment "), name=run_name)
            return SimpleNamespace(info=SimpleNamespace(run_id=run_id))

        def update_run(self, run_id: str, status: str) -> None:
            assert status == "RUNNING"
            service.begin(run_id)

        def log_batch(self, run_id: str, metrics: list[tuple[str, float, int, int]]) -> None:
            ((step, _),) = {(step, timestamp) for _, _, timestamp, step in metrics}
            service.add(run_id, step, {name: value for name, value, _, _ in metrics})

        def set_terminated(self, run_id: str, status: str) -> None:
            service.ends.append({"FINISHED": 0, "KILLED": 1}[status])

    entities = module("mlflow.entities", Metric=lambda *values: values)
    return module("mlflow", MlflowClient=MlflowClient, entities=entities)


def trackio_stub(service: Service) -> ModuleType:
    def init(**options: Any) -> SimpleNamespace:
        print("a greeting")  # on stdout, which is kept for results
        resume, name = options.pop("resume"), options["name"]
        run_id = service.begin(name if resume == "allow" else None, **options)
        return SimpleNamespace(name=run_id, log=lambda values, step: service.add(run_id, step, values))

    return module("trackio", init=init, finish=lambda: service.ends.append(0))


def module(name: str, **contents: Any) -> ModuleType:
    made = ModuleType(name)
    made.__spec__ = ModuleSpec(name, None)
    vars(made).update(contents)
    return made


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    made = Service()
    for stub in (wandb_stub(made), mlflow_stub(made), trackio_stub(made)):
        monkeypatch.setitem(sys.modules, stub.__name__, stub)
        if stub.__name__ == "mlflow":
            monkeypatch.setitem(sys.modules, "mlflow.entities", stub.entities)
    for variable in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.setenv(variable, "5")  # set by the tracker else, beyond the test
    return made


def train(runs: Path, *trackers: str, stop_after: int = 0) -> None:
    """Train to the last step, or end after one as a killed process does."""
    artifact, task = toy_artifact(runs), ToyTask()
    steps = iter(range(1, STEPS + 1))

    def after_step() -> None:
        if stop_after and next(steps) > stop_after:
            raise Stopped

    task.after_step = after_step  # type: ignore[method-assign]
    with joined("cpu", 1) as processes, artifact.writing():
        Trainer(task, toy_plan(STEPS, trackers=trackers), artifact, processes).run()


def expected_rows(runs: Path) -> list[tuple[int, dict[str, float]]]:
    """What metrics.jsonl holds, as trackers name it."""
    lines = map(json.loads, (toy_artifact(runs).local_directory / "metrics.jsonl").read_text().splitlines())
    return [
        (line["step"], {f"{line['group']}/{name}": line[name] for name in line if name not in {"step", "group"}})
        for line in lines
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_tracker_has_each_line_once_though_the_training_is_stopped(
    name: str, service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for stop_after in (5, 4, 6):  # before a checkpoint, again before it, and beyond that of step 7
        with pytest.raises(Stopped):
            train(tmp_path, name, stop_after=stop_after)
    with pytest.raises(Stopped):
        train(tmp_path, name, stop_after=12)
    train(tmp_path, name)
    assert list(service.rows) == ["run-1"]
    assert service.rows["run-1"] == expected_rows(tmp_path)
    assert len(service.rows["run-1"]) == STEPS + 2
    new, *resumed = service.begun
    assert new["project"] == "ovseg"
    assert new["name"] == f"toy {toy_artifact(tmp_path).directory.name}"
    assert [begun["id"] for begun in resumed] == ["run-1"] * 4
    assert service.ends[-1] == 0
    assert name == "trackio" or service.ends[:-1] == [1] * 4
    assert not capsys.readouterr().out


def test_several_trackers_have_the_same_and_change_nothing(service: Service, tmp_path: Path) -> None:
    train(tmp_path / "followed", *NAMES)
    train(tmp_path / "alone")
    assert len(service.rows) == 3
    assert all(rows == expected_rows(tmp_path / "alone") for rows in service.rows.values())
    first, second = (toy_artifact(tmp_path / name).local_directory for name in ("followed", "alone"))
    assert (first / "metrics.jsonl").read_bytes() == (second / "metrics.jsonl").read_bytes()
    assert not (second / STATE_FILE).exists()


def test_a_tracker_that_is_switched_on_later_gets_the_lines_before(service: Service, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, stop_after=12)
    train(tmp_path, "wandb")
    assert service.rows["run-1"] == expected_rows(tmp_path)


def test_a_tracker_that_fails_is_left_with_one_warning(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service.fail_at = 3
    with caplog.at_level(logging.WARNING):
        train(tmp_path, "mlflow", "wandb")
    for name in ("mlflow", "wandb"):
        (warning,) = [message for message in caplog.messages if f"trackers: {name} failed" in message]
        assert "ConnectionError: the network is away" in warning
        assert "\n" not in warning
    assert len(expected_rows(tmp_path)) == STEPS + 2
    assert [len(rows) for rows in service.rows.values()] == [2, 2]


def test_lines_that_a_tracker_missed_are_sent_when_the_training_goes_on(service: Service, tmp_path: Path) -> None:
    service.fail_at = 3
    with pytest.raises(Stopped):
        train(tmp_path, "trackio", stop_after=12)
    service.fail_at = None
    train(tmp_path, "trackio")
    assert service.rows["run-1"] == expected_rows(tmp_path)


def test_a_tracker_that_does_not_start_stops_nothing(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("no key is configured")

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    with caplog.at_level(logging.WARNING):
        train(tmp_path, "wandb")
    assert len([message for message in caplog.messages if "no key is configured" in message]) == 1
    assert len(expected_rows(tmp_path)) == STEPS + 2


def test_a_state_that_is_no_json_begins_a_new_run(service: Service, tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(tmp_path, "wandb", stop_after=12)
    (toy_artifact(tmp_path).local_directory / STATE_FILE).write_text("")
    train(tmp_path, "wandb")
    assert service.rows["run-2"] == expected_rows(tmp_path)


def without(name: str) -> Callable[[str], ModuleSpec | None]:
    return lambda asked: None if asked == name else ModuleSpec(asked, None)


@pytest.mark.parametrize("stage", ["train-proposals", "finetune"])
def test_a_package_that_is_missing_is_found_before_any_work(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", without("trackio"))
    (node,) = dataflow(load_settings(DEMO, ['compute.trackers=["wandb","trackio"]'])).of_stage(stage)
    with pytest.raises(PipelineError, match=r"compute\.trackers: 'trackio' needs .* 'ovseg-pipeline\[trackio\]'"):
        node.step.check(node)
    check_trackers(["wandb", "mlflow"])


def test_trackers_enter_no_digest() -> None:
    plain, followed = (load_settings(DEMO, changes) for changes in ([], ['compute.trackers=["wandb"]']))
    assert followed.compute.trackers == ("wandb",)
    assert result_settings(followed) == result_settings(plain)
