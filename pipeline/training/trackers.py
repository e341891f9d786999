"""Trackers beside TensorBoard: Weights & Biases, MLflow and Trackio, for what ``compute.trackers`` names.

Each gets the numbers of ``metrics.jsonl``, by the same steps and names, and nothing else: no settings, pictures,
console output or facts of the machine. Its package is imported when a training starts that names it. Where its server
is and who logs in, it finds itself, in its own environment variables and files.
"""

import contextlib
import importlib.util
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pipeline.errors import PipelineError
from pipeline.settings import TrackerName

logger = logging.getLogger(__name__)

STATE_FILE = "trackers.json"
_PROJECT = "ovseg"
_WAIT_S = 30  # for a server that does not answer, at the start and at the end of a training
_GROUPS = ("train", "validation")  # as they follow each other in a step


class Tracker(Protocol):
    """One run of a tracker, to which numbers are added."""

    @property
    def run_id(self) -> str:
        """By which the tracker finds the run again."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers of one group at one step, by names such as ``train/loss``."""
        ...

    def close(self, *, finished: bool) -> None:
        """End the run; one that is not finished may be opened again."""
        ...


class WandbTracker:
    """A run of Weights & Biases; its axis is the value ``step``, since its own steps cannot be taken twice."""

    def __init__(self, name: str, run_id: str | None) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=name,
            id=run_id,
            resume="allow",
            reinit="create_new",  # one that the caller's own code has open stays open
            settings=wandb.Settings(
                console="off",
                disable_code=True,
                disable_git=True,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
                init_timeout=_WAIT_S,
                login_timeout=_WAIT_S,
                finish_timeout=_WAIT_S,
                finish_timeout_raises=True,
            ),
        )
        self._run.define_metric("*", step_metric="step")
        self.run_id: str = self._run.id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row to the run's history."""
        self._run.log({"step": step, **values})

    def close(self, *, finished: bool) -> None:
        """Wait until everything is sent, for a while."""
        self._run.finish(exit_code=0 if finished else 1)


class MlflowTracker:
    """A run of MLflow, by its client, so that no run of the caller's own code is touched."""

    def __init__(self, name: str, run_id: str | None) -> None:
        # By default a request to a server that is down is tried for minutes; each is made between two steps.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_WAIT_S))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        from mlflow import MlflowClient

        self._client = MlflowClient()
        if run_id is None:
            title = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
            found = self._client.get_experiment_by_name(title)
            experiment = self._client.create_experiment(title) if found is None else found.experiment_id
            run_id = self._client.create_run(experiment, run_name=name).info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        self.run_id: str = run_id

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add all numbers in one request."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        self._client.log_batch(self.run_id, metrics=[Metric(name, values[name], now_ms, step) for name in values])

    def close(self, *, finished: bool) -> None:
        """Set the run's status."""
        self._client.set_terminated(self.run_id, status="FINISHED" if finished else "KILLED")


class TrackioTracker:
    """A run of Trackio, which finds it again by its name."""

    def __init__(self, name: str, run_id: str | None) -> None:
        import trackio

        self._run: Any = trackio.init(
            project=os.environ.get("TRACKIO_PROJECT", _PROJECT),
            name=run_id or name,
            resume="never" if run_id is None else "allow",
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )
        self.run_id: str = self._run.name

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add the numbers."""
        self._run.log(dict(values), step=step)

    def close(self, *, finished: bool) -> None:
        """Wait until everything is written."""
        import trackio

        trackio.finish()  # as its own end of the process would; the run's method leaves it open there


_TRACKERS: dict[TrackerName, Callable[[str, str | None], Tracker]] = {
    "wandb": WandbTracker,
    "mlflow": MlflowTracker,
    "trackio": TrackioTracker,
}


def check_trackers(names: Sequence[TrackerName]) -> None:
    """Check, before any work begins, that the packages of trackers are installed.

    Raises:
        PipelineError: If one is not.
    """
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise PipelineError(
                f"compute.trackers: {name!r} needs the package {name}, which is not installed; run: pip install "
                f"'ovseg-pipeline[{name}]', or leave it out"
            )


class _Place(NamedTuple):
    """A line of ``metrics.jsonl``, in their order."""

    step: int
    group: int


class _Followed:
    """A tracker that is open, and the last line that it has."""

    def __init__(self, tracker: Tracker, place: _Place) -> None:
        self.tracker = tracker
        self.place = place


class Trackers:
    """Gives the lines of a training's ``metrics.jsonl`` to trackers, each line once, however often it is killed.

    Beside the lines, ``trackers.json`` holds for each tracker its run and the last line that it was given. A training
    that goes on takes the steps since its checkpoint again; those that a tracker has are passed over. Lines that it has
    not, as where it was switched on later or could not be reached, are sent first. W&B and Trackio send in the
    background: what they had not yet sent when the process was killed, they lack.

    A tracker that fails is left with a warning, and the training goes on without it.

    Args:
        names: Of the trackers.
        directory: Of ``metrics.jsonl``.
        title: Of a new run.
    """

    def __init__(self, names: Sequence[TrackerName], directory: Path, title: str) -> None:
        self._path = directory / STATE_FILE
        self._state = self._read()
        self._followed: dict[TrackerName, _Followed] = {}
        for name in dict.fromkeys(names):
            state = self._state.get(name, {})
            with self._kept_going(name), contextlib.redirect_stdout(sys.stderr):
                tracker = _TRACKERS[name](title, state.get("run"))
                place = _Place(state.get("step", 0), state.get("group", -1))
                self._followed[name] = _Followed(tracker, place)

    def log(self, line: Mapping[str, Any]) -> None:
        """Send a line to each tracker that does not have it.

        Args:
            line: Its step, group and numbers. What is null there, since JSON has no such number, is not sent.
        """
        place = _Place(line["step"], _GROUPS.index(line["group"]))
        numbers = {
            f"{line['group']}/{name}": value
            for name, value in line.items()
            if name not in {"step", "group"} and value is not None
        }
        for name, followed in list(self._followed.items()):
            if place <= followed.place:
                continue
            with self._kept_going(name):
                followed.tracker.log(place.step, numbers)
            if name in self._followed:
                followed.place = place
                self._state[name] = {"run": followed.tracker.run_id, "step": place.step, "group": place.group}
        self._write()

    def close(self, *, finished: bool) -> None:
        """End all runs."""
        for name, followed in list(self._followed.items()):
            with self._kept_going(name), contextlib.redirect_stdout(sys.stderr):
                followed.tracker.close(finished=finished)

    @contextlib.contextmanager
    def _kept_going(self, name: TrackerName) -> Iterator[None]:
        """Leave a tracker that fails, whatever its package raises, with a warning."""
        try:
            yield
        except Exception as error:
            self._followed.pop(name, None)
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning(
                "compute.trackers: %s failed and is left (%.300s); the training goes on, metrics.jsonl has every line, "
                "and the lines that %s lacks are sent when a training goes on from a checkpoint",
                *(name, reason, name),
            )

    def _read(self) -> dict[str, Any]:
        """Read how far each tracker is; a file that a power cut left empty says nothing of it."""
        if not self._path.exists():
            return {}
        try:
            state: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except ValueError:
            logger.warning("%s: is no JSON; new runs of the trackers begin, with all lines", self._path)
            return {}
        return state

    def _write(self) -> None:
        """Replace the file at once, so that a kill leaves the old or the new one; it is written at each step."""
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self._state), encoding="utf-8")
        temporary.replace(self._path)
