"""The state of an artifact's units: done, stale, missing or corrupt, each with the reason."""

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage_schemas.commit import TEMPORARY_PREFIX
from storage_schemas.digests import Json
from storage_schemas.errors import StorageError
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE, Identity, Sidecar
from storage_schemas.verification import VerifiedFiles

LOCAL_DIRECTORY = "_local"


class UnitState(enum.StrEnum):
    """What is known of a unit."""

    DONE = "done"
    STALE = "stale"
    MISSING = "missing"
    CORRUPT = "corrupt"


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One unit's state.

    Attributes:
        unit: Name of the unit.
        state: What is known of it.
        reason: Why it is not done; empty if it is.
        sidecar: What it states of itself, if it is done.
    """

    unit: str
    state: UnitState
    reason: str = ""
    sidecar: Sidecar | None = None


@dataclass(frozen=True, slots=True)
class ArtifactStatus:
    """The states of all units, and what lies in the directory that belongs to none of them.

    Attributes:
        units: One status per unit, in order.
        foreign_files: Names of files that no sidecar, nor the artifact itself, speaks of. Nobody reads them.
        has_manifest: Whether ``manifest.json`` lies there.
    """

    units: tuple[UnitStatus, ...]
    foreign_files: tuple[str, ...]
    has_manifest: bool

    def of_state(self, state: UnitState) -> tuple[UnitStatus, ...]:
        """Return the units in one state, in order."""
        return tuple(status for status in self.units if status.state is state)

    @property
    def todo(self) -> tuple[str, ...]:
        """Names of the units that are not done, in order."""
        return tuple(status.unit for status in self.units if status.state is not UnitState.DONE)

    @property
    def finished(self) -> bool:
        """Whether every unit is done and the manifest lies there."""
        return self.has_manifest and not self.todo


def unit_status(directory: Path, unit: str, artifact_digest: str, files: VerifiedFiles) -> UnitStatus:
    """Find out the state of one unit from its sidecar and its files."""
    path = directory / f"{unit}.json"
    if not path.exists():
        return UnitStatus(unit, UnitState.MISSING, "it has no sidecar")
    try:
        sidecar = Sidecar.read(path)
    except StorageError as error:
        return UnitStatus(unit, UnitState.CORRUPT, str(error))
    if sidecar.artifact_digest != artifact_digest:
        found, wanted = sidecar.artifact_digest[:12], artifact_digest[:12]
        return UnitStatus(unit, UnitState.STALE, f"its sidecar is of settings {found}, this artifact is of {wanted}")
    if sidecar.unit != unit:
        return UnitStatus(unit, UnitState.CORRUPT, f"its sidecar speaks of unit {sidecar.unit!r}")
    try:
        faults = [fault for record in sidecar.files if (fault := files.fault(record))]
    except OSError as error:
        faults = [f"cannot be read: {error}"]
    if faults:
        return UnitStatus(unit, UnitState.CORRUPT, "; ".join(faults))
    return UnitStatus(unit, UnitState.DONE, sidecar=sidecar)


def artifact_status(
    directory: Path, units: Iterable[str], artifact_digest: str, files: VerifiedFiles
) -> ArtifactStatus:
    """Find out the state of every unit, and which files are foreign."""
    statuses = tuple(unit_status(directory, unit, artifact_digest, files) for unit in units)
    return ArtifactStatus(statuses, _foreign_files(directory, statuses), (directory / MANIFEST_FILE).exists())


def _foreign_files(directory: Path, statuses: tuple[UnitStatus, ...]) -> tuple[str, ...]:
    """Name what lies in the directory beside the artifact's own files and those that will be written over."""
    units = {status.unit for status in statuses}
    unfinished = {status.unit for status in statuses if status.sidecar is None}
    known = {ARTIFACT_FILE, MANIFEST_FILE, LOCAL_DIRECTORY} | {f"{unit}.json" for unit in units}
    for status in statuses:
        if status.sidecar is not None:
            known.update(record.name for record in status.sidecar.files)
    present = sorted(entry.name for entry in directory.iterdir()) if directory.is_dir() else []
    return tuple(
        name
        for name in present
        if name not in known and not name.startswith(TEMPORARY_PREFIX) and name.split(".")[0] not in unfinished
    )


def changed_fields(old: Identity, new: Identity) -> tuple[str, ...]:
    """Name the fields in which two identities of one kind and name differ, as ``field: old -> new``."""
    changes = []
    for label, before, after in (
        ("schema_version", old.schema_version, new.schema_version),
        ("recipe", old.recipe, new.recipe),
        ("settings", old.settings, new.settings),
        ("inputs", old.inputs, new.inputs),
    ):
        changes.extend(_differences(label, before, after))
    return tuple(changes)


def _differences(label: str, before: Json, after: Json) -> list[str]:
    """List where two JSON values differ, descending into objects."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = sorted(before.keys() | after.keys())
        return [line for key in keys for line in _differences(f"{label}.{key}", before.get(key), after.get(key))]
    return [] if before == after else [f"{label}: {before!r} -> {after!r}"]
