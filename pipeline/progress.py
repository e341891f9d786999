"""Progress of a run: a bar on a terminal, a log line per unit, the same numbers in ``report.jsonl``."""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Counts units that ended; a context manager.

    Args:
        label: What runs, for the bar and the log (``"prepare coco-train2017"``).
        total: Number of units to do.
        report: File to which one JSON line per unit is appended; it holds times, so it is no part of an artifact.
            Where it cannot be written, the run goes on without it, after a warning.
    """

    def __init__(self, label: str, total: int, report: Path) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._report_path = report
        self._report: FileIO | None = None
        with self._report_errors_logged():
            self._report = report.open("ab", buffering=0)  # a line is one write: no kill leaves half of one
        self._bar: tqdm[Any] = tqdm(total=total, desc=label, unit="unit", disable=not sys.stderr.isatty())
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._report is not None:
            self._report.close()
        self._redirect.__exit__(kind, error, trace)

    def unit(self, unit: str, *, state: str, **numbers: Any) -> None:
        """Report one unit that ended, well or not.

        Args:
            state: ``"done"`` or ``"failed"``.
            **numbers: Seconds on its worker, counts, or the error, as JSON values.
        """
        self._done += 1
        self._bar.update()
        shown = ", ".join(f"{name} {_shown(value)}" for name, value in numbers.items())
        level = logging.INFO if state == "done" else logging.ERROR
        logger.log(level, "%s: %s %s (%d of %d): %s", self._label, unit, state, self._done, self._total, shown)
        self.event(unit=unit, state=state, **numbers)

    def event(self, **values: Any) -> None:
        """Append one line to the report, with the time."""
        line = json.dumps({"time": round(time.time(), 3), "label": self._label, **values}) + "\n"
        if self._report is not None:
            with self._report_errors_logged():
                self._report.write(line.encode())

    @contextlib.contextmanager
    def _report_errors_logged(self) -> Iterator[None]:
        """Log why the report cannot be written, instead of failing the run."""
        try:
            yield
        except OSError as error:
            if self._report is not None:
                self._report.close()
                self._report = None
            logger.warning("%s: cannot be written (%s); the run goes on without it", self._report_path, error)


def _shown(value: object) -> str:
    """Write a number or counts to be read."""
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_shown(count)}" for name, count in value.items()) + ")"
    return f"{value:.1f}" if isinstance(value, float) else str(value)
