"""The Prefect flow: one subflow per stage, in the order of ``pipeline.dataflow``, whose units are its task runs.

What is done is read from the artifacts' manifests, not from Prefect; so the flow can be killed at any moment, on any
machine, and begun again.
"""

import contextlib
import logging
from collections.abc import Iterator

from prefect import Flow, flow
from prefect.logging.handlers import APILogHandler
from prefect.runtime import flow_run

import pipeline.dataflow
from flows.stage_board import StageBoard, show_run
from flows.unit_tasks import TaskRunExecutor
from pipeline.executors import Executor
from pipeline.graph import Graph, summary
from pipeline.interrupts import let_through
from pipeline.settings import Settings, check_references
from pipeline.shard_runner import Execution
from pipeline.stage_names import StageName
from pipeline.stages import chosen_stages, is_complete, run_stage_of
from storage_schemas.artifact import Artifact

logger = logging.getLogger(__name__)

_OWN_PACKAGES = ("storage_schemas", "pipeline", "flows")


def _titled() -> str:
    """Name a run after its settings and its variant."""
    given = flow_run.parameters
    return f"{given['settings'].name} {given.get('variant', '')}".rstrip()


@flow(name="ovseg", flow_run_name=_titled, persist_result=False)
def ovseg_flow(
    settings: Settings,
    from_stage: StageName = "prepare",
    only_stage: StageName | None = None,
    variant: str = "",
) -> None:
    """Do all that is not done, from data sets to scores.

    Args:
        settings: Of the run; docs/settings.md explains each of them.
        from_stage: The stage to begin with; those before it have to be done.
        only_stage: The one stage to run.
        variant: A name for runs that share artifacts but differ in settings, such as "baseline"; shown with the run.

    Raises:
        SettingsError: If the settings name data sets that they don't describe.
        PipelineError: If a stage fails, or has not what it reads.
    """
    with _log_shown(variant):
        check_references(settings)
        graph = pipeline.dataflow.dataflow(settings)
        stages = [stage for stage in chosen_stages(from_stage, only_stage) if graph.of_stage(stage)]
        try:
            for stage in stages:
                with let_through():
                    complete = is_complete(graph, stage)
                if complete:
                    logger.info("%s: already complete", stage)
                else:
                    _stage_flow(stage, graph, variant)(settings)
        finally:
            show_run((node for stage in stages for node in graph.of_stage(stage)), settings.name, variant)


def _stage_flow(stage: StageName, graph: Graph, variant: str) -> Flow[[Settings], None]:
    """Make the subflow of one stage."""

    def run_stage(settings: Settings) -> None:
        with let_through():
            board = StageBoard(graph, stage, variant)

        def as_task_runs(artifact: Artifact, executor: Executor) -> Executor:
            return TaskRunExecutor(executor, artifact, settings.flow, board)

        try:
            with let_through():
                run_stage_of(graph, stage, Execution.of(settings, as_task_runs))
        finally:
            board.close()

    make_flow = flow(
        name=f"ovseg {stage}",
        flow_run_name=f"{stage} {graph.name} {variant}".rstrip(),
        description=summary(graph.of_stage(stage)),
        persist_result=False,
    )
    return make_flow(run_stage)


@contextlib.contextmanager
def _log_shown(variant: str) -> Iterator[None]:
    """Send the project's log to Prefect, too, for the runs in which its lines are written; each carries the variant."""
    handler = APILogHandler()
    loggers = [logging.getLogger(package) for package in _OWN_PACKAGES]

    def marked(record: logging.LogRecord) -> bool:
        if variant and not getattr(record, "variant", ""):
            record.msg, record.variant = f"[{variant}] {record.msg}", variant
        return True

    # On handlers, since a logger's filter does not see the records of its children.
    handlers = [handler, *logging.getLogger().handlers]
    for each in handlers:
        each.addFilter(marked)
    for package_logger in loggers:
        package_logger.addHandler(handler)
        if package_logger.level == logging.NOTSET:  # in runs that are started from the pages
            package_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for each in handlers:
            each.removeFilter(marked)
        for package_logger in loggers:
            package_logger.removeHandler(handler)
