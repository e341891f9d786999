"""What ``ovseg status`` tells of artifacts: a report per artifact, as text or JSON."""

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_faults
from storage_schemas.errors import StorageError
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE
from storage_schemas.status import ArtifactStatus, UnitState, UnitStatus
from storage_schemas.text_embeddings import KIND as TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from pipeline.planning import PlannedArtifact

FINISHED, UNFINISHED, NOT_BEGUN, UNREADABLE, WAITING = "finished", "unfinished", "not begun", "unreadable", "waiting"

_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{12}")
_COLUMNS = ("artifact", "state", *UnitState)


@dataclass(frozen=True, slots=True, kw_only=True)
class OddUnits:
    """Units in a row that are not done for the same reason.

    Attributes:
        units: Their names, in order.
        state: What is known of them.
        reason: Why they are not done.
    """

    units: tuple[str, ...]
    state: str
    reason: str

    @property
    def label(self) -> str:
        """The name of one unit, or the first and last of several."""
        return self.units[0] if len(self.units) == 1 else f"{self.units[0]} to {self.units[-1]} ({len(self.units)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactReport:
    """What is known of one artifact.

    Attributes:
        artifact: ``KIND/NAME-DIGEST``, or ``KIND/NAME`` while the digest cannot be known.
        state: One of the five words above.
        reason: Why it is unreadable or waiting; empty otherwise.
        units: Number of units by state.
        odd_units: Those that are not done.
        document_faults: What is wrong with the artifact's own files.
        foreign_files: Files in its directory that nobody reads.
        changes: Directory of another artifact of the same kind and name to the fields in which it differs; only for
            an artifact that is not finished, for which it is the likely reason.
        dataset: What the settings call the folder whose scenes these are; empty for all else.
    """

    artifact: str
    state: str
    reason: str = ""
    units: dict[str, int] = field(default_factory=dict)
    odd_units: tuple[OddUnits, ...] = ()
    document_faults: tuple[str, ...] = ()
    foreign_files: tuple[str, ...] = ()
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    dataset: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return asdict(self)


def report_of(artifact: Artifact, *, deep: bool = False) -> ArtifactReport:
    """Find out what is known of an artifact.

    Args:
        artifact: Planned or on disk.
        deep: Hash every file, also those untouched since they were last hashed.
    """
    label = _label(artifact.directory)
    try:
        status = artifact.status(deep=deep)
        earlier = {} if status.finished else artifact.earlier()
    except OSError as error:  # its directory is another user's, say; that hides no other artifact
        return ArtifactReport(artifact=label, state=UNREADABLE, reason=f"{error.filename}: {error.strerror}")
    return ArtifactReport(
        artifact=label,
        state=_state(artifact, status),
        units={state.value: len(status.of_state(state)) for state in UnitState},
        odd_units=tuple(_odd_units(status.units)),
        document_faults=(*status.document_faults, *(card_faults(artifact) if deep else ())),
        foreign_files=status.foreign_files,
        changes={_label(path): fields for path, fields in earlier.items()},
    )


def reports_below(path: Path, *, deep: bool = False) -> list[ArtifactReport]:
    """Report on all artifacts in a directory: an artifact's own, one of a kind, or a runs directory.

    Raises:
        FileNotFoundError: If there is nothing at the path.
    """
    path.stat()
    places = sorted({path, *path.glob("*/"), *path.glob("*/*/")})
    # What says what an artifact is may be gone: its directory's name, or its manifest, gives it away.
    marked = {place for place in places if (place / ARTIFACT_FILE).exists() or (place / MANIFEST_FILE).exists()}
    named = {place for place in places if _ARTIFACT_NAME.fullmatch(place.name) and place.is_dir()}
    directories = [place for place in places if place in marked | named and place.parent not in marked | named]
    reports = []
    for directory in directories:
        try:
            artifact = Artifact.open(directory)
        except StorageError as error:
            reports.append(ArtifactReport(artifact=_label(directory), state=UNREADABLE, reason=str(error)))
        else:
            reports.append(report_of(artifact, deep=deep))
    return reports


def as_text(reports: Sequence[ArtifactReport]) -> str:
    """Write reports as a table, with the details of each below its row."""
    rows = [_COLUMNS, *(_row(report) for report in reports)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [_aligned(rows[0], widths)]
    for report, row in zip(reports, rows[1:], strict=True):
        lines.append(_aligned(row, widths))
        lines.extend(f"    {line}" for line in _details(report))
    return "\n".join(lines) + "\n"


def reports_of_plans(plans: "Iterable[PlannedArtifact]", *, deep: bool = False) -> list[ArtifactReport]:
    """Report on the artifacts that settings imply, made or not.

    None is compared with another one of the same settings, such as the scenes of one folder with those of another: both
    are wanted, and neither has changed.
    """
    plans = list(plans)
    wanted = {_label(plan.artifact.directory) for plan in plans if plan.artifact is not None}
    reports = []
    for plan in plans:
        if plan.artifact is None:
            reports.append(ArtifactReport(artifact=plan.label, state=WAITING, reason=plan.reason))
            continue
        report = report_of(plan.artifact, deep=deep)
        changes = {directory: fields for directory, fields in report.changes.items() if directory not in wanted}
        reports.append(replace(report, changes=changes, dataset=plan.dataset))
    return reports


def _row(report: ArtifactReport) -> tuple[str, ...]:
    """Return a report's row of the table."""
    name = f"{report.artifact} ({report.dataset})" if report.dataset else report.artifact
    return (name, report.state, *(str(report.units.get(state, "-")) for state in UnitState))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    """Write a row with words to the left and numbers to the right."""
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(words + numbers)


def _details(report: ArtifactReport) -> list[str]:
    """List what is odd about an artifact, and what has changed since another of its name."""
    lines = [report.reason] if report.reason else []
    if report.artifact.startswith(f"{TEXT_EMBEDDINGS}/") and report.state == UNFINISHED:
        lines.append("not needed by finished pairs; mining makes what it needs of it again")
    if report.state != NOT_BEGUN:
        lines += [f"{odd.label}: {odd.state}, {odd.reason}" for odd in report.odd_units]
    lines += report.document_faults
    lines += [f"{name}: foreign file, nobody reads it" for name in report.foreign_files]
    for directory, fields in report.changes.items():
        lines.append(f"differs from {directory} in")
        lines += [f"    {change}" for change in fields]
    return lines


def _odd_units(statuses: Iterable[UnitStatus]) -> list[OddUnits]:
    """Gather the units that are not done, those in a row with the same state and reason together."""
    return [
        OddUnits(units=tuple(status.unit for status in group), state=state.value, reason=reason)
        for (state, reason), group in itertools.groupby(statuses, key=lambda status: (status.state, status.reason))
        if state is not UnitState.DONE
    ]


def _state(artifact: Artifact, status: ArtifactStatus) -> str:
    """Name the state of an artifact as a whole."""
    if not artifact.directory.is_dir():
        return NOT_BEGUN
    return FINISHED if status.finished else UNFINISHED


def _label(directory: Path) -> str:
    """Name an artifact by the last two parts of its path."""
    return f"{directory.parent.name}/{directory.name}"
