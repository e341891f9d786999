"""Maps a stage over the units of its artifact that are not done, and finishes the artifact.

A stage is a job: what to load once per worker, and what to do with one unit. The runner decides what is to do from the
artifact alone, so a repeated run does nothing, and a killed one goes on where it stopped.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from pipeline.errors import StageError
from pipeline.executors import Compute, Outcome, executor_for
from pipeline.progress import Progress
from storage_schemas.artifact import Artifact
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


@dataclass(frozen=True, slots=True)
class Limits:
    """When a run gives up.

    Attributes:
        max_failed_units: Units that may fail before no more are begun.
        max_failed_share: Share of rows that may have failed in a finished artifact, 0..1.
        wait_s: How long to wait for another process that holds the artifact [s].
    """

    max_failed_units: int = 10
    max_failed_share: float = 0.01
    wait_s: float = 0.0


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
    on_unit: Callable[[Outcome[UnitResult]], None] | None = None,
) -> StageReport:
    """Make every unit of an artifact that is not done, then its manifest.

    Args:
        job: What to do with a unit.
        artifact: Where to put it.
        compute: Where the units run.
        limits: When to give up.
        on_unit: Called in this process with each outcome.

    Raises:
        StageError: If units failed, or too many rows did; what is done stays done.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """
    started = time.monotonic()
    with artifact.writing(wait_s=limits.wait_s):
        status = artifact.status()
        sidecars = {unit.unit: unit.sidecar for unit in status.units if unit.sidecar is not None}
        skipped = len(sidecars)
        if status.todo:
            sidecars |= _run_units(job, artifact, status, compute, limits, on_unit)
        else:
            logger.info("%s: all %d units were done before; nothing to do", _label(artifact), skipped)
        manifest = artifact.manifest_of(sidecars)
        _check_failed_share(artifact, manifest, limits)
        artifact.finish(manifest)
    return StageReport(artifact, manifest, len(sidecars) - skipped, skipped, time.monotonic() - started)


def _run_units(
    job: UnitJob[Any],
    artifact: Artifact,
    status: ArtifactStatus,
    compute: Compute,
    limits: Limits,
    on_unit: Callable[[Outcome[UnitResult]], None] | None,
) -> dict[str, Sidecar]:
    """Run the units that are not done; return their sidecars."""
    for unit in status.units:
        if unit.state in {UnitState.STALE, UnitState.CORRUPT}:
            logger.warning("%s: %s is %s and is made again: %s", _label(artifact), unit.unit, unit.state, unit.reason)
    done: dict[str, Sidecar] = {}
    failed: dict[str, Exception] = {}
    todo = status.todo
    with Progress(_label(artifact), len(todo), artifact.local_directory / "report.jsonl") as progress:
        progress.event(state="started", todo=len(todo), skipped=len(status.units) - len(todo))
        try:
            with executor_for(compute) as executor:
                for outcome in executor.outcomes(partial(_run_unit, job, artifact), todo):
                    _report(progress, outcome)
                    if on_unit is not None:
                        on_unit(outcome)
                    if outcome.result is not None:
                        done[outcome.unit] = outcome.result.sidecar
                    elif outcome.error is not None:
                        failed[outcome.unit] = outcome.error
                    if len(failed) > limits.max_failed_units:
                        break
        except KeyboardInterrupt:
            kept = len(status.units) - len(todo) + len(done)
            logger.warning(
                "%s: interrupted; %d of %d units are saved, run the same command to go on",
                _label(artifact),
                kept,
                len(status.units),
            )
            raise
        progress.event(state="ended", done=len(done), failed=len(failed))
    if failed:
        raise StageError(_failure_message(artifact, done, failed, limits))
    return done


_open_state: dict[str, Any] = {}


def _run_unit(job: UnitJob[Any], artifact: Artifact, unit: str) -> UnitResult:
    """Make one unit on a worker, which keeps what the job loads for the units to come."""
    started = time.monotonic()
    token = artifact.identity.digest()
    if token not in _open_state:
        _open_state.clear()
        _open_state[token] = job.open()
    sidecar = job.run(_open_state[token], artifact, unit)
    return UnitResult(sidecar, time.monotonic() - started)


def _report(progress: Progress, outcome: Outcome[UnitResult]) -> None:
    """Tell how a unit ended."""
    if outcome.result is not None:
        sidecar = outcome.result.sidecar
        counts = dict(sidecar.counts)
        progress.unit(outcome.unit, state="done", seconds=outcome.result.seconds, rows=sidecar.rows, counts=counts)
    else:
        progress.unit(outcome.unit, state="failed", error=f"{type(outcome.error).__name__}: {outcome.error}")
        logger.debug("traceback of %s", outcome.unit, exc_info=outcome.error)


def _failure_message(artifact: Artifact, done: dict[str, Sidecar], failed: dict[str, Exception], limits: Limits) -> str:
    """Say which units failed and why, and whether the run gave up early."""
    reasons = "; ".join(f"{unit}: {error}" for unit, error in sorted(failed.items())[:5])
    gave_up = f"; gave up after more than {limits.max_failed_units}" if len(failed) > limits.max_failed_units else ""
    return (
        f"{_label(artifact)}: {len(failed)} units failed ({reasons}){gave_up}; {len(done)} were made and are kept; "
        "mend the cause and run the same command again"
    )


def _check_failed_share(artifact: Artifact, manifest: Manifest, limits: Limits) -> None:
    """Refuse to finish an artifact of which too many rows failed.

    Raises:
        StageError: If the share of rows that are not ok is above the limit.
    """
    failed = {status: count for status, count in manifest.counts.items() if status != OK}
    share = sum(failed.values()) / max(1, manifest.rows)
    if share > limits.max_failed_share:
        message = (
            f"{_label(artifact)}: {share:.1%} of {manifest.rows} rows failed ({failed}), at most "
            f"{limits.max_failed_share:.1%} are allowed; mend the inputs, or raise max_failed_share and run again"
        )
        raise StageError(message)


def _label(artifact: Artifact) -> str:
    """Name an artifact in logs."""
    return f"{artifact.identity.kind} {artifact.identity.name}"
