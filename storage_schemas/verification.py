"""Whether files are what their sidecars state, without hashing again what has not been touched.

A hash is remembered together with the file's size, inode and both its times of change, as git does for its index: any
write to the file changes at least one of them. Files touched within the last seconds are hashed each time, since a
second write in the same tick of the clock would leave no trace. What decays on the device without a write is found by
``deep`` checks.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path

from storage_schemas.commit import Disk, write_file
from storage_schemas.digests import FileRecord, Json, sha256_of_file
from storage_schemas.errors import WriteError

logger = logging.getLogger(__name__)

SETTLED_AFTER_NS = 2_000_000_000
"""Age of a file from which on a further write must change one of its times."""

Traits = list[int | str]
"""Size, both times of change and inode of a file; what is remembered of it follows, such as its sha256."""

# Of this thread alone: a dry run must write nothing while a run beside it goes on remembering.
_KEEPS = ContextVar("keeps", default=True)


@contextlib.contextmanager
def nothing_kept() -> Iterator[None]:
    """Let checks within the context, in this thread, write nothing: what they hash will be hashed again."""
    token = _KEEPS.set(False)
    try:
        yield
    finally:
        _KEEPS.reset(token)


class VerifiedFiles:
    """Checks the files of one directory and remembers what it found.

    Args:
        memory: File that keeps what was found between runs; it is of this machine only, and losing it costs time alone.
        deep: Hash every file, whatever is remembered.
    """

    def __init__(self, directory: Path, memory: Path, *, deep: bool = False) -> None:
        self._directory = directory
        self._memory = memory
        self._known: dict[str, Traits] = {} if deep else remembered(memory)
        self._found: dict[str, Traits] = {}

    def fault(self, record: FileRecord) -> str:
        """Return how a file differs from what is stated of it; empty if it doesn't.

        Raises:
            OSError: If the file is there but cannot be read.
        """
        path = self._directory / record.name
        try:
            stat = path.stat()
        except FileNotFoundError:
            return f"{record.name} is missing"
        if stat.st_size != record.size_bytes:
            return f"{record.name} has {stat.st_size:,} bytes, its sidecar states {record.size_bytes:,}"
        traits = traits_of(stat)
        known = self._known.get(record.name)
        sha256 = str(known[-1]) if known is not None and known[:-1] == traits else sha256_of_file(path)
        # The times were read before the file was hashed: a write in between changes them, and the memory is not used.
        if time.time_ns() - max(stat.st_ctime_ns, stat.st_mtime_ns) > SETTLED_AFTER_NS:
            self._found[record.name] = [*traits, sha256]
        if sha256 != record.sha256:
            return f"{record.name} has sha256 {sha256[:12]}..., its sidecar states {record.sha256[:12]}..."
        return ""

    def remember(self) -> None:
        """Keep what was found for the next check."""
        if self._found != self._known and os.access(self._directory, os.W_OK):
            keep(self._memory, self._found)


def traits_of(stat: os.stat_result) -> Traits:
    """Return what any write to a file changes."""
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def remembered(memory: Path) -> dict[str, Traits]:
    """Read what is remembered of files, by name; a memory that is absent or damaged is an empty one."""
    try:
        document = json.loads(memory.read_bytes())
        return {str(name): [*traits] for name, traits in document.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def keep(memory: Path, found: Mapping[str, Json]) -> bool:
    """Write what was found of files; nothing within `nothing_kept`, nor on a read-only file system.

    Returns:
        Whether it was written.
    """
    if not _KEEPS.get():
        return False
    try:
        memory.parent.mkdir(exist_ok=True)
        # In one line: of 100,000 files the indented form takes seconds. Names may hold bytes that are no UTF-8.
        write_file(memory, json.dumps(found, sort_keys=True, separators=(",", ":")).encode(), Disk())
    except (WriteError, OSError) as error:
        logger.info("%s: not kept, the next check hashes again (%s)", memory, error)
        return False
    return True
