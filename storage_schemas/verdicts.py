"""Verdicts on pairs: what a person found who looked at some of them, in ``audit/verdicts.parquet`` beside the pairs.

The table is no unit of the pairs: their digest, on which later stages depend, stays as it is. It has one row per pair
that was looked at, in the order of looking, and is written anew, whole, with each verdict. How sure the shares are that
follow from it can be computed from this file alone.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias, get_args

import pyarrow as pa

from storage_schemas.artifact import Artifact
from storage_schemas.columns import column
from storage_schemas.commit import make_directories, write_file
from storage_schemas.errors import ArtifactError
from storage_schemas.status import AUDIT_DIRECTORY
from storage_schemas.tables import TableSchema, TableWriter, read_table

FILE = f"{AUDIT_DIRECTORY}/verdicts.parquet"
SCHEMA_VERSION = 1

VerdictName: TypeAlias = Literal["right", "wrong mask", "wrong noun", "names nothing", "skip"]
NAMES: tuple[VerdictName, ...] = get_args(VerdictName)
RIGHT, SKIP = NAMES[0], NAMES[-1]

SCHEMA = TableSchema(
    "verdicts",
    SCHEMA_VERSION,
    pa.schema(
        [
            column("pair", pa.string(), "Name of the pair, as in the pairs' tables."),
            column(
                "verdict",
                pa.string(),
                "'right', 'wrong mask', 'wrong noun', 'names nothing', or 'skip' where one cannot say.",
            ),
            column("stratum", pa.string(), "Part of the pairs from which it was drawn: score, area, noun's frequency."),
            column("stratum_pairs", pa.int64(), "How many pairs that part has."),
            column("seed", pa.int64(), "Of the draw."),
            column("manifest", pa.string(), "Digest of the manifest of the pairs."),
        ]
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was found of one pair.

    Attributes:
        stratum: Part of the pairs from which it was drawn.
        stratum_pairs: How many pairs that part has.
        seed: Of the draw.
        manifest: Digest of the manifest of the pairs.
    """

    pair: str
    verdict: VerdictName
    stratum: str
    stratum_pairs: int
    seed: int
    manifest: str


def read_verdicts(artifact: Artifact) -> list[Verdict]:
    """Read the verdicts on pairs, in the order in which they were given; none if nobody looked at these pairs.

    Raises:
        SchemaError: If the file is of another schema or damaged.
        ArtifactError: If it holds verdicts on other pairs, or words that are none.
    """
    path = artifact.directory / FILE
    if not path.exists():
        return []
    found = [Verdict(**row) for row in read_table(path, SCHEMA).to_pylist()]
    manifest = artifact.manifest().digest()
    if others := {verdict.manifest for verdict in found} - {manifest}:
        raise ArtifactError(
            f"{path}: is on pairs of manifest {min(others)[:12]}, these have {manifest[:12]}; move it away"
        )
    if unknown := {verdict.verdict for verdict in found} - set(NAMES):
        raise ArtifactError(f"{path}: holds the verdict {min(unknown)!r}, one of {NAMES} is expected; move it away")
    return found


def write_verdicts(artifact: Artifact, verdicts: Sequence[Verdict]) -> None:
    """Write all verdicts on pairs, in place of those that are there; a kill leaves the old file or the new one.

    Only the holder of the audit's lock may call this.

    Raises:
        WriteError: If the operating system refuses.
    """
    data = io.BytesIO()
    with TableWriter(data, SCHEMA) as table:  # type: ignore[arg-type]
        table.write_rows([asdict(verdict) for verdict in verdicts])
    make_directories(artifact.directory / AUDIT_DIRECTORY, artifact.disk)
    write_file(artifact.directory / FILE, data.getvalue(), artifact.disk)


def verdicts_digest(artifact: Artifact) -> str:
    """Return the digest of the file of verdicts; empty if there is none."""
    path = artifact.directory / FILE
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
