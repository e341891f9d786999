"""WebDataset tar shards: members in the order given, fixed owner and time, and the place of each member known.

Headers are the standard library's, in the plain ustar format: importing webdataset's own writer would import torch.
"""

import io
import re
import tarfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

from storage_schemas.errors import ArtifactError, CorruptUnitError

KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")
_SUFFIX = re.compile(r"(?=.{1,19}$)[a-z0-9]+(\.[a-z0-9]+)*")  # with the key and a dot at most 100 characters: ustar
_BLOCK_BYTES = tarfile.BLOCKSIZE


class Member(NamedTuple):
    """Where a member's bytes lie in its tar.

    Attributes:
        offset: Position of the first byte.
        size_bytes: Number of bytes.
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
            message = (
                f"tar member {name!r}: a key of at most 80 letters, digits, '_' and '-' is expected; rename the sample"
            )
            raise ArtifactError(message)
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
        message = f"{path}: {found}; run 'ovseg status' and the stage that makes it again"
        raise CorruptUnitError(message)
    return data
