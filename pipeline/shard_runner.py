"""Maps a job over the units of an artifact that are not done, and finishes the artifact.

A job says what to load once per worker, and what to do with one unit. What is left to do follows from the artifact's
directory alone, so a repeated run does nothing, and a killed one resumes where it stopped.
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
from pipeline.executors import Compute, Executor, executor_for
from pipeline.progress import Progress
from pipeline.settings import Settings
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.errors import StorageError
from storage_schemas.manifest import Manifest, Sidecar
from storage_schemas.status import ArtifactStatus, UnitState

logger = logging.getLogger(__name__)

State = TypeVar("State")


class UnitJob(Protocol[State]):
    """What makes units. It travels to workers with every unit: picklable, small, and free of open files and models."""

    def open(self) -> State:
        """Load what every unit needs, such as a model; called once per worker process."""
        ...

    def run(self, state: State, artifact: Artifact, unit: str) -> Sidecar:
        """Make one unit and commit it."""
        ...


Hook = Callable[[Artifact, Executor], Executor]
"""Wraps the executor of an artifact's units, such as in one that reports each unit as a Prefect task run."""


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
    """How the stages of one command run; passed from node to node.

    Attributes:
        limits: When to give up.
        hook: Wraps the executor of each artifact.
        reports: What was made so far, in order.
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
        """Add a report."""
        self.reports.append(report)
        return report


@dataclass(frozen=True, slots=True)
class UnitResult:
    """What a worker returns for one unit."""

    sidecar: Sidecar
    seconds: float


def run_stage(
    job: UnitJob[Any],
    artifact: Artifact,
    *,
    compute: Compute = Compute(),
    limits: Limits = Limits(),
    hook: Hook | None = None,
) -> StageReport:
    """Make every unit of an artifact that is not done, then its manifest.

    Only what is read back from the directory is believed, whatever workers report. On Ctrl-C one line says what is
    saved before the ``KeyboardInterrupt`` goes on (`pipeline.interrupts` has all that happens then).

    Args:
        compute: Where the units run.
        limits: When to give up.

    Raises:
        StageError: If units failed, or too many rows did; what is done stays done.
        PipelineError: If the workers cannot be started or reached.
        HeldError: If another process holds the artifact.
        WriteError: If the artifact's directory cannot be written to.
    """
    started = time.monotonic()
    artifact = replace(artifact, directory=artifact.directory.absolute())  # a worker may run in another directory
    label, tally = _label(artifact), _Tally(total=len(artifact.description.units))
    # Where nothing can be written, not even a lock, what is finished is complete. Elsewhere even a complete artifact is
    # finished once more: the last writes of a run that was killed may not have reached the disk.
    if artifact.directory.is_dir() and not os.access(artifact.directory, os.W_OK) and artifact.status().finished:
        manifest = artifact.manifest()
        _check_failed_share(artifact, manifest, limits)
        logger.info("%s: all %d units are already complete", label, tally.total)
        return StageReport(artifact, manifest, 0, tally.total, time.monotonic() - started)
    with _interrupt_reported(artifact, tally), artifact.writing(wait_s=limits.wait_s):
        status = artifact.status()  # under the lock: a run that held it until now has made units in the meantime
        tally.todo = status.todo
        if status.todo:
            _run_units(job, artifact, status, tally, compute, limits, hook)
            status = artifact.status()
            lost = [unit for unit in status.units if unit.state is not UnitState.DONE]
            if lost:  # such as by a worker on which the same path is another disk
                reasons = "; ".join(f"{unit.unit} is {unit.state}: {unit.reason}" for unit in lost[:5])
                raise StageError(
                    f"{label}: {artifact.directory} lacks {_units(len(lost))} that workers reported as made "
                    f"({reasons}); make sure that all workers write to this directory, and run the same command again"
                )
        else:
            logger.info("%s: all %d units are already complete", label, tally.total)
        manifest = artifact.manifest_of({unit.unit: unit.sidecar for unit in status.units if unit.sidecar is not None})
        _check_failed_share(artifact, manifest, limits)
        artifact.finish(manifest)
    return StageReport(artifact, manifest, len(tally.done), tally.skipped, time.monotonic() - started)


@dataclass(slots=True)
class _Tally:
    """Progress of a run.

    Attributes:
        total: Units of the artifact.
        todo: Those that were not done before; None until that is known.
        done: Units made by this run.
        failed: Units that failed, and why.
        interrupt_reported: Whether a Ctrl-C has been reported.
    """

    total: int
    todo: tuple[str, ...] | None = None
    done: list[str] = field(default_factory=list)
    failed: dict[str, Exception] = field(default_factory=dict)
    interrupt_reported: bool = False

    @property
    def skipped(self) -> int:
        """Units that were done before, as far as that is known."""
        return 0 if self.todo is None else self.total - len(self.todo)


@contextlib.contextmanager
def _interrupt_reported(artifact: Artifact, tally: _Tally) -> Iterator[None]:
    """On Ctrl-C, log how many units are saved, once, and note on the exception that this was logged."""
    try:
        yield
    except KeyboardInterrupt as interrupt:
        # Blocks of this kind are nested: the innermost one that the interrupt passes reports it.
        if not tally.interrupt_reported:
            saved = "what is done is saved"
            if tally.todo is not None:
                # Workers commit units by themselves; the last ones may not have been counted yet.
                counted = set(tally.done)
                uncounted = artifact.done_among(unit for unit in tally.todo if unit not in counted)
                saved = f"{tally.skipped + len(counted) + len(uncounted)} of {tally.total} units are saved"
            tally.interrupt_reported = True  # only now: a second Ctrl-C while counting is reported further out
            logger.warning("%s: interrupted; %s, run the same command to go on", _label(artifact), saved)
            interrupt.add_note(saved)
        raise


def _run_units(
    job: UnitJob[Any],
    artifact: Artifact,
    status: ArtifactStatus,
    tally: _Tally,
    compute: Compute,
    limits: Limits,
    hook: Hook | None,
) -> None:
    """Run the units that are not done and count them.

    Raises:
        StageError: If units failed.
    """
    label = _label(artifact)
    for odd in status.units:
        if odd.state in {UnitState.STALE, UnitState.CORRUPT}:
            logger.warning("%s: %s is %s and is made again: %s", label, odd.unit, odd.state, odd.reason)
    run_unit = partial(_run_unit, job, artifact, secrets.token_hex(8))
    wrapped: Hook = hook or (lambda _artifact, executor: executor)
    with (
        contextlib.ExitStack() as at_end,
        Progress(label, len(status.todo), artifact.local_directory / "report.jsonl") as progress,
    ):
        at_end.callback(_open_state.clear)  # what the job loaded in this process; workers started here end themselves
        progress.event(state="started", todo=len(status.todo), skipped=tally.skipped)
        with (
            # A Ctrl-C is reported before workers are stopped, which takes seconds: hence around the wait for workers,
            # and around their work, and not in `run_stage` alone.
            executor_for(compute, waiting=partial(_interrupt_reported, artifact, tally)) as executor,
            # Closing the outcomes cancels units that are still running.
            contextlib.closing(wrapped(artifact, executor).outcomes(run_unit, status.todo)) as outcomes,
            _interrupt_reported(artifact, tally),
        ):
            for outcome in outcomes:
                unit, result, error = outcome.unit, outcome.result, outcome.error
                if result is not None:
                    tally.done.append(unit)
                    rows, counts = result.sidecar.rows, dict(result.sidecar.counts)
                    progress.unit(unit, state="done", seconds=result.seconds, rows=rows, counts=counts)
                elif error is not None:
                    tally.failed[unit] = error
                    progress.unit(unit, state="failed", error=_error_text(error))
                    logger.debug("traceback of %s", unit, exc_info=error)
                if len(tally.failed) > limits.max_failed_units:
                    break
        progress.event(state="ended", done=len(tally.done), failed=len(tally.failed))
    if tally.failed:
        reasons = "; ".join(f"{unit}: {_error_text(tally.failed[unit])}" for unit in sorted(tally.failed)[:5])
        limit = limits.max_failed_units
        gave_up = f"; gave up after more than {limit}" if len(tally.failed) > limit else ""
        raise StageError(
            f"{label}: {_units(len(tally.failed))} failed ({reasons}){gave_up}; "
            f"{len(tally.done)} were made and are kept; fix the cause and run the same command again"
        )


# What the job of one run has loaded in this process, by the run's token: a model is loaded once per worker, though the
# job arrives anew with every unit. At most one entry, as a worker that somebody else started may serve several runs.
_open_state: dict[str, Any] = {}
_opening = threading.Lock()


def _run_unit(job: UnitJob[Any], artifact: Artifact, run_token: str, unit: str) -> UnitResult:
    """Make one unit on a worker, which keeps what the job loads for the units to come."""
    started = time.monotonic()
    with _opening:  # a worker may have several threads, of which all but the first wait for the model
        if run_token not in _open_state:
            _open_state.clear()  # first, so that two models are not in memory at once
            _open_state[run_token] = job.open()
        state = _open_state[run_token]
    sidecar = job.run(state, artifact, unit)
    return UnitResult(sidecar, time.monotonic() - started)


def _error_text(error: Exception) -> str:
    """Return an error's message, with its type unless it was written for users."""
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
        raise StageError(
            f"{_label(artifact)}: {share:.1%} of {manifest.rows} rows failed ({failed}), at most "
            f"{limits.max_failed_share:.1%} are allowed; fix the inputs, or raise max_failed_share and run again"
        )


def _units(count: int) -> str:
    return f"{count} unit" if count == 1 else f"{count} units"


def _label(artifact: Artifact) -> str:
    """Name an artifact in logs."""
    return f"{artifact.identity.kind} {artifact.identity.name}"
