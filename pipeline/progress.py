"""What a run tells while it goes: a bar on a terminal, a log line per unit, the same numbers in ``report.jsonl``."""

import json
import logging
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

logger = logging.getLogger(__name__)


class Progress:
    """Counts units off; a context manager.

    Args:
        label: What runs, for the bar and the log (``"prepare coco-train2017"``).
        total: Number of units to do.
        report: File to which one JSON line per unit is appended; it holds times, so it is no part of an artifact.
    """

    def __init__(self, label: str, total: int, report: Path) -> None:
        self._label = label
        self._total = total
        self._done = 0
        self._report = report.open("a", encoding="utf-8")
        self._bar: tqdm[Any] = tqdm(total=total, desc=label, unit="unit", disable=not sys.stderr.isatty())
        self._redirect = logging_redirect_tqdm()

    def __enter__(self) -> Self:
        self._redirect.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._report.close()
        self._redirect.__exit__(kind, error, trace)

    def unit(self, unit: str, *, state: str, **numbers: Any) -> None:
        """Report one unit that ended, well or not.

        Args:
            unit: Its name.
            state: ``"done"`` or ``"failed"``.
            **numbers: Seconds on its worker, counts, or the error, as JSON values.
        """
        self._done += 1
        self._bar.update()
        told = ", ".join(f"{name} {value}" for name, value in numbers.items())
        level = logging.INFO if state == "done" else logging.ERROR
        logger.log(level, "%s: %s %s (%d of %d): %s", self._label, unit, state, self._done, self._total, told)
        self.event(unit=unit, state=state, **numbers)

    def event(self, **values: Any) -> None:
        """Append one line to the report, with the time."""
        self._report.write(json.dumps({"time": round(time.time(), 3), "label": self._label, **values}) + "\n")
        self._report.flush()
