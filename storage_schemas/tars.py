"""WebDataset tar shards: members in the order given, fixed owner and time, and the place of each member known.

Headers are the standard library's, in the plain ustar format: importing webdataset's own writer would import torch.
"""

import io
import re
import tarfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NamedTuple

from storage_schemas.artifact import UnitWriter
from storage_schemas.digests import Json
from storage_schemas.errors import ArtifactError, CorruptUnitError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, TableWriter

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SUFFIX = re.compile(r"(?=.{1,19}$)[a-z0-9]+(\.[a-z0-9]+)*")  # with the key and a dot at most 100 characters: ustar
_BLOCK_BYTES = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """Place of a member's bytes in its tar.

    Attributes:
        offset: Position of the first byte.
    """

    offset: int
    size_bytes: int


class ShardTarWriter:
    """Writes members to a tar; equal members in equal order give equal bytes."""

    def __init__(self, file: io.RawIOBase) -> None:
        self._file = file
        self._size_bytes = 0

    def close(self) -> None:
        """Write the end of the archive, two empty blocks in whole records; the file stays open."""
        end = self._size_bytes + 2 * _BLOCK_BYTES
        self._write(bytes(2 * _BLOCK_BYTES + -end % tarfile.RECORDSIZE))

    def add(self, key: str, suffix: str, data: bytes) -> Member:
        """Append the member ``KEY.SUFFIX``.

        Raises:
            ArtifactError: If WebDataset could not split the name into key and suffix, or ustar not hold it.
        """
        name = f"{key}.{suffix}"
        if not (KEY.fullmatch(key) and _SUFFIX.fullmatch(suffix)):
            raise ArtifactError(
                f"tar member {name!r}: a key of at most 80 letters, digits, '_' and '-' is expected; rename the sample"
            )
        info = tarfile.TarInfo(name)
        info.size = len(data)
        info.mode = 0o444
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        member = Member(self._size_bytes, len(data))
        self._write(data)
        self._write(bytes(-len(data) % _BLOCK_BYTES))
        return member

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._size_bytes += len(data)


class IndexedTar:
    """A unit that is a tar and a Parquet index with one row per sample; it counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block it is used.
    """

    def __init__(self, unit: UnitWriter, schema: TableSchema) -> None:
        self._unit = unit
        self._schema = schema
        self._tar = ShardTarWriter(unit.file("tar"))
        self._table_file = unit.file("parquet")
        self.rows: list[dict[str, Any]] = []

    def add_member(self, key: str, suffix: str, data: bytes) -> dict[str, int]:
        """Append a member to the tar; return its place as an index has it (`columns.MEMBER`).

        Raises:
            ArtifactError: As `ShardTarWriter.add`.
            WriteError: If the operating system refuses.
        """
        return self._tar.add(key, suffix, data)._asdict()

    def commit(self, facts: Mapping[str, Json] = MappingProxyType({})) -> Sidecar:
        """Write the index of ``rows``, and make the unit a finished one.

        Raises:
            SchemaError: If a row does not fit the schema.
            WriteError: If the operating system refuses.
        """
        self._tar.close()
        with TableWriter(self._table_file, self._schema) as table:
            table.write_rows(self.rows)
        counts = Counter(row["status"] for row in self.rows)
        return self._unit.commit(rows=len(self.rows), counts=counts, facts=facts)


def read_member(file: BinaryIO, member: Member, path: Path) -> bytes:
    """Read one member's bytes from an open tar.

    Raises:
        CorruptUnitError: If the tar ends before the member does.
    """
    file.seek(member.offset)
    data = file.read(member.size_bytes)
    if len(data) != member.size_bytes:
        found = (
            f"ends within the member that its index lists at byte {member.offset:,}, {member.size_bytes:,} bytes long"
        )
        raise CorruptUnitError(f"{path}: {found}; run 'ovseg status' and the stage that makes it again")
    return data
