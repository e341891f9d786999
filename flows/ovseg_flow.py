"""The Prefect flow: the stages in the order of the dataflow, each of them as far as it is not done.

    official data sets ─ prepare ─────────► scenes
    scenes(labels) ───── train-proposals ─► proposal_net
    scenes, net, CLIP ── mine ────────────► proposals, embeddings, pairs
    pairs, CLIP ──────── finetune ────────► adapted_clip
    scenes, both nets ── evaluate ────────► scores, report

What is done is read from the artifacts' manifests, not from Prefect; so the flow can be killed at any moment, on any
machine, and begun again. The order, what each stage reads and how it is run are told by ``pipeline.stages``.
"""

import contextlib
import logging
from collections.abc import Iterator

from prefect import Flow, flow
from prefect.logging.handlers import APILogHandler

from flows.stage_board import StageBoard, show_run
from flows.unit_tasks import UnitTasks
from pipeline.interrupts import let_through
from pipeline.settings import Settings, check_references
from pipeline.stage_names import StageName
from pipeline.stages import Stage, chosen_stages
from pipeline.supervision import supervised_by

logger = logging.getLogger(__name__)

_OWN_PACKAGES = ("storage_schemas", "pipeline", "flows")


@flow(name="ovseg", flow_run_name="{settings.name}", persist_result=False)
def ovseg_flow(settings: Settings, from_stage: StageName = "prepare", only_stage: StageName | None = None) -> None:
    """Do all that is not done, from data sets to scores.

    Args:
        settings: Of the run; docs/settings.md explains each of them.
        from_stage: The stage to begin with; those before it have to be done.
        only_stage: The one stage to run.

    Raises:
        SettingsError: If the settings name data sets that they don't describe.
        PipelineError: If a stage fails, or has not what it reads.
    """
    with _log_shown():
        check_references(settings)
        stages = list(chosen_stages(from_stage, only_stage))
        try:
            for stage in stages:
                with let_through():
                    done = stage.is_done(settings)
                if done:
                    logger.info("%s: done before", stage.name)
                else:
                    _stage_flow(stage)(settings)
        finally:
            show_run(stages, settings)


def _stage_flow(stage: Stage) -> Flow[[Settings], None]:
    """Make the flow of one stage, whose units are its task runs."""

    def run_stage(settings: Settings) -> None:
        with let_through():
            board = StageBoard(stage, settings)
        try:
            with supervised_by(UnitTasks(settings.flow, board)), let_through():
                stage.run(settings)
        finally:
            board.close()

    make_flow = flow(name=f"ovseg {stage.name}", flow_run_name=f"{stage.name} {{settings.name}}", persist_result=False)
    return make_flow(run_stage)


@contextlib.contextmanager
def _log_shown() -> Iterator[None]:
    """Send the project's log to Prefect, too, for the runs in which its lines are written."""
    handler = APILogHandler()
    loggers = [logging.getLogger(package) for package in _OWN_PACKAGES]
    for package_logger in loggers:
        package_logger.addHandler(handler)
        if package_logger.level == logging.NOTSET:  # in runs that are started from the pages
            package_logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for package_logger in loggers:
            package_logger.removeHandler(handler)
