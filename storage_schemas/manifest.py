"""What an artifact says of itself: its identity, a sidecar per unit, and a manifest that appears last.

All three are JSON files with sorted keys and no clock, host name or path in them, so that equal work gives equal bytes,
and each carries a digest of itself, so that damage to any byte of them shows.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from storage_schemas.digests import SEAL, FileRecord, Json, sealed_json, sha256_of_json
from storage_schemas.errors import ArtifactError, SchemaError

ARTIFACT_FILE = "artifact.json"
MANIFEST_FILE = "manifest.json"
FORMAT = 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
_RESERVED = frozenset({Path(ARTIFACT_FILE).stem, Path(MANIFEST_FILE).stem})
_DIGEST_CHARACTERS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What decides an artifact's bytes; equal identities mean equal artifacts.

    Attributes:
        kind: Artifact kind, also the name of its directory below the runs directory (``"scenes"``).
        name: The user's name for it (``"coco-train2017"``); letters, digits, ``_`` and ``-``.
        schema_version: Version of the kind's columns and files.
        producer_version: Number beside the stage's code; raised when equal settings and inputs give another result.
        settings: The settings that change the result, and no others.
        inputs: Role of each input artifact to its manifest's digest.
    """

    kind: str
    name: str
    schema_version: int
    producer_version: int
    settings: Mapping[str, Json]
    inputs: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for label, value in (("kind", self.kind), ("name", self.name)):
            if not _NAME.fullmatch(value):
                raise ArtifactError(f"artifact {label}: {value!r} is no such name; use letters, digits, '_' and '-'")

    def digest(self) -> str:
        """Return the sha256 of the identity and the storage format; directory names carry its first part."""
        return sha256_of_json({"format": FORMAT, **self.to_json()})

    def to_json(self) -> dict[str, Json]:
        """Return the stored form, which calls the producer version "recipe"."""
        stored = asdict(self)
        return {"recipe": stored.pop("producer_version"), **stored}

    @classmethod
    def of_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the identity of a stored form.

        Raises:
            TypeError: If it is none.
        """
        return cls(**{"producer_version" if name == "recipe" else name: value for name, value in stored.items()})

    def directory(self, runs: Path) -> Path:
        """Return the artifact's directory below a runs directory: ``KIND/NAME-DIGEST``."""
        return runs / self.kind / f"{self.name}-{self.digest()[:_DIGEST_CHARACTERS]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The first file of an artifact, written before any unit.

    Attributes:
        identity: What decides its bytes.
        units: Names of all its units, in order. They follow from the identity.
        attributes: What every reader of the artifact needs beside its rows, such as class names.
    """

    identity: Identity
    units: tuple[str, ...]
    attributes: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for unit in self.units:
            if not _NAME.fullmatch(unit) or unit in _RESERVED:
                rule = f"use letters, digits, '_' and '-', and none of {sorted(_RESERVED)}"
                raise ArtifactError(f"unit name: {unit!r} is reserved or no such name; {rule}")
        if len(set(self.units)) != len(self.units):
            raise ArtifactError(
                f"units: {len(self.units)} names, {len(set(self.units))} of them distinct; give each a name of its own"
            )

    def to_json(self) -> bytes:
        """Encode for ``artifact.json``."""
        return sealed_json(
            {
                "format": FORMAT,
                "identity": self.identity.to_json(),
                "digest": self.identity.digest(),
                "units": list(self.units),
                "attributes": self.attributes,
            }
        )

    @classmethod
    def read(cls, directory: Path) -> "Description":
        """Read ``artifact.json`` of an artifact's directory.

        Raises:
            ArtifactError: If the file is absent or damaged.
            SchemaError: If another version of this project wrote it.
        """
        path = directory / ARTIFACT_FILE
        document = read_document(path)
        try:
            identity = Identity.of_json(document["identity"])
            return cls(identity=identity, units=tuple(document["units"]), attributes=document["attributes"])
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{path}: describes no artifact ({error}); run the stage again, which writes it anew"
            ) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Sidecar:
    """What a unit states of itself once all its files have their final names.

    Attributes:
        unit: Name of the unit.
        artifact_digest: Digest of the identity that the unit was made for.
        files: Its files, in order of name.
        rows: Number of rows, failed ones included.
        counts: Rows per status; they add up to ``rows``.
        facts: Small facts of the unit that the stage wants to sum up later, JSON.
    """

    unit: str
    artifact_digest: str
    files: tuple[FileRecord, ...]
    rows: int
    counts: Mapping[str, int]
    facts: Mapping[str, Json] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if sum(self.counts.values()) != self.rows:
            found = f"{self.rows} rows, but the counts {dict(self.counts)} add up to {sum(self.counts.values())}"
            raise ArtifactError(f"{self.unit}: {found}; count every row once")

    def to_json(self) -> bytes:
        """Encode for ``UNIT.json``."""
        return sealed_json({"format": FORMAT, **asdict(self)})

    @classmethod
    def read(cls, path: Path) -> "Sidecar":
        """Read a sidecar.

        Raises:
            ArtifactError: If the file is absent, damaged, or not a sidecar.
            SchemaError: If another version of this project wrote it.
        """
        document = read_document(path)
        del document["format"]
        try:
            document["files"] = tuple(FileRecord(**record) for record in document["files"])
            return cls(**document)
        except (KeyError, TypeError, AttributeError) as error:
            raise ArtifactError(f"{path}: is not a sidecar ({error}); delete it and run the stage again") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The last file of an artifact: every unit is done, and this is what they are.

    Attributes:
        description: What the artifact is.
        units: The sidecars in order of units.
    """

    description: Description
    units: tuple[Sidecar, ...]

    @property
    def rows(self) -> int:
        """Number of rows over all units."""
        return sum(sidecar.rows for sidecar in self.units)

    @property
    def counts(self) -> dict[str, int]:
        """Rows per status over all units."""
        totals: dict[str, int] = {}
        for sidecar in self.units:
            for status, count in sidecar.counts.items():
                totals[status] = totals.get(status, 0) + count
        return dict(sorted(totals.items()))

    def to_document(self) -> dict[str, Json]:
        """Return the JSON form, whose canonical digest identifies the artifact as an input of others."""
        identity = self.description.identity
        return {
            "format": FORMAT,
            "kind": identity.kind,
            "name": identity.name,
            "digest": identity.digest(),
            "attributes": self.description.attributes,
            "rows": self.rows,
            "counts": self.counts,
            "units": [
                {
                    "unit": sidecar.unit,
                    "files": [asdict(record) for record in sidecar.files],
                    "rows": sidecar.rows,
                    "counts": sidecar.counts,
                    "facts": sidecar.facts,
                }
                for sidecar in self.units
            ],
        }

    def digest(self) -> str:
        """Return the sha256 over all that the manifest states; equal digests mean equal files.

        ``manifest.json`` has it as ``document_digest``.
        """
        return sha256_of_json(self.to_document())

    def to_json(self) -> bytes:
        """Encode for ``manifest.json``."""
        return sealed_json(self.to_document())


def read_document(path: Path) -> dict[str, Any]:
    """Read one of the JSON files of an artifact; its own digest is checked and left out.

    Raises:
        ArtifactError: If the file is absent, no JSON object, or not as it was written.
        SchemaError: If another version of this project wrote it.
    """
    try:
        data = path.read_bytes()
        document = json.loads(data)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: is not there; run the stage that makes it") from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); delete it and run the stage again") from error
    if not isinstance(document, dict):
        raise ArtifactError(
            f"{path}: holds a {type(document).__name__}, a JSON object is expected; delete it and run the stage again"
        )
    if document.get("format") != FORMAT:
        found = f"storage format {document.get('format')!r}, this version reads {FORMAT}"
        raise SchemaError(f"{path}: {found}; use the version that wrote it")
    stated = document.pop(SEAL, None)
    try:  # written again it gives the same bytes: damage to the white space shows, too
        is_whole = sealed_json(document) == data
    except ValueError:  # NaN, an infinity or half a character, which are never written
        is_whole = False
    if not is_whole:
        raise ArtifactError(
            f"{path}: is damaged, its {SEAL} {stated!r} is not true of it; delete it and run the stage again"
        )
    return document
