"""Maps a stage over the units of its artifact that are not done, and finishes the artifact.

A stage is a job: what to load once per worker, and what to do with one unit. The runner decides what is to do from the
artifact alone, so a repeated run does nothing, and a killed one goes on where it stopped.
"""

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol, TypeVar

from pipeline.errors import PipelineError, StageError
from pipeline.executors import Compute, Executor, Outcome, executor_for
from pipeline.progress import Progress
from pipeline.settings import Settings
from storage_schemas.artifact import Artifact
from storage_schemas.errors import StorageError
from storage_schemas.manifest import Manifest, Sidecar
from storage_schemas.scenes import OK
from storage_schemas.status import ArtifactStatus, UnitState

logger = logging.getLogger(__name__)

State = TypeVar("State")


class UnitJob(Protocol[State]):
    """What a stage does; picklable, small, and free of open files and models."""

    def open(self) -> State:
        """Load what every unit needs, such as a model; called once per worker process."""
        ...

    def run(self, state: State, artifact: Artifact, unit: str) -> Sidecar:
        """Make one unit and commit it."""
        ...


Hook = Callable[[Artifact, Executor], Executor]
"""Puts something of the caller's around the executor of an artifact's units, such as a Prefect task run per unit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run gives up.

    Attributes:
        max_failed_units: Units that may fail before no more are begun.
        max_failed_share: Share of rows that may have failed in a finished artifact, 0..1.
        wait_s: How long to wait for another process that holds the artifact [s].
        tolerated: Statuses beside ``"ok"`` that are no failures, such as a caption without a noun.
    """

    max_failed_units: int = 10
    max_failed_share: float = 0.01
    wait_s: float = 0.0
    tolerated: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StageReport:
    """What a run did.

    Attributes:
        artifact: The finished artifact.
        manifest: What it states of itself.
        units_done: Units made by this run.
        units_skipped: Units that were done before.
        seconds: How long the run took [s].
    """

    artifact: Artifact
    manifest: Manifest
    units_done: int
    units_skipped: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Execution:
    """How the stages of one command run; it is handed from node to node.

    Attributes:
        compute: Where units run.
        limits: When to give up.
        hook: Put around the executor of each artifact; None for nothing.
        reports: What was done so far, in order.
    """

    compute: Compute = Compute()
    limits: Limits = Limits()
    hook: Hook | None = None
    reports: list[StageReport] = field(default_factory=list)

    @classmethod
    def of(cls, settings: Settings, hook: Hook | None = None) -> "Execution":
        """Return what the settings say."""
        compute = Compute(
            workers=settings.compute.workers,
            dask_address=settings.dask.address,
            connect_limit_s=settings.dask.connect_limit_s,
            dashboard_port=settings.dask.dashboard_port,
        )
        limits = Limits(
            max_failed_units=settings.compute.max_failed_units,
            max_failed_share=settings.compute.max_failed_share,
            wait_s=settings.compute.wait_s,
        )
        return cls(compute, limits, hook)

    def run(
        self, job: UnitJob[Any], artifact: Artifact, *, tolerated: frozenset[str] = frozenset(), inline: bool = False
    ) -> StageReport:
        """Make the units of an artifact that are not done; see `run_stage`.

        Args:
            job: What to do with a unit.
            artifact: Where to put it.
            tolerated: Row statuses that are no failures.
            inline: Run in this process, whatever the workers: for a single unit that is quickly made.
        """
        compute = Compute() if inline else self.compute
        limits = replace(self.limits, tolerated=tolerated)
        return self.noted(run_stage(job, artifact, compute=compute, limits=limits, hook=self.hook))

    def noted(self, report: StageReport) -> StageReport:
        """Add what was done."""
        self.reports.append(report)
        return report


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker sends back of one unit."""

    sidecar: Sidecar
    seconds: float


def run_stage(
    job: UnitJob[Any],
    artifact: Artifact,
    *,
    compute: Compute = Compute(),
    limits: Limits = Limits(),
    hook: Hook | None = None,
    on_unit: Callable[[Outcome[UnitResult]], None] | None = None,
) -> StageReport:
    """Make every unit of an artifact that is not done, then its manifest.

    Only what is read back from the directory is believed, whatever the workers say. On Ctrl-C one line tells what is
    saved before the ``KeyboardInterrupt`` goes on.

    Args:
        job: What to do with a unit.
        artifact: Where to put it.
        compute: Where the units run.
        limits: When to give up.
        hook: Put around the executor; None for nothing.
        on_unit: Called in this process with each outcome.

    Raises:
        StageError: If units failed, or too many rows did; what is done stays done.
        PipelineError: If the workers cannot be started or reached.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """
    started = time.monotonic()
    artifact = replace(artifact, directory=artifact.directory.absolute())  # a worker may run in another directory
    # Where nothing can be written, not even a lock, what is finished is complete. Elsewhere a run goes on to make sure
    # that the last writes of one that was killed have reached the disk.
    if artifact.directory.is_dir() and not os.access(artifact.directory, os.W_OK) and artifact.status().finished:
        manifest = artifact.manifest()
        _check_failed_share(artifact, manifest, limits)
        units = len(artifact.description.units)
        logger.info("%s: all %d units were done before; already complete", _label(artifact), units)
        return StageReport(artifact, manifest, 0, units, time.monotonic() - started)
    tally = _Tally(total=len(artifact.description.units))
    with _interrupts_told(artifact, tally), artifact.writing(wait_s=limits.wait_s):
        status = artifact.status()
        tally.todo = status.todo
        if status.todo:
            _run_units(job, artifact, status, tally, compute, limits, hook, on_unit)
            status = artifact.status()
            _check_kept(artifact, status)
        else:
            logger.info("%s: all %d units were done before; nothing to do", _label(artifact), tally.total)
        manifest = artifact.manifest_of({unit.unit: unit.sidecar for unit in status.units if unit.sidecar is not None})
        _check_failed_share(artifact, manifest, limits)
        artifact.finish(manifest)
    return StageReport(artifact, manifest, len(tally.done), tally.skipped, time.monotonic() - started)


@dataclass(slots=True)
class _Tally:
    """How far a run has come.

    Attributes:
        total: Units of the artifact.
        todo: Those that were not done before; None until that is known.
        done: Units made by this run.
        failed: Units that failed, and why.
        interrupt_told: Whether the user was told what is saved.
    """

    total: int
    todo: tuple[str, ...] | None = None
    done: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    interrupt_told: bool = False

    @property
    def skipped(self) -> int:
        """Units that were done before, as far as that is known."""
        return 0 if self.todo is None else self.total - len(self.todo)


@contextlib.contextmanager
def _interrupts_told(artifact: Artifact, tally: _Tally) -> Iterator[None]:
    """Tell on Ctrl-C, once, what is saved, and note on the exception that this was told."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        if not tally.interrupt_told:
            saved = _saved(artifact, tally)
            tally.interrupt_told = True
            logger.warning("%s: interrupted; %s, run the same command to go on", _label(artifact), saved)
            interrupt.add_note(saved)
        raise


