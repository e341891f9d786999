"""An artifact: a directory of units, each committed on its own, and a manifest that appears when all are done.

``RUNS/KIND/NAME-DIGEST/`` holds ``artifact.json`` (its description), the files and the sidecar of each unit,
``manifest.json`` (last), and ``_local/`` (lock, log, memory of checks: of this machine only, no part of the artifact).
"""

import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from storage_schemas.commit import (
    Disk,
    StagedFile,
    explained_write_errors,
    make_directories,
    remove_temporaries,
    write_file,
)
from storage_schemas.digests import Json
from storage_schemas.errors import ArtifactError, SchemaError, StorageError
from storage_schemas.lock import held
from storage_schemas.manifest import (
    ARTIFACT_FILE,
    MANIFEST_FILE,
    Description,
    Identity,
    Manifest,
    Sidecar,
)
from storage_schemas.status import (
    LOCAL_DIRECTORY,
    ArtifactStatus,
    UnitState,
    artifact_status,
    changed_fields,
    unit_status,
)
from storage_schemas.verification import VerifiedFiles

logger = logging.getLogger(__name__)

_SUFFIX = re.compile(r"[a-z0-9]+(\.[a-z0-9]+)*")


@dataclass(frozen=True)
class Artifact:
    """One artifact on disk, finished or not. Cheap to make and to send to a worker: it holds no open file.

    Attributes:
        directory: ``RUNS/KIND/NAME-DIGEST``.
        description: Its identity, units and attributes.
        disk: The calls that its commits are made of; tests replace it.
    """

    directory: Path
    description: Description
    disk: Disk = field(default_factory=Disk, repr=False, compare=False)

    @classmethod
    def planned(cls, runs: Path, description: Description, disk: Disk | None = None) -> Self:
        """Return the artifact of a description below a runs directory; nothing is read or written."""
        return cls(description.identity.directory(runs), description, disk or Disk())

    @classmethod
    def open(cls, directory: Path, *, kind: str = "") -> Self:
        """Return the artifact in a directory, finished or not.

        Args:
            directory: ``RUNS/KIND/NAME-DIGEST``.
            kind: Which kind is expected; empty for any.

        Raises:
            ArtifactError: If there is none, or it is of another kind.
            SchemaError: If another version of this project wrote it.
        """
        artifact = cls(directory, Description.read(directory))
        if kind:
            artifact.require(kind)
        return artifact

    def require(self, kind: str, schema_version: int | None = None) -> None:
        """Refuse an artifact of another kind, or of another schema version if one is given.

        Raises:
            ArtifactError: If the kind is another one.
            SchemaError: If the schema version is another one.
        """
        if self.identity.kind != kind:
            found = f"is an artifact of {self.identity.kind}, expected {kind}"
            raise ArtifactError(f"{self.directory}: {found}; give a directory below {kind}/")
        if schema_version not in {None, self.identity.schema_version}:
            found = f"holds {kind} of schema {self.identity.schema_version}, expected schema {schema_version}"
            raise SchemaError(f"{self.directory}: {found}; run the stage that makes it again")

    @property
    def identity(self) -> Identity:
        """What decides the artifact's bytes."""
        return self.description.identity

    @property
    def local_directory(self) -> Path:
        """Directory of the lock, the log and the memory of checks."""
        return self.directory / LOCAL_DIRECTORY

    @contextlib.contextmanager
    def writing(self, *, wait_s: float = 0.0) -> Iterator[None]:
        """Hold the artifact for writing: make its directory and first file, delete what killed writers left.

        Args:
            wait_s: How long to wait for another process that holds it [s].

        Raises:
            HeldError: If another process holds it for longer than that.
            WriteError: If the directory cannot be written to.
        """
        make_directories(self.directory, self.disk)
        with held(self.local_directory, wait_s=wait_s):
            # Whose temporary files these are is known only under the lock: nobody else writes here now.
            remove_temporaries(self.local_directory, self.disk)
            leftovers = remove_temporaries(self.directory, self.disk)
            if leftovers:
                logger.info("%s: deleted %d unfinished files of an interrupted run", self.directory, leftovers)
            self._write_if_changed(ARTIFACT_FILE, self.description.to_json())
            yield

    def write_unit(self, unit: str) -> "UnitWriter":
        """Begin to write one unit, done before or not.

        Raises:
            ArtifactError: If the artifact has no such unit.
        """
        if unit not in self.description.units:
            raise ArtifactError(
                f"{self.directory}: has no unit {unit!r}; its units are {_listed(self.description.units)}"
            )
        return UnitWriter(self, unit)

    def status(self, *, deep: bool = False) -> ArtifactStatus:
        """Return the state of every unit.

        Args:
            deep: Hash every file, also those untouched since they were last hashed.
        """
        files = VerifiedFiles(self.directory, self.local_directory / "verified.json", deep=deep)
        status = artifact_status(self.directory, self.description, files)
        files.remember()
        return status

    def done_among(self, units: Iterable[str]) -> tuple[str, ...]:
        """Return those of some units that are done; cheap where few are, since only their files are checked."""
        files = VerifiedFiles(self.directory, self.local_directory / "verified.json")
        digest = self.identity.digest()
        states = [unit_status(self.directory, unit, digest, files) for unit in units]
        return tuple(status.unit for status in states if status.state is UnitState.DONE)

    def manifest_of(self, sidecars: Mapping[str, Sidecar]) -> Manifest:
        """Put the sidecars of all units together.

        Raises:
            ArtifactError: If one is missing.
        """
        missing = tuple(unit for unit in self.description.units if unit not in sidecars)
        if missing:
            share = f"{len(missing)} of {len(self.description.units)} units"
            raise ArtifactError(f"{self.directory}: {share} are not done: {_listed(missing)}; run the stage again")
        return Manifest(description=self.description, units=tuple(sidecars[unit] for unit in self.description.units))

    def finish(self, manifest: Manifest) -> None:
        """Write the manifest, which says that all units are done.

        Raises:
            WriteError: If the operating system refuses.
        """
        remove_temporaries(self.directory, self.disk)  # of workers that died while the others went on
        self._write_if_changed(MANIFEST_FILE, manifest.to_json())

    def manifest(self, status: ArtifactStatus | None = None) -> Manifest:
        """Return the manifest of a finished artifact, its files checked.

        Args:
            status: What was found of it just before; by default its files are checked now.

        Raises:
            ArtifactError: If the artifact is not finished, or a file is not what its sidecar states.
        """
        status = status or self.status()
        if not status.has_manifest:
            raise ArtifactError(f"{self.directory / MANIFEST_FILE}: is not there; run the stage that makes it")
        for unit in status.units:
            if unit.state is not UnitState.DONE:
                raise ArtifactError(
                    f"{self.directory}: {unit.unit} is {unit.state}: {unit.reason}; run the stage again"
                )
        if status.document_faults:
            raise ArtifactError(f"{self.directory}: {'; '.join(status.document_faults)}; run the stage again")
        return self.manifest_of({unit.unit: unit.sidecar for unit in status.units if unit.sidecar is not None})

    def earlier(self) -> dict[Path, tuple[str, ...]]:
        """Find artifacts of the same kind and name with another digest, and the fields in which they differ.

        For one whose description cannot be read, the reason is given in place of the fields.
        """
        found = {}
        for path in sorted(self.directory.parent.glob(f"{self.identity.name}-*/{ARTIFACT_FILE}")):
            other = path.parent
            if other.name.rpartition("-")[0] != self.identity.name or other.name == self.directory.name:
                continue
            try:
                found[other] = changed_fields(Description.read(other).identity, self.identity)
            except StorageError as error:
                found[other] = (str(error),)
        return found

    def _write_if_changed(self, name: str, data: bytes) -> None:
        """Write one of the artifact's own files unless it has these bytes already, and see to it that it stays."""
        path = self.directory / name
        try:
            changed = path.read_bytes() != data
        except OSError:  # absent or unreadable
            changed = True
        if changed:
            write_file(path, data, self.disk)
        else:  # a writer killed before it synced the directory left a name that a power cut would take back
            with explained_write_errors(path):
                self.disk.sync_directory(self.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """Base of what readers of one kind need beside its rows, such as class names; see `Description.attributes`."""

    kind: ClassVar[str]
    schema_version: ClassVar[int]

    def to_json(self) -> dict[str, Json]:
        """Return the form that ``Description.attributes`` holds."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def of(cls, artifact: Artifact) -> Self:
        """Return the attributes of an artifact.

        Raises:
            ArtifactError: If the artifact is of another kind.
            SchemaError: If it is of another schema version.
        """
        artifact.require(cls.kind, cls.schema_version)
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in artifact.description.attributes.items()
        }
        return cls(**values)


class UnitWriter:
    """Writes the files of one unit and commits them together; left without ``commit`` it leaves nothing believed."""

    def __init__(self, artifact: Artifact, unit: str) -> None:
        self._artifact = artifact
        self._unit = unit
        self._staged: list[StagedFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for staged in self._staged:
            staged.discard()

    def file(self, suffix: str) -> StagedFile:
        """Open the unit's file ``UNIT.SUFFIX`` for writing under a temporary name.

        Raises:
            ArtifactError: If the suffix is taken, or is the sidecar's.
            WriteError: If the operating system refuses; the unit's other files are given up, too.
        """
        target = self._artifact.directory / f"{self._unit}.{suffix}"
        if not _SUFFIX.fullmatch(suffix) or suffix == "json" or target in {staged.target for staged in self._staged}:
            raise ArtifactError(
                f"{target}: cannot be a file of the unit; use lower-case suffixes, each once, but not 'json'"
            )
        try:
            self._staged.append(StagedFile(target, self._artifact.disk))
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self._staged[-1]

    def commit(self, *, rows: int, counts: Mapping[str, int], facts: Mapping[str, Json] | None = None) -> Sidecar:
        """Sync and publish all files, then the sidecar; only with the latter the unit is done.

        Args:
            rows: Number of rows, failed ones included.
            counts: Rows per status; they add up to ``rows``.
            facts: Small facts of the unit for later summing up.

        Raises:
            ArtifactError: If the counts do not add up.
            WriteError: If the operating system refuses.
        """
        artifact = self._artifact
        sidecar = Sidecar(
            unit=self._unit,
            artifact_digest=artifact.identity.digest(),
            files=tuple(sorted((staged.seal() for staged in self._staged), key=lambda record: record.name)),
            rows=rows,
            counts=dict(counts),
            facts=dict(facts or {}),
        )
        # All files are sealed before the first is published, so that a full disk is found while nothing is replaced. A
        # published file leaves the list: if a later rename fails, only those that are still temporary are deleted.
        while self._staged:
            self._staged[0].publish()
            del self._staged[0]
        with explained_write_errors(artifact.directory):
            artifact.disk.sync_directory(artifact.directory)
        # Last: whoever finds the sidecar may believe that all files of the unit are there.
        write_file(artifact.directory / f"{self._unit}.json", sidecar.to_json(), artifact.disk)
        return sidecar


def artifacts_below(runs: Path, kind: str = "*") -> list[Artifact]:
    """Return all artifacts below a runs directory, in order of kind and directory name."""
    return [Artifact.open(path.parent) for path in sorted(runs.glob(f"{kind}/*/{ARTIFACT_FILE}"))]


def _listed(names: tuple[str, ...]) -> str:
    """Write a few names of many."""
    return ", ".join(names) if len(names) <= 4 else f"{names[0]} to {names[-1]} ({len(names)})"
