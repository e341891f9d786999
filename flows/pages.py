"""Prefect's pages as a stage sees them: what it shows there is a courtesy, without which the work goes on."""

import logging
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from flows.prefect_server import answers
from pipeline.interrupts import held_back

logger = logging.getLogger(__name__)

Shown = TypeVar("Shown")


class Pages:
    """Takes what is to be shown, as long as the server does.

    Prefect's client tries for seconds to reach a server that has gone away; so once it did not take something, nothing
    more is sent until it is seen to answer.
    """

    def __init__(self) -> None:
        self._missed = False

    def show(self, send: Callable[[], Shown]) -> Shown | None:
        """Send something to the server; returns what that returned, or None if the server doesn't take it."""
        with held_back():
            if self._missed and not answers(PREFECT_API_URL.value() or ""):
                return None
            try:
                shown = send()
            except (httpx.HTTPError, PrefectException) as error:
                logger.warning("the Prefect server did not take what is to be shown (%s); the work goes on", error)
                self._missed = True
                return None
            self._missed = False
            return shown
