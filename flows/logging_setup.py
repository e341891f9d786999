"""Logging of the command line: one line per event on stderr, so that stdout holds results alone."""

import logging
import sys
from typing import Any, TextIO

from pipeline.visible_text import visible

LEVELS = ("debug", "info", "warning", "error")

_OWN_PACKAGES = ("storage_schemas", "ovseg_models", "pipeline", "flows")


def configure_logging(level: str) -> None:
    """Send log records to stderr: those of this project from a level on, those of libraries from warnings on.

    Progress bars need no handler: they appear only where stderr is a terminal, and lift log lines above them.

    Args:
        level: One of ``LEVELS``.
    """
    handler = logging.StreamHandler(sys.stderr)
    if level != "debug":
        handler.addFilter(_is_for_users)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(levelname)-7s %(message)s", datefmt="%Y-%m-%d %H:%M:%S"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    for package in _OWN_PACKAGES:
        logging.getLogger(package).setLevel(level.upper())
    logging.captureWarnings(True)
    logging.setLogRecordFactory(VisibleRecord)


def _is_for_users(record: logging.LogRecord) -> bool:
    """Leave out what libraries say of events that this project logs itself.

    That is all of Prefect, whose pages show it, and the tracebacks of Dask's own event loop.
    """
    package = record.name.partition(".")[0]
    logged_by_us = package == "prefect" or (package == "distributed" and record.exc_info)
    return record.levelno >= logging.CRITICAL or not logged_by_us


class VisibleRecord(logging.LogRecord):
    """A record whose message has no control characters, for every handler: Prefect's pages and files get it so too."""

    def getMessage(self) -> str:  # noqa: N802 - the name that logging gives it
        """Return the message."""
        return visible(super().getMessage())


class VisibleStream:
    """A text stream without control characters, whatever names are printed on it.

    Args:
        stream: What is written to; all else of it stays.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write a text."""
        self._stream.write(visible(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class OneLineFormatter(logging.Formatter):
    """Writes a message of several lines as one, so that a log can be read and searched line by line."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; the lines of a traceback, where there is one, stay lines."""
        text = visible(super().format(record))
        return text if record.exc_info else " | ".join(text.splitlines())
