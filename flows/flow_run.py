"""Starts the flow in this process, or offers it to Prefect's pages; the environment is to be set before the import."""

import contextlib
from collections.abc import Iterator

import httpx
from prefect.events.clients import PrefectEventsClient
from prefect.events.worker import EventsWorker
from prefect.exceptions import PrefectException
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_KEY
from prefect.types.entrypoint import EntrypointType

from flows.ovseg_flow import ovseg_flow
from pipeline.errors import StageError
from pipeline.interrupts import held_back
from pipeline.settings import Settings, settings_document
from pipeline.stage_names import StageName

_SEND_LIMIT_S = 10.0

# After these Prefect waits a second before each, and again for each event that it holds: with a server that has gone
# away, a run of many units would end hours later.
_IMMEDIATE_ATTEMPTS = 2

# What Prefect says, in an error of no type of its own, of a server that it has not reached once.
_UNREACHED = "Failed to reach API"


def run_flow(settings: Settings, from_stage: StageName, only_stage: StageName | None, variant: str = "") -> None:
    """Run the flow, and wait until the server has been told all of it.

    Raises:
        PipelineError: If a stage fails, or the server goes away.
    """
    if not PREFECT_API_KEY.value():  # which Prefect Cloud wants, and another client
        EventsWorker.set_client_override(PrefectEventsClient, reconnection_attempts=_IMMEDIATE_ATTEMPTS)
    with held_back():  # the flow lets it through where that does no harm
        try:
            with _server_errors_told():
                ovseg_flow(settings, from_stage, only_stage, variant)
        finally:
            APILogWorker.drain_all(timeout=_SEND_LIMIT_S)
            EventsWorker.drain_all(timeout=_SEND_LIMIT_S)


def serve_flow(settings: Settings) -> None:
    """Offer runs until this process is stopped.

    Raises:
        PipelineError: If the server goes away.
    """
    with _server_errors_told():
        ovseg_flow.serve(
            name=settings.name,
            parameters={"settings": settings_document(settings)},
            description="From data sets to scores: all that is not done.",
            entrypoint_type=EntrypointType.MODULE_PATH,
            print_starting_message=False,
        )


@contextlib.contextmanager
def _server_errors_told() -> Iterator[None]:
    """Say that the server is the trouble, and not the work."""
    try:
        yield
    except (httpx.HTTPError, PrefectException) as error:
        message = (
            f"Prefect's server: does not answer any more ({type(error).__name__}: {error}); what the stages made is "
            "kept, run the same command to go on"
        )
        raise StageError(message) from error
    except RuntimeError as error:
        if _UNREACHED not in str(error):
            raise
        message = f"Prefect's server: {error}; start it there, or correct PREFECT_API_URL, or leave it unset"
        raise StageError(message) from error