def _saved(artifact: Artifact, tally: _Tally) -> str:
    """Say how many units are saved, those included that workers committed and nobody has counted off."""
    if tally.todo is None:
        return "what is done is saved"
    counted = set(tally.done)
    uncounted = artifact.done_among(unit for unit in tally.todo if unit not in counted)
    return f"{tally.skipped + len(counted) + len(uncounted)} of {tally.total} units are saved"


def _run_units(
    job: UnitJob[Any],
    artifact: Artifact,
    status: ArtifactStatus,
    tally: _Tally,
    compute: Compute,
    limits: Limits,
    hook: Hook | None,
    on_unit: Callable[[Outcome[UnitResult]], None] | None,
) -> None:
    """Run the units that are not done and count them off.

    Raises:
        StageError: If units failed.
    """
    for unit in status.units:
        if unit.state in {UnitState.STALE, UnitState.CORRUPT}:
            logger.warning("%s: %s is %s and is made again: %s", _label(artifact), unit.unit, unit.state, unit.reason)
    work = partial(_run_unit, job, artifact, secrets.token_hex(8))
    with (
        Progress(_label(artifact), len(status.todo), artifact.local_directory / "report.jsonl") as progress,
        _job_state_dropped(),
    ):
        progress.event(state="started", todo=len(status.todo), skipped=tally.skipped)
        with (
            executor_for(compute, waiting=partial(_interrupts_told, artifact, tally)) as executor,
            contextlib.closing(
                (hook(artifact, executor) if hook else executor).outcomes(work, status.todo)
            ) as outcomes,
            _interrupts_told(artifact, tally),  # before the workers are stopped, which takes seconds
        ):
            for outcome in outcomes:
                _count(tally, outcome, progress)
                if on_unit is not None:
                    on_unit(outcome)
                if len(tally.failed) > limits.max_failed_units:
                    break
        progress.event(state="ended", done=len(tally.done), failed=len(tally.failed))
    if tally.failed:
        raise StageError(_failure_message(artifact, tally, limits))


