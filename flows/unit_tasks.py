"""Shows every unit that a stage runs as a Prefect task run, and tries a unit again after an error that may pass.

Task runs are reported from the flow's own thread, with the events that Prefect's task engine would send, and around the
shard runner's executor; only units travel to Dask's workers, which need no Prefect. Prefect's engine itself
takes three times as long for each unit, and a thread for each one that runs on a worker.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast
from uuid import uuid4

from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext
from prefect.states import AwaitingRetry, Completed, Crashed, Failed, Retrying, Running
from prefect.types import DateTime
from prefect.utilities.engine import emit_task_run_state_change_event

from flows.stage_board import StageBoard
from pipeline.errors import may_pass
from pipeline.executors import Executor, Outcome
from pipeline.interrupts import held_back
from pipeline.settings import FlowSettings
from storage_schemas.artifact import Artifact

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Unit = str


class TaskRunExecutor:
    """Runs units by another executor, each as a task run whose name says kind, artifact and unit.

    Args:
        artifact: Whose units they are.
        settings: How often to try a unit again, and when.
        board: Where progress is shown.
    """

    def __init__(self, inner: Executor, artifact: Artifact, settings: FlowSettings, board: StageBoard) -> None:
        self._inner = inner
        self._artifact = artifact
        self._settings = settings
        self._board = board

    def outcomes(self, function: Callable[[Unit], Result], units: Iterable[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit, with retries.

        Raises:
            PipelineError: If the inner executor itself fails; what is done stays done.
        """
        waiting, again = deque(units), list[Unit]()
        runs: dict[Unit, TaskRun] = {}  # of the units that have begun and not ended
        identity, context = self._artifact.identity, FlowRunContext.get()

        def begun() -> Iterator[Unit]:
            # As soon as a unit is to be tried again no other is begun: a full disk or a lost mount fails them all.
            while waiting and not again:
                unit = waiting.popleft()
                if unit not in runs:
                    runs[unit] = TaskRun(
                        name=f"{identity.kind} {identity.name} {unit}",
                        flow_run_id=context.flow_run.id if context and context.flow_run else None,
                        task_key=f"make unit of {identity.kind}",
                        dynamic_key=str(uuid4()),
                    )
                _enter(runs[unit], Retrying() if runs[unit].run_count else Running())
                yield unit

        self._board.begun(self._artifact, todo=len(waiting))
        try:
            while waiting:
                delay_s = 0.0
                with closing(self._inner.outcomes(function, begun())) as outcomes:
                    for outcome in outcomes:
                        run, error = runs[outcome.unit], outcome.error
                        if error is not None and run.run_count <= self._settings.retries and may_pass(error):
                            delay_s = max(delay_s, self._settings.retry_delay_s * 2 ** (run.run_count - 1))
                            logger.warning("%s: %s; it is tried again in %g s", run.name, error, delay_s)
                            _enter(run, AwaitingRetry(scheduled_time=datetime.now(UTC) + timedelta(seconds=delay_s)))
                            again.append(outcome.unit)
                            continue
                        del runs[outcome.unit]
                        failure = f"{type(error).__name__}: {error}"
                        _enter(run, Completed() if error is None else Failed(message=failure))
                        self._board.ended(self._artifact, failed=error is not None)
                        yield outcome
                time.sleep(delay_s)
                waiting.extendleft(reversed(again))
                again.clear()
        finally:
            for run in runs.values():
                _enter(run, Crashed(message="The run of the stage ended before this unit did."))


@held_back()  # a Ctrl-C in Prefect's code would be swallowed there
def _enter(run: TaskRun, state: State[Any]) -> None:
    """Let a task run enter a state, and send that to the server; a thread of Prefect's does so in its own time."""
    before, timestamp = run.state, cast("DateTime", state.timestamp)
    if before is not None and before.is_running():
        run.total_run_time += state.timestamp - before.timestamp
    if state.is_running():
        run.run_count += 1
        run.start_time = run.expected_start_time = run.start_time or timestamp
    elif state.is_final():
        run.end_time = timestamp
    run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
    emit_task_run_state_change_event(task_run=run, initial_state=before, validated_state=state)
