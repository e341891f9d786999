"""What a stage has to show when it ends: its counts, and those files of its artifacts that are made for people."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.planning import PlannedArtifact
from storage_schemas.artifact import Artifact
from storage_schemas.files_for_people import PAGES, PICTURES, FileForPeople, files_for_people
from storage_schemas.scenes import OK
from storage_schemas.status import ArtifactStatus

_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture.

    Attributes:
        title: What it shows.
        media_type: Such as ``"image/png"``.
        content: The file's bytes.
    """

    title: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """A text in Markdown.

    Attributes:
        title: What it is about.
        markdown: The text.
    """

    title: str
    markdown: str


@dataclass(frozen=True, slots=True)
class Page:
    """An HTML page that stands alone.

    Attributes:
        title: What it is about.
        path: Where it lies.
    """

    title: str
    path: Path


Exhibit = Picture | Text | Page


def exhibits_of(artifact: Artifact) -> Iterator[Exhibit]:
    """Yield what an artifact has to show.

    Raises:
        CorruptUnitError: If a file has just vanished.
    """
    for file in files_for_people(artifact):
        yield _exhibit(file)


def _exhibit(file: FileForPeople) -> Exhibit:
    """Read a file as far as it is shown."""
    if file.suffix in PICTURES:
        return Picture(file.title, _MEDIA_TYPES[file.suffix], file.read())
    if file.suffix in PAGES:
        return Page(file.title, file.path.absolute())
    return Text(file.title, file.read().decode("utf-8", errors="replace"))


def state_table(planned: Iterable[PlannedArtifact]) -> list[dict[str, object]]:
    """Return one row per artifact: whether it is finished, how many of its units are done, rows, those not ok."""
    return [_state_row(plan) for plan in planned]


def _state_row(plan: PlannedArtifact) -> dict[str, object]:
    if plan.artifact is None:
        return {"artifact": plan.label, "state": "waiting", "reason": plan.reason}
    status = plan.artifact.status()
    sidecars = [unit.sidecar for unit in status.units if unit.sidecar is not None]
    rows = sum(sidecar.rows for sidecar in sidecars)
    return {
        "artifact": f"{plan.artifact.directory.parent.name}/{plan.artifact.directory.name}",
        "state": "finished" if status.finished else "unfinished",
        "units": len(status.units),
        "done": len(sidecars),
        "rows": rows,
        "rows not ok": rows - sum(sidecar.counts.get(OK, 0) for sidecar in sidecars),
    }


@dataclass(slots=True)
class UnitCounts:
    """Counts of units of a stage's artifacts, before and after it ran.

    Attributes:
        done_before: Units that were done when the stage began, by artifact directory.
        failed: Units that failed, by artifact directory.
    """

    done_before: dict[Path, int] = field(default_factory=dict)
    failed: dict[Path, int] = field(default_factory=dict)

    def look_before(self, planned: Iterable[PlannedArtifact]) -> None:
        """Note what is done already."""
        for plan in planned:
            if plan.artifact is not None:
                self.done_before[plan.artifact.directory.absolute()] = _done(plan.artifact.status())

    def table(self, planned: Iterable[PlannedArtifact]) -> list[dict[str, object]]:
        """Return one row per artifact as it is now: units skipped, made, failed and to do, rows, those not ok."""
        return [self._row(plan) for plan in planned]

    def _row(self, plan: PlannedArtifact) -> dict[str, object]:
        row = _state_row(plan)
        if plan.artifact is None:
            return row
        place, status = plan.artifact.directory.absolute(), plan.artifact.status()
        before, failed = self.done_before.get(place, 0), self.failed.get(place, 0)
        done = _done(status)
        counts = {"skipped": min(before, done), "made": max(0, done - before)}
        return {**row, **counts, "failed": failed, "to do": len(status.todo) - failed}


def _done(status: ArtifactStatus) -> int:
    return len(status.units) - len(status.todo)
