"""The state of artifacts: one record, which status, dry run and the pages of a run all show."""

import itertools
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.graph import Node
from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_faults
from storage_schemas.columns import OK
from storage_schemas.errors import StorageError
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE
from storage_schemas.status import ArtifactStatus, UnitState

FINISHED, UNFINISHED, NOT_BEGUN, UNREADABLE, WAITING = "finished", "unfinished", "not begun", "unreadable", "waiting"

_ARTIFACT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*-[0-9a-f]{12}")


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
class ArtifactState:
    """The state of one artifact.

    Attributes:
        artifact: ``KIND/NAME-DIGEST``, or ``KIND/NAME`` while the digest is unknown.
        state: One of the five words above.
        reason: Why it is unreadable or waiting; empty otherwise.
        stage: That makes it; empty where it was found in a directory.
        dataset: Key of its data set in the settings; empty where its name says enough.
        units: Number of units by state.
        rows: Rows of the units that are done.
        faulty_rows: Those that are not ``"ok"``.
        odd_units: Units that are not done.
        document_faults: What is wrong with the artifact's own files.
        foreign_files: Files in its directory that belong to no unit.
        changes: Directory of another artifact of the same kind and name to the fields in which it differs; only for
            an artifact that is not finished, for which it is the likely reason.
        todo: Units to make; None if not even an estimate is possible.
        is_estimate: Whether ``todo`` follows from settings and counts of pictures, as an input is not made yet.
        new_bytes: What the units to make will take, about; None if unknown.
    """

    artifact: str
    state: str
    reason: str = ""
    stage: str = ""
    dataset: str = ""
    units: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    faulty_rows: int = 0
    odd_units: tuple[OddUnits, ...] = ()
    document_faults: tuple[str, ...] = ()
    foreign_files: tuple[str, ...] = ()
    changes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    todo: int | None = None
    is_estimate: bool = False
    new_bytes: int | None = None

    def to_json(self) -> dict[str, object]:
        """Return the record as JSON values."""
        return asdict(self)


def state_of(artifact: Artifact, *, status: ArtifactStatus | None = None, deep: bool = False) -> ArtifactState:
    """Return the state of an artifact.

    Args:
        artifact: Planned or on disk.
        status: Of its units, if that is known.
        deep: Hash every file, also those untouched since they were last hashed.
    """
    label = _label(artifact.directory)
    try:
        status = status or artifact.status(deep=deep)
        earlier = {} if status.finished else artifact.earlier()
    except OSError as error:  # its directory is another user's, say; that hides no other artifact
        return ArtifactState(artifact=label, state=UNREADABLE, reason=f"{error.filename}: {error.strerror}")
    sidecars = [unit.sidecar for unit in status.units if unit.sidecar is not None]
    rows = sum(sidecar.rows for sidecar in sidecars)
    return ArtifactState(
        artifact=label,
        state=FINISHED if status.finished else UNFINISHED if artifact.directory.is_dir() else NOT_BEGUN,
        units={state.value: len(status.of_state(state)) for state in UnitState},
        rows=rows,
        faulty_rows=rows - sum(sidecar.counts.get(OK, 0) for sidecar in sidecars),
        # Those in a row with the same state and reason together.
        odd_units=tuple(
            OddUnits(units=tuple(unit.unit for unit in group), state=state.value, reason=reason)
            for (state, reason), group in itertools.groupby(status.units, key=lambda unit: (unit.state, unit.reason))
            if state is not UnitState.DONE
        ),
        document_faults=(*status.document_faults, *(card_faults(artifact) if deep else ())),
        foreign_files=status.foreign_files,
        changes={_label(path): fields for path, fields in earlier.items()},
        todo=len(status.todo),
    )


def state_of_node(node: Node, *, deep: bool = False) -> ArtifactState:
    """Return the state of an artifact of the dataflow, made or not."""
    try:
        artifact = node.artifact
    except (PipelineError, StorageError, OSError) as error:  # an unreadable input hides no other artifact
        return ArtifactState(
            artifact=node.label, state=WAITING, reason=str(error), stage=node.step.stage, dataset=node.setting
        )
    try:
        status = None if deep else node.status()
    except OSError:  # which `state_of` reports
        status = None
    # The artifact of every folder is called "folder", since its name is part of its digest.
    dataset = node.setting if artifact.identity.name.startswith("folder") else ""
    return replace(state_of(artifact, status=status, deep=deep), stage=node.step.stage, dataset=dataset)


def states_of(nodes: Iterable[Node], *, deep: bool = False) -> list[ArtifactState]:
    """Return the states of artifacts of the dataflow.

    None is compared with another one of the same settings, such as the scenes of one folder with those of another: both
    are needed, and neither has changed.
    """
    states = [state_of_node(node, deep=deep) for node in nodes]
    own = {state.artifact for state in states}
    return [
        replace(state, changes={path: fields for path, fields in state.changes.items() if path not in own})
        for state in states
    ]


def states_below(path: Path, *, deep: bool = False) -> list[ArtifactState]:
    """Return the states of all artifacts in a directory: an artifact's own, one of a kind, or a runs directory.

    Raises:
        FileNotFoundError: If there is nothing at the path.
    """
    path.stat()
    places = sorted({path, *path.glob("*/"), *path.glob("*/*/")})
    # An artifact whose first file was lost is still shown, as unreadable: its name or its manifest gives it away.
    marked = {place for place in places if (place / ARTIFACT_FILE).exists() or (place / MANIFEST_FILE).exists()}
    named = {place for place in places if _ARTIFACT_NAME.fullmatch(place.name) and place.is_dir()}
    directories = [place for place in places if place in marked | named and place.parent not in marked | named]
    states = []
    for directory in directories:
        try:
            artifact = Artifact.open(directory)
        except StorageError as error:
            states.append(ArtifactState(artifact=_label(directory), state=UNREADABLE, reason=str(error)))
        else:
            states.append(state_of(artifact, deep=deep))
    return states


def _label(directory: Path) -> str:
    """Name an artifact by the last two parts of its path."""
    return f"{directory.parent.name}/{directory.name}"


def shown_bytes(count: int) -> str:
    """Write a number of bytes with the unit that suits it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} B"
