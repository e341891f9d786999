"""Digests of a data set's files, remembered so that nothing is read twice, and no change in place goes unnoticed.

Text and label files count by their contents: a label that was corrected in place, to a file of the same size, makes
other scenes. Pictures are 19 GB of COCO, so they count by name and size, and by contents only once they were seen to
change: a picture whose time of change is another one than at first, with the same size, is hashed from then on.

What was found is kept with each file's size, times of change and inode, as git does for its index. The memory is in
the runs directory, is of this machine only, and holds nothing that cannot be computed again, but for one thing: without
it a picture that was replaced in place before is known by name and size again.
"""

import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path
from stat import S_ISREG

from pipeline.prepare.data_root import DataRoot, composed
from pipeline.prepare.faults import SceneFault
from storage_schemas.digests import sha256_of_file
from storage_schemas.verification import SETTLED_AFTER_NS, Traits, keep, remembered, traits_of


class FileDigests:
    """Digests of the files of one data set.

    Args:
        memory: File that keeps what was found between commands; None keeps nothing.
    """

    def __init__(self, memory: Path | None = None) -> None:
        self._memory = memory
        # Traits of each file, ending in its sha256, or in "" where only name and size count so far.
        self._known: dict[str, Traits] = {} if memory is None else remembered(memory)
        self._kept = dict(self._known)

    def file(self, root: DataRoot, relative: str) -> str:
        """Return the sha256 of one file that is known to be there."""
        root.accessed.files.add(relative)
        path = root.path(relative)
        return self._sha256(path, relative, path.stat())

    def _sha256(self, path: Path, relative: str, stat: os.stat_result) -> str:
        traits = traits_of(stat)
        known = self._known.get(relative)
        if known is not None and known[:-1] == traits and known[-1]:
            return str(known[-1])
        sha256 = sha256_of_file(path)
        # A second write within the same tick of the clock would leave no trace: hash a young file again next time.
        if time.time_ns() - max(int(traits[1]), int(traits[2])) > SETTLED_AFTER_NS:
            self._known[relative] = [*traits, sha256]
        return sha256

    def by_contents(self, root: DataRoot, relatives: Iterable[str]) -> str:
        """Return the sha256 of names and contents of files; those that are absent or unreadable count as such."""
        digest = hashlib.sha256()
        for relative in sorted(relatives):
            root.accessed.files.add(relative)
            try:
                path = root.path(relative)
                stat = path.stat()
                content = self._sha256(path, relative, stat) if S_ISREG(stat.st_mode) else "absent"
            except (OSError, SceneFault):
                content = "absent"
            digest.update(f"{composed(relative)}\0{content}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def by_size(self, root: DataRoot, relatives: Iterable[str]) -> str:
        """Return the sha256 of names and sizes of files, and of the contents of those that changed in place.

        Absent files have size -1.
        """
        digest = hashlib.sha256()
        for relative in sorted(relatives):
            root.accessed.files.add(relative)
            size_bytes, sha256 = -1, ""
            try:
                path = root.path(relative)
                traits = traits_of(path.stat())
                size_bytes = int(traits[0])
                known = self._known.get(relative)
                if known is None:
                    self._known[relative] = [*traits, ""]
                elif known[:2] == traits[:2]:  # of one size and time of change; a new inode or mode changes no pixel
                    sha256 = str(known[-1])
                else:
                    sha256 = sha256_of_file(path) if path.is_file() and known[0] == size_bytes else ""
                    self._known[relative] = [*traits, sha256]
            except (OSError, SceneFault):
                size_bytes = -1
            digest.update(f"{composed(relative)}\0{size_bytes}\0{sha256}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def keep(self) -> bool:
        """Keep what was found for the next command; return whether it is kept, now or since before."""
        if self._memory is None or self._known == self._kept:
            return self._memory is not None
        kept = keep(self._memory, self._known)
        self._kept = dict(self._known) if kept else self._kept
        return kept
