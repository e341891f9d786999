"""Who has a hand in how units are run, and which errors may pass."""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import PipelineError
from pipeline.executors import Executor, Outcome
from pipeline.shard_runner import run_stage
from pipeline.supervision import may_pass, supervised_by
from storage_schemas.artifact import Artifact
from storage_schemas.errors import WriteError
from tests.pipeline.runner_jobs import WriteFiles, planned


class Backwards:
    """Runs units from the last to the first."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def supervise(self, artifact: Artifact, executor: Executor) -> Executor:
        self.seen.append(artifact.identity.name)
        self.inner = executor
        return self

    def width(self) -> int:
        return self.inner.width()

    def outcomes(self, function: Callable[[str], Any], units: Sequence[str]) -> Generator[Outcome[Any]]:
        return self.inner.outcomes(function, units[::-1])


def test_a_supervisor_sees_to_the_units_of_the_stages_in_its_block(tmp_path: Path) -> None:
    supervisor, order = Backwards(), []
    with supervised_by(supervisor):
        run_stage(WriteFiles(), planned(tmp_path / "a"), on_unit=lambda outcome: order.append(outcome.unit))
    run_stage(WriteFiles(), planned(tmp_path / "b"), on_unit=lambda outcome: order.append(outcome.unit))
    assert supervisor.seen == ["small"]
    units = list(planned(tmp_path).description.units)
    assert order == units[::-1] + units


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [OSError("i/o"), TimeoutError(), ConnectionResetError(), WriteError("no space")])
def test_errors_of_devices_and_networks_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        PermissionError("x"),
        ValueError("x"),
        PipelineError("settings"),
        caused(WriteError("x"), PermissionError("x")),
    ],
)
def test_errors_of_settings_inputs_and_paths_stay(error: Exception) -> None:
    assert not may_pass(error)
