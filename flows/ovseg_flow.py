"""The Prefect flow: one subflow per stage, in the order of ``pipeline.dataflow``, whose units are its task runs.

What is done is read from the artifacts' manifests, not from Prefect; so the flow can be killed at any moment, on any
machine, and begun again.
"""

import contextlib
import logging
from collections.abc import Iterator

import httpx
from prefect import Flow, flow
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogHandler, APILogWorker
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_KEY
from prefect.types.entrypoint import EntrypointType

import pipeline.dataflow
from flows.stage_board import StageBoard, show_run
from flows.unit_tasks import TaskRunExecutor
from pipeline.clip_loading import check_namers
from pipeline.errors import StageError
from pipeline.executors import Executor
from pipeline.graph import Graph, summary
from pipeline.interrupts import held_back, let_through
from pipeline.settings import Settings, check_references, settings_document
from pipeline.shard_runner import Execution
from pipeline.stage_names import StageName
from pipeline.stages import chosen_stages, is_complete, run_stage_of
from pipeline.training.trackers import check_trackers
from storage_schemas.artifact import Artifact

logger = logging.getLogger(__name__)

_OWN_PACKAGES = ("storage_schemas", "pipeline", "flows")
_SEND_LIMIT_S = 10.0
# After these Prefect waits a second before each, and again for each event that it holds: with a server that has gone
# away, a run of many units would end hours later.
_IMMEDIATE_ATTEMPTS = 2
# Prefect's words, in an error without a type of its own, for a server that it has not reached once.
_UNREACHED = "Failed to reach API"


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
        settings: Of the run; docs/reference/settings.md explains each of them.
        from_stage: The stage to begin with; those before it have to be done.
        only_stage: The one stage to run.
        variant: A name for runs that share artifacts but differ in settings, such as "baseline"; shown with the run.

    Raises:
        SettingsError: If the settings name data sets that they don't describe.
        PipelineError: If a stage fails, or lacks an input.
    """
    with _log_shown(variant):
        check_references(settings)
        check_namers(settings)
        check_trackers(settings.compute.trackers)  # here already: stage 3 may be hours away
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
            show_run([node for stage in stages for node in graph.of_stage(stage)], settings.name, variant)


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


def run_flow(settings: Settings, from_stage: StageName, only_stage: StageName | None, variant: str = "") -> None:
    """Run the flow, and wait until the server has received all of it.

    Raises:
        PipelineError: If a stage fails, or the server goes away.
    """
    if not PREFECT_API_KEY.value():  # with a key it is Prefect Cloud, which needs another client
        EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=_IMMEDIATE_ATTEMPTS)
    with held_back():  # the flow lets it through where that does no harm
        try:
            with _server_errors_named():
                ovseg_flow(settings, from_stage, only_stage, variant)
        finally:
            APILogWorker.drain_all(timeout=_SEND_LIMIT_S)
            EventsWorker.drain_all(timeout=_SEND_LIMIT_S)


def serve_flow(settings: Settings) -> None:
    """Offer runs until this process is stopped.

    Raises:
        PipelineError: If the server goes away.
    """
    with _server_errors_named():
        ovseg_flow.serve(
            name=settings.name,
            parameters={"settings": settings_document(settings)},
            description="From data sets to scores: all that is not done.",
            entrypoint_type=EntrypointType.MODULE_PATH,
            print_starting_message=False,
        )


@contextlib.contextmanager
def _server_errors_named() -> Iterator[None]:
    """Turn errors of the server into a message that the work is kept."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        raise StageError(
            f"Prefect's server: does not answer any more ({type(error).__name__}: {error}); what the stages made is "
            "kept, run the same command to go on"
        ) from error
    except RuntimeError as error:
        if _UNREACHED not in str(error):
            raise
        raise StageError(
            f"Prefect's server: {error}; start it there, or correct PREFECT_API_URL, or leave it unset"
        ) from error
