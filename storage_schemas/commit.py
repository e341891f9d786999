"""The commit protocol: a file is written under a temporary name, synced, renamed, and only then spoken of.

Every call to the operating system that the protocol rests on goes through ``Disk``, so that a test can stop, fail or
cut the power at each single one of them.
"""

import contextlib
import errno
import hashlib
import io
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from storage_schemas.digests import FileRecord
from storage_schemas.errors import WriteError

TEMPORARY_PREFIX = ".tmp-"


class Disk:
    """The operating system's calls that the commit protocol is made of."""

    def make_directory(self, path: Path) -> None:
        """Make a directory, unless it is there already."""
        path.mkdir(exist_ok=True)

    def create(self, path: Path) -> BinaryIO:
        """Open a new file for writing; it must not exist."""
        return path.open("xb")

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        """Append bytes to a file; they may stay in a buffer."""
        file.write(data)

    def sync_file(self, file: BinaryIO) -> None:
        """Flush a file's bytes to the device."""
        file.flush()
        os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Give a file its final name, replacing what has it."""
        source.replace(target)

    def sync_directory(self, directory: Path) -> None:
        """Flush a directory's entries to the device, so that renames in it survive a power cut."""
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def remove(self, path: Path) -> None:
        """Delete a file, if it is there."""
        path.unlink(missing_ok=True)


class StagedFile(io.RawIOBase):
    """A file being written under a temporary name in its final directory, hashed as it is written.

    A stream for tar, Parquet and image writers: ``write`` and ``tell`` only. Its life is ``write``*, ``seal``,
    ``publish``; ``discard`` at any point before ``publish`` leaves nothing behind, and what is written after it is
    dropped, since such writers end their file even while an error passes through.
    """

    def __init__(self, target: Path, disk: Disk) -> None:
        super().__init__()
        self.target = target
        self._disk = disk
        # In the target's own directory: a rename across file systems would be a copy, which a kill can cut short.
        self._temporary = target.with_name(f"{TEMPORARY_PREFIX}{target.name}-{secrets.token_hex(4)}")
        self._sha256 = hashlib.sha256()
        self._size_bytes = 0
        self._discarded = False
        with explained_write_errors(target):
            self._file = disk.create(self._temporary)

    def writable(self) -> bool:
        """Return True: bytes can be written."""
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override]
        """Append bytes.

        Raises:
            WriteError: If the operating system refuses, because the device is full, say.
        """
        view = memoryview(data).cast("B")
        if self._discarded:
            return len(view)
        with explained_write_errors(self.target):
            self._disk.write(self._file, view)
        self._sha256.update(view)
        self._size_bytes += len(view)
        return len(view)

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._size_bytes

    def seal(self) -> FileRecord:
        """Flush to the device and close; return what a sidecar states of the file.

        Raises:
            WriteError: If the operating system refuses.
        """
        # Before the rename: the name must never reach the device ahead of the bytes.
        with explained_write_errors(self.target):
            self._disk.sync_file(self._file)
            self._file.close()
        return FileRecord(self.target.name, self._size_bytes, self._sha256.hexdigest())

    def publish(self) -> None:
        """Give the sealed file its final name.

        Raises:
            WriteError: If the operating system refuses.
        """
        with explained_write_errors(self.target):
            self._disk.rename(self._temporary, self.target)

    def discard(self) -> None:
        """Delete the temporary file; a failure to do so leaves a file that is never believed."""
        self._discarded = True
        with contextlib.suppress(OSError):  # the error that led here is the one to report
            self._file.close()
        with contextlib.suppress(OSError):
            self._disk.remove(self._temporary)


@contextlib.contextmanager
def explained_write_errors(target: Path) -> Iterator[None]:
    """Turn an ``OSError`` into a ``WriteError`` that says what was being written and what to do.

    Raises:
        WriteError: In place of any ``OSError``.
    """
    try:
        yield
    except OSError as error:
        advice = {
            errno.ENOSPC: "free some space and run the same command again",
            errno.EDQUOT: "free some of your quota and run the same command again",
            errno.EACCES: "make the directory writable or choose another runs directory",
            errno.EPERM: "make the directory writable or choose another runs directory",
            errno.ENOTDIR: "a file is where a directory is expected: move it or choose another runs directory",
            errno.EEXIST: "a file is where a directory is expected: move it or choose another runs directory",
            errno.EISDIR: "a directory is where a file is expected: move it away and run the same command again",
            errno.EROFS: "choose a runs directory on a writable file system",
        }.get(error.errno or 0, "check the device and run the same command again")
        raise WriteError(
            f"{target}: could not be written ({error.strerror or error}); finished units are kept; {advice}"
        ) from error


def make_directories(path: Path, disk: Disk) -> None:
    """Make a directory and those above it that are missing, so that they survive a power cut.

    Raises:
        WriteError: If the operating system refuses.
    """
    missing = [directory for directory in (path, *path.parents) if not directory.is_dir()]
    for directory in reversed(missing):  # from the top: each must last before the next is made in it
        with explained_write_errors(directory):
            disk.make_directory(directory)
            disk.sync_directory(directory.parent)


def write_file(target: Path, data: bytes, disk: Disk) -> FileRecord:
    """Write one whole file so that it appears complete or not at all, and stays.

    Raises:
        WriteError: If the operating system refuses; what had the name before is untouched.
    """
    staged = StagedFile(target, disk)
    try:
        staged.write(data)
        record = staged.seal()
        staged.publish()
    except BaseException:
        staged.discard()
        raise
    # The file has its name, and a power cut could still take the name back.
    with explained_write_errors(target):
        disk.sync_directory(target.parent)
    return record


@contextlib.contextmanager
def published_file(target: Path, disk: Disk) -> Iterator[StagedFile]:
    """Write one file piece by piece in the block, so that it appears complete after it, or not at all.

    Raises:
        WriteError: If the operating system refuses; what had the name before is untouched.
    """
    staged = StagedFile(target, disk)
    try:
        yield staged
        staged.seal()
        staged.publish()
    except BaseException:
        staged.discard()
        raise
    with explained_write_errors(target):
        disk.sync_directory(target.parent)


def remove_temporaries(directory: Path, disk: Disk) -> int:
    """Delete what killed writers left in a directory; return how many files that were.

    Only the holder of the artifact's lock may call this.

    Raises:
        WriteError: If a left-over file cannot be deleted.
    """
    leftovers = sorted(directory.glob(f"{TEMPORARY_PREFIX}*"))
    for path in leftovers:
        with explained_write_errors(path):
            disk.remove(path)
    return len(leftovers)
