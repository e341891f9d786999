"""The state of an artifact's units: done, stale, missing or corrupt, each with the reason."""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from storage_schemas.commit import TEMPORARY_PREFIX
from storage_schemas.digests import Json, canonical_json
from storage_schemas.errors import StorageError
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE, Description, Identity, Manifest, Sidecar
from storage_schemas.verification import VerifiedFiles

LOCAL_DIRECTORY = "_local"
CARD_DIRECTORY = "card"
README_FILE = "README.md"
"""Reports on a finished artifact, and the one that tools look for at its root; see `storage_schemas.cards`."""
PAGE_SUFFIX = "html"
"""Of the page of a unit, which says when it was made, and so is no part of the unit; see `storage_schemas.reports`."""
AUDIT_DIRECTORY = "audit"
"""What people found in an artifact; see `storage_schemas.verdicts`."""


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
    """The states of all units, and the files of the directory that belong to none of them.

    Attributes:
        units: One status per unit, in order.
        foreign_files: Names of files that neither a sidecar nor the artifact itself lists. Nobody reads them.
        has_manifest: Whether ``manifest.json`` is there.
        document_faults: How ``artifact.json`` and ``manifest.json`` differ from what they have to state.
    """

    units: tuple[UnitStatus, ...]
    foreign_files: tuple[str, ...]
    has_manifest: bool
    document_faults: tuple[str, ...] = ()

    def of_state(self, state: UnitState) -> tuple[UnitStatus, ...]:
        """Return the units in one state, in order."""
        return tuple(status for status in self.units if status.state is state)

    @property
    def todo(self) -> tuple[str, ...]:
        """Names of the units that are not done, in order."""
        return tuple(status.unit for status in self.units if status.state is not UnitState.DONE)

    @property
    def finished(self) -> bool:
        """Whether every unit is done, and the manifest is there and says so."""
        return self.has_manifest and not self.todo and not self.document_faults


def unit_status(directory: Path, unit: str, artifact_digest: str, files: VerifiedFiles) -> UnitStatus:
    """Return the state of one unit, from its sidecar and its files."""
    path = directory / f"{unit}.json"
    if not path.exists():
        return UnitStatus(unit, UnitState.MISSING, "it has no sidecar")
    try:
        sidecar = Sidecar.read(path)
    except StorageError as error:
        return UnitStatus(unit, UnitState.CORRUPT, str(error))
    # Before the files: those of other settings may be sound, and are not this artifact's.
    if sidecar.artifact_digest != artifact_digest:
        found, expected = sidecar.artifact_digest[:12], artifact_digest[:12]
        return UnitStatus(unit, UnitState.STALE, f"its sidecar is of settings {found}, this artifact is of {expected}")
    if sidecar.unit != unit:
        return UnitStatus(unit, UnitState.CORRUPT, f"its sidecar is of unit {sidecar.unit!r}")
    try:
        faults = [fault for record in sidecar.files if (fault := files.fault(record))]
    except OSError as error:
        faults = [f"cannot be read: {error}"]
    if faults:
        return UnitStatus(unit, UnitState.CORRUPT, "; ".join(faults))
    return UnitStatus(unit, UnitState.DONE, sidecar=sidecar)


def artifact_status(directory: Path, description: Description, files: VerifiedFiles) -> ArtifactStatus:
    """Return the state of every unit and of the artifact's own files, and which files are foreign."""
    digest = description.identity.digest()
    statuses = tuple(unit_status(directory, unit, digest, files) for unit in description.units)
    return ArtifactStatus(
        units=statuses,
        foreign_files=_foreign_files(directory, statuses),
        has_manifest=(directory / MANIFEST_FILE).exists(),
        document_faults=tuple(_document_faults(directory, description, statuses)),
    )


def _document_faults(directory: Path, description: Description, statuses: tuple[UnitStatus, ...]) -> Iterator[str]:
    """Compare the artifact's own files with what they have to state, once there is anything to state."""
    sidecars = tuple(status.sidecar for status in statuses if status.sidecar is not None)
    if sidecars and not (directory / ARTIFACT_FILE).exists():
        yield f"{ARTIFACT_FILE} is missing"
    expected = {ARTIFACT_FILE: description.to_json()}
    if len(sidecars) == len(statuses):  # else the manifest is not due yet
        expected[MANIFEST_FILE] = Manifest(description=description, units=sidecars).to_json()
    for name, data in expected.items():
        try:
            if (directory / name).read_bytes() != data:
                yield f"{name} is not what the units and settings require"
        except FileNotFoundError:
            continue
        except OSError as error:
            yield f"{name} cannot be read: {error}"


def _foreign_files(directory: Path, statuses: tuple[UnitStatus, ...]) -> tuple[str, ...]:
    """Return the names of files that are neither the artifact's own nor about to be written over."""
    units = {status.unit for status in statuses}
    unfinished = {status.unit for status in statuses if status.sidecar is None}
    known = {ARTIFACT_FILE, MANIFEST_FILE, LOCAL_DIRECTORY, CARD_DIRECTORY, README_FILE, AUDIT_DIRECTORY}
    known |= {f"{unit}.{suffix}" for unit in units for suffix in ("json", PAGE_SUFFIX)}
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
        ("producer_version", old.producer_version, new.producer_version),
        ("settings", old.settings, new.settings),
        ("inputs", old.inputs, new.inputs),
    ):
        changes.extend(_differences(label, before, after))
    return tuple(changes)


def _differences(label: str, before: Json, after: Json) -> list[str]:
    """List where two JSON values differ, descending into objects."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        differences = []
        for key in sorted(before.keys() | after.keys()):
            if key not in before or key not in after:
                differences.append(f"{label}.{key}: {_shown(before, key)} -> {_shown(after, key)}")
            else:
                differences.extend(_differences(f"{label}.{key}", before[key], after[key]))
        return differences
    old, new = canonical_json(before).decode(), canonical_json(after).decode()
    return [] if old == new else [f"{label}: {old} -> {new}"]


def _shown(values: Mapping[str, Json], key: str) -> str:
    """Write a value that one of two objects may not have."""
    return canonical_json(values[key]).decode() if key in values else "absent"
