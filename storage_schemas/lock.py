"""One writer per artifact: a lock between processes that a killed holder cannot leave behind."""

import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from storage_schemas.errors import HeldError, WriteError

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def held(local_directory: Path, *, wait_s: float) -> Iterator[None]:
    """Hold an artifact's lock while the block runs.

    The lock is the operating system's (``flock``), so it ends with its process, however that ends.

    Args:
        local_directory: The artifact's directory of files that are of this machine only.
        wait_s: How long to wait for another holder [s]; 0 does not wait.

    Raises:
        HeldError: If another process still holds the lock after that time.
        WriteError: If the lock file cannot be made.
    """
    lock = filelock.FileLock(local_directory / "lock", timeout=0)
    holder_file = local_directory / "holder.json"
    try:
        local_directory.mkdir(parents=True, exist_ok=True)
        _acquire(lock, local_directory.parent, holder_file, wait_s)
    except OSError as error:
        raise WriteError(
            f"{local_directory}: cannot be locked ({error}); choose a runs directory that can be written to"
        ) from error
    try:
        with contextlib.suppress(OSError):  # others learn from it who holds the lock; on a full disk they learn less
            holder_file.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        with contextlib.suppress(OSError):
            holder_file.unlink()
        lock.release()


def _acquire(lock: filelock.BaseFileLock, artifact: Path, holder_file: Path, wait_s: float) -> None:
    """Take the lock, saying who is waited for."""
    try:
        lock.acquire(timeout=0)  # first without waiting, so that a wait is logged with who holds it
    except filelock.Timeout:
        if wait_s > 0:
            logger.info("%s: held by %s, waiting up to %.0f s", artifact, _holder(holder_file), wait_s)
        try:
            lock.acquire(timeout=wait_s)
        except filelock.Timeout as error:
            waited = f" after {wait_s:g} s of waiting" if wait_s > 0 else ""
            raise HeldError(f"{artifact}: held by {_holder(holder_file)}{waited}; wait for it or stop it") from error


def _holder(holder_file: Path) -> str:
    """Describe the process that holds the lock."""
    try:
        document = json.loads(holder_file.read_text())
        return f"process {document['pid']} on {document['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