# What the job of one run has loaded in this process, by the run's token: a model is loaded once per worker.
_open_state: dict[str, Any] = {}
_opening = threading.Lock()


def _run_unit(job: UnitJob[Any], artifact: Artifact, run_token: str, unit: str) -> UnitResult:
    """Make one unit on a worker, which keeps what the job loads for the units to come."""
    started = time.monotonic()
    with _opening:  # a worker may have several threads
        if run_token not in _open_state:
            _open_state.clear()
            _open_state[run_token] = job.open()
        state = _open_state[run_token]
    sidecar = job.run(state, artifact, unit)
    return UnitResult(sidecar, time.monotonic() - started)


@contextlib.contextmanager
def _job_state_dropped() -> Iterator[None]:
    """Let go of what the job has loaded in this process when its run ends; workers started here end themselves."""
    try:
        yield
    finally:
        _open_state.clear()


def _check_kept(artifact: Artifact, status: ArtifactStatus) -> None:
    """Refuse to finish an artifact that doesn't hold what its workers said they made.

    Raises:
        StageError: If a unit is not done.
    """
    lost = [unit for unit in status.units if unit.state is not UnitState.DONE]
    if lost:
        reasons = "; ".join(f"{unit.unit} is {unit.state}: {unit.reason}" for unit in lost[:5])
        message = (
            f"{_label(artifact)}: {artifact.directory} lacks {_units(len(lost))} that workers say they made "
            f"({reasons}); see to it that all workers write to this directory, and run the same command again"
        )
        raise StageError(message)


def _count(tally: _Tally, outcome: Outcome[UnitResult], progress: Progress) -> None:
    """Count a unit off and tell how it ended."""
    if outcome.result is not None:
        tally.done.append(outcome.unit)
        sidecar = outcome.result.sidecar
        counts = dict(sidecar.counts)
        progress.unit(outcome.unit, state="done", seconds=outcome.result.seconds, rows=sidecar.rows, counts=counts)
    elif outcome.error is not None:
        tally.failed[outcome.unit] = outcome.error
        progress.unit(outcome.unit, state="failed", error=_told(outcome.error))
        logger.debug("traceback of %s", outcome.unit, exc_info=outcome.error)


def _failure_message(artifact: Artifact, tally: _Tally, limits: Limits) -> str:
    """Say which units failed and why, and whether the run gave up early."""
    failed, limit = tally.failed, limits.max_failed_units
    reasons = "; ".join(f"{unit}: {_told(failed[unit])}" for unit in sorted(failed)[:5])
    gave_up = f"; gave up after more than {limit}" if len(failed) > limit else ""
    return (
        f"{_label(artifact)}: {_units(len(failed))} failed ({reasons}){gave_up}; "
        f"{len(tally.done)} were made and are kept; mend the cause and run the same command again"
    )


def _told(error: Exception) -> str:
    """Say what went wrong, with the error's type unless the message was written for the user."""
    return str(error) if isinstance(error, StorageError | PipelineError) else f"{type(error).__name__}: {error}"


def _check_failed_share(artifact: Artifact, manifest: Manifest, limits: Limits) -> None:
    """Refuse to finish an artifact of which too many rows failed.

    Raises:
        StageError: If the share of rows that failed is above the limit.
    """
    fine = {OK, *limits.tolerated}
    failed = {status: count for status, count in manifest.counts.items() if status not in fine}
    share = sum(failed.values()) / max(1, manifest.rows)
    if share > limits.max_failed_share:
        message = (
            f"{_label(artifact)}: {share:.1%} of {manifest.rows} rows failed ({failed}), at most "
            f"{limits.max_failed_share:.1%} are allowed; mend the inputs, or raise max_failed_share and run again"
        )
        raise StageError(message)


def _units(count: int) -> str:
    return f"{count} unit" if count == 1 else f"{count} units"


def _label(artifact: Artifact) -> str:
    """Name an artifact in logs."""
    return f"{artifact.identity.kind} {artifact.identity.name}"
