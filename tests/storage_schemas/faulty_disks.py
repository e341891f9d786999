"""Disks that die, lose what was not synced, or refuse, at the n-th call of the commit protocol.

None of them syncs for real: what a sync promises is modelled, so that tests are fast.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from storage_schemas.commit import Disk


class Killed(BaseException):
    """The end of the simulated process."""


class UnsyncedDisk(Disk):
    """A disk without real syncs; counts its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def _begin(self, name: str, path: Path | None = None) -> bool:
        """Note a call; return whether it is to have its effect."""
        self.calls.append(name if path is None else f"{name} {path.name}")
        return True

    def make_directory(self, path: Path) -> None:
        if self._begin("make_directory", path):
            super().make_directory(path)

    def create(self, path: Path) -> BinaryIO:
        self._begin("create", path)
        return path.open("xb", buffering=0)

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        if self._begin("write"):
            super().write(file, data)

    def sync_file(self, file: BinaryIO) -> None:
        self._begin("sync_file")

    def rename(self, source: Path, target: Path) -> None:
        if self._begin("rename", target):
            super().rename(source, target)

    def sync_directory(self, directory: Path) -> None:
        self._begin("sync_directory", directory)

    def remove(self, path: Path) -> None:
        if self._begin("remove", path):
            super().remove(path)


class RefusingDisk(UnsyncedDisk):
    """Raises an ``OSError`` at one call, or at it and all that need space after it."""

    def __init__(self, at: int, error: int, *, lasting: bool) -> None:
        super().__init__()
        self._at = at
        self._error = error
        self._lasting = lasting

    def _begin(self, name: str, path: Path | None = None) -> bool:
        super()._begin(name, path)
        number = len(self.calls)
        needs_space = name in {"make_directory", "create", "write", "sync_file"}
        if number == self._at or (self._lasting and number > self._at and needs_space):
            raise OSError(self._error, f"refused at call {number}")
        return True


class KillingDisk(UnsyncedDisk):
    """Raises ``Killed`` in place of one call, a write being half done, and has no effect from then on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at
        self.dead = False
        self._open: list[BinaryIO] = []

    def _begin(self, name: str, path: Path | None = None) -> bool:
        super()._begin(name, path)
        if len(self.calls) == self._at:
            self._die()
        return not self.dead

    def _die(self) -> None:
        self.dead = True
        for file in self._open:
            file.close()
        raise Killed(self.calls[-1])

    def create(self, path: Path) -> BinaryIO:
        if self.dead:
            raise Killed("create after death")
        file = super().create(path)
        self._open.append(file)
        return file

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        if len(self.calls) + 1 == self._at:
            file.write(data[: len(data) // 2])
        super().write(file, data)


@dataclass
class _Inode:
    """A file's bytes, and how many of them are on the device."""

    data: bytearray = field(default_factory=bytearray)
    synced: int = 0


class PowerCutDisk(KillingDisk):
    """Dies like ``KillingDisk``; ``cut`` then takes back what was not synced.

    Args:
        at: Number of the call that doesn't come to pass.
        root: The directory below which everything lies; it exists.
    """

    def __init__(self, at: int, root: Path) -> None:
        super().__init__(at)
        self._root = root
        self._inodes = {path: _Inode(bytearray(path.read_bytes()), path.stat().st_size) for path in self._files()}
        self._kept = dict(self._inodes)
        self._directories = {path for path in root.rglob("*") if path.is_dir()}
        self._kept_directories = set(self._directories)
        self._handles: dict[int, _Inode] = {}

    def _files(self) -> list[Path]:
        return [path for path in self._root.rglob("*") if path.is_file() and "_local" not in path.parts]

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self._directories.add(path)

    def create(self, path: Path) -> BinaryIO:
        file = super().create(path)
        self._inodes[path] = self._handles[id(file)] = _Inode()
        return file

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        inode = self._handles[id(file)]
        half = len(self.calls) + 1 == self._at
        if not self.dead:
            inode.data += data[: len(data) // 2] if half else data
        super().write(file, data)

    def sync_file(self, file: BinaryIO) -> None:
        super().sync_file(file)
        if not self.dead:
            inode = self._handles[id(file)]
            inode.synced = len(inode.data)

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        if not self.dead:
            self._inodes[target] = self._inodes.pop(source)

    def remove(self, path: Path) -> None:
        super().remove(path)
        if not self.dead:
            self._inodes.pop(path, None)

    def sync_directory(self, directory: Path) -> None:
        super().sync_directory(directory)
        if self.dead:
            return
        for path in [path for path in self._kept if path.parent == directory]:
            del self._kept[path]
        self._kept |= {path: inode for path, inode in self._inodes.items() if path.parent == directory}
        self._kept_directories |= {path for path in self._directories if path.parent == directory}

    def cut(self, outcome: str) -> None:
        """Leave what the device may hold after a power cut.

        Args:
            outcome: What became of directory entries that were not synced: ``"undone"``, ``"kept"``, or the seed of a
                choice for each of them.
        """
        chance = random.Random(outcome)

        def is_kept() -> bool:
            return outcome == "kept" or (outcome != "undone" and chance.random() < 0.5)

        for path in sorted(self._inodes.keys() | self._kept.keys() | set(self._files())):
            entries = self._inodes if is_kept() else self._kept
            path.unlink(missing_ok=True)
            if path in entries and path.parent.is_dir():
                path.write_bytes(entries[path].data[: entries[path].synced])
        for directory in sorted(self._directories - self._kept_directories, reverse=True):
            if not is_kept():
                _remove_tree(directory)


def _remove_tree(directory: Path) -> None:
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    if directory.is_dir():
        directory.rmdir()
