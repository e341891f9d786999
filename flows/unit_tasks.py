"""Makes a Prefect task run of every unit that a stage runs, and tries a unit again after an error that may pass.

Task runs live in the flow's own process, around the shard runner's executor; only units travel to Dask's workers,
which need no Prefect. (With prefect-dask, and no server, each worker would start a temporary server of its own.) A
Ctrl-C that strikes in Prefect's own code is taken for all kinds of things there; so it is held back, and let through
where units are made or awaited.
"""

import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from queue import SimpleQueue
from threading import Event
from typing import Any, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.futures import PrefectFuture

from flows.stage_board import StageBoard
from pipeline.errors import PipelineError, may_pass
from pipeline.executors import Executor, InlineExecutor, Outcome
from pipeline.interrupts import held_back, let_through
from pipeline.settings import FlowSettings
from storage_schemas.artifact import Artifact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Unit = str


class TaskRunExecutor:
    """Runs each unit by another executor, within a task run whose name says kind, artifact and unit.

    Args:
        inner: What runs units.
        artifact: Whose units they are.
        settings: How often to try a unit again, and when.
        board: Where progress is shown.
    """

    def __init__(self, inner: Executor, artifact: Artifact, settings: FlowSettings, board: StageBoard) -> None:
        self._inner = inner
        self._artifact = artifact
        self._settings = settings
        self._board = board

    def width(self) -> int:
        """Return how many units the inner executor can run at the same time."""
        return self._inner.width()

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit, with retries.

        Raises:
            PipelineError: If the inner executor itself fails; what is done stays done.
        """
        made: dict[Unit, Outcome[Result]] = {}
        broken: list[PipelineError] = []
        stopped = Event()

        def make_unit(unit: Unit) -> None:
            try:
                with let_through():
                    (outcome,) = self._inner.outcomes(function, [unit])
            except PipelineError as error:
                broken.append(error)
                raise
            made[unit] = outcome
            if outcome.error is not None:
                raise outcome.error

        unit_task = self._task(make_unit, stopped)
        in_turn = isinstance(self._inner, InlineExecutor)
        ends = _ends_in_turn(unit_task, units) if in_turn else _ends_as_they_come(unit_task, units, self.width)
        self._board.begun(self._artifact, todo=len(units))
        try:
            for unit, result in ends:
                if broken:
                    raise broken[0]
                if unit not in made:
                    result()  # raises what kept Prefect from running the unit
                outcome = made.pop(unit)
                self._board.ended(self._artifact, failed=outcome.error is not None)
                yield outcome
        finally:
            stopped.set()

    def _task(self, make_unit: Callable[[Unit], None], stopped: Event) -> "Task[[Unit], None]":
        """Make the task; nothing of it is cached or stored by Prefect, since manifests say what is done.

        The wait before another try is ours: out of Prefect's nothing wakes a run that is to end.
        """
        label = f"{self._artifact.identity.kind} {self._artifact.identity.name}"
        delays = [self._settings.retry_delay_s * 2**number for number in range(self._settings.retries)]

        def worth_a_retry(_task: "Task[[Unit], None]", run: TaskRun, state: State[None]) -> bool:
            error = state.data
            if not isinstance(error, Exception) or not may_pass(error):
                return False
            delay_s = delays[min(run.run_count - 1, len(delays) - 1)]
            logger.warning("%s: %s; it is tried again in %g s", run.name, error, delay_s)
            with let_through():
                return not stopped.wait(delay_s)

        make_task = task(
            name=f"make unit of {self._artifact.identity.kind}",
            task_run_name=f"{label} {{unit}}",
            cache_policy=NO_CACHE,
            persist_result=False,
            retries=self._settings.retries,
            retry_delay_seconds=0,
            retry_condition_fn=worth_a_retry,
        )
        return make_task(make_unit)


# A unit whose task run ended, and what gives the task run's result.
_End = tuple[Unit, Callable[[], object]]


def _ends_in_turn(unit_task: "Task[[Unit], None]", units: Sequence[Unit]) -> Generator[_End]:
    """Run units one after another in this thread, so that a Ctrl-C stops the unit in hand."""
    for unit in units:
        with held_back():
            state = unit_task(unit, return_state=True)
        yield unit, state.result


def _ends_as_they_come(
    unit_task: "Task[[Unit], None]", units: Sequence[Unit], width: Callable[[], int]
) -> Generator[_End]:
    """Run as many units at a time as there is room for, each watched over by a thread."""
    waiting, ended = deque(units), SimpleQueue[Unit]()
    running: dict[Unit, PrefectFuture[None]] = {}
    while waiting or running:
        while waiting and len(running) < width():
            unit = waiting.popleft()
            with held_back():
                running[unit] = unit_task.submit(unit)
                running[unit].add_done_callback(_telling(ended, unit))
        unit = ended.get()
        yield unit, running.pop(unit).result


def _telling(ended: SimpleQueue[Unit], unit: Unit) -> Callable[[Any], None]:
    """Return a callback that puts the unit into the queue."""
    return lambda _: ended.put(unit)
