"""What a training run logs: ``metrics.jsonl``, equal bytes for equal runs on a CPU; beside it TensorBoard and trackers.

The metrics of an evaluation are in ``ovseg_models.segmentation_metrics``.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pipeline.settings import TrackerName
from pipeline.training.trackers import Trackers
from storage_schemas.commit import Disk, explained_write_errors, write_file

METRICS_FILE = "metrics.jsonl"


class MetricsLog:
    """Appends one line per event to ``metrics.jsonl``, TensorBoard and trackers; no clock reading goes into the first.

    Args:
        directory: Of ``metrics.jsonl`` and the folder ``tensorboard``.
        step: Step from which the run goes on; lines of later steps, written before a kill, are cut off.
        trackers: Names of the trackers.
        title: What trackers call the run.
    """

    def __init__(self, directory: Path, *, step: int, trackers: Sequence[TrackerName] = (), title: str = "") -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.path = directory / METRICS_FILE
        # A kill may have come after steps that no checkpoint holds; they are taken again, with the same values.
        kept = [line for line in _lines(self.path) if json.loads(line)["step"] <= step]
        write_file(self.path, "".join(kept).encode(), Disk())
        self._file = self.path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(directory / "tensorboard"), purge_step=step + 1)
        self._trackers = Trackers(trackers, directory, title) if trackers else None
        if self._trackers is not None:
            for line in kept:
                self._trackers.log(json.loads(line))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._board.close()
        if self._trackers is not None:
            self._trackers.close(finished=kind is None)

    def write(self, step: int, values: Mapping[str, float], *, group: str = "train") -> None:
        """Record values of one step.

        Args:
            step: Optimizer steps taken.
            values: Numbers by name; one that JSON does not have is null there, such as the gradient's norm of a step
                that fp16's scaler passed over.
            group: ``"train"`` or ``"validation"``.
        """
        numbers = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = {"step": step, "group": group, **numbers}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{group}/{name}", value, step)
        if self._trackers is not None:
            self._trackers.log(line)

    def sync(self) -> None:
        """Flush the lines to the device, before a checkpoint that counts on them.

        Raises:
            WriteError: If the operating system refuses.
        """
        with explained_write_errors(self.path):
            os.fsync(self._file.fileno())

    def rate(self, step: int, samples_per_s: float) -> None:
        """Record how fast the run goes, for TensorBoard alone."""
        self._board.add_scalar("speed/samples_per_s", samples_per_s, step)


def read_metrics(path: Path, group: str) -> list[dict[str, Any]]:
    """Read the lines of one group of ``metrics.jsonl``, in order."""
    documents = (json.loads(line) for line in _lines(path))
    return [document for document in documents if document["group"] == group]


def _lines(path: Path) -> list[str]:
    """Read the whole lines of a file; a last one that a kill cut short is left out."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("\n")]
