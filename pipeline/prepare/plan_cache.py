"""A cache of what planning needs to know of a data set, valid for as long as no file changes that it depends on.

When a data set is read for the first time, all directories that were listed and all files that counted are recorded:
the names in the directories; size, both times of change and inode of the files. As long as all of these are the same,
the same settings have the same scenes, and neither lists nor annotations nor labels are read to plan them. What changed
within the last seconds is not cached, since a further change in the same tick of the clock would leave no trace. The
cache is in the runs directory and of this machine only; a lost or damaged one costs time alone.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from stat import S_ISDIR
from typing import Any, ClassVar, NamedTuple, Self

from pipeline import drawn_world
from pipeline.prepare.data_root import AccessedPaths
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.source import Found, PassedOver
from pipeline.settings import PrepareSettings
from storage_schemas import scenes
from storage_schemas.digests import Json
from storage_schemas.verification import SETTLED_AFTER_NS, keep, traits_of

_DIRECTORY = ".data_sets"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetFacts:
    """What planning needs to know of a data set.

    Attributes:
        scenes: Number of scenes to prepare, at least 1.
        keys_digest: Digest of their keys.
        identity: What decides them besides the settings.
        attributes: What readers of the scenes need beside their rows, as JSON.
        found: What is there.
    """

    scenes: int
    keys_digest: str
    identity: Mapping[str, Json]
    attributes: Mapping[str, Json]
    found: Found

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the facts whose ``asdict`` went through JSON.

        Raises:
            TypeError: If they are not what it gives.
            KeyError: Likewise.
        """
        found = dict(values["found"])
        found["passed_over"] = tuple(PassedOver(**passed) for passed in found["passed_over"])
        found["notes"] = tuple(found["notes"])
        return cls(**{**values, "found": Found(**found)})


class _State(NamedTuple):
    """The digest of all that is watched, and the latest time at which any of it changed [ns since 1970]."""

    digest: str
    changed_ns: int


@dataclass(frozen=True, slots=True)
class _Watched:
    """On which files facts depend; paths are relative to the data set's root.

    Attributes:
        directories: Directories that were listed. All their names count, and traits of the entries that are named here,
            or of every entry where there is None.
        files: Files elsewhere whose traits count, or their absence.
    """

    directories: Mapping[str, list[str] | None]
    files: list[str]

    @classmethod
    def of(cls, root: Path, accessed: AccessedPaths) -> Self:
        """Return what to watch of the paths that were accessed."""
        listed: dict[str, list[str]] = defaultdict(list)
        elsewhere = []
        for file in accessed.files:
            parent, _, name = file.rpartition("/")
            if parent in accessed.directories:
                listed[parent].append(name)
            else:
                elsewhere.append(file)
        directories: dict[str, list[str] | None] = {}
        for directory in accessed.directories:
            names = sorted(listed[directory])
            try:
                entries = sum(1 for _ in (root / directory).iterdir())
            except OSError:
                entries = 0
            # 100,000 names need not be kept where nearly all files of a directory count: then let all of them count.
            directories[directory] = None if 2 * len(names) > max(entries, 20) else names
        return cls(directories, sorted(elsewhere))

    def state(self, root: Path) -> _State:
        """Return the present state of all that is watched; what cannot be read counts as absent."""
        top = Path(os.path.realpath(root))  # unlike resolve() it takes links in a circle
        digest = hashlib.sha256(os.fsencode(top))
        changed_ns = 0
        states = [_directory_state(top, directory, names) for directory, names in sorted(self.directories.items())]
        states += [_file_state(top, file) for file in self.files]
        for state in states:
            digest.update(f"{state.text}\0\0".encode("utf-8", "surrogatepass"))
            changed_ns = max(changed_ns, state.changed_ns)
        return _State(digest.hexdigest(), changed_ns)


class _PathState(NamedTuple):
    """What is at a path, as text, and the latest time of change that is part of it [ns since 1970]."""

    text: str
    changed_ns: int = 0


def _directory_state(top: Path, directory: str, names: Collection[str] | None) -> _PathState:
    """Return the names in a directory with the traits of those entries that are named; None names all."""
    chosen = None if names is None else frozenset(names)
    changed_ns, lines = 0, []
    try:
        own = _file_state(top, directory, whole_directory=True)
        with os.scandir(top / directory) as entries:
            for entry in entries:
                line = f"{entry.name}\0{entry.is_dir(follow_symlinks=False):d}"
                if entry.is_symlink():
                    line += f"\0{Path(entry.path).readlink()}"
                if chosen is None or entry.name in chosen:
                    try:
                        stat = entry.stat()
                    except OSError:  # a link to nowhere
                        line += "\0absent"
                    else:
                        changed_ns = max(changed_ns, stat.st_mtime_ns, stat.st_ctime_ns)
                        line += f"\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
                lines.append(line)
    except OSError as error:
        return _PathState(f"{directory}\0absent\0{error.errno}")
    lines.sort()
    return _PathState("\0\0".join([own.text, *lines]), max(own.changed_ns, changed_ns))


def _file_state(top: Path, file: str, *, whole_directory: bool = False) -> _PathState:
    """Return the traits of a file, and where links on the way to it lead; of a directory only its presence counts.

    Args:
        top: The data set's root, without links.
        file: Path relative to it.
        whole_directory: Let the traits of a directory count, too: they change with its entries.
    """
    if file.startswith("/") or ".." in file.split("/"):
        return _PathState(file)  # no path below the root, so it is never read, whatever is there
    path = top / file
    try:
        stat = path.stat()
        text = f"{file}\0{path.resolve()}"
    except (OSError, ValueError, RuntimeError):  # not there, no name that a file can have, or links in a circle
        return _PathState(f"{file}\0absent")
    if S_ISDIR(stat.st_mode) and not whole_directory:
        return _PathState(f"{text}\0directory")
    return _PathState(f"{text}\0{traits_of(stat)}", max(stat.st_mtime_ns, stat.st_ctime_ns))


class PlanCache:
    """What is known of a data set for some settings: kept in a file, and in this process until it is.

    Args:
        settings: Which data set, and how it is prepared.
        runs: Runs directory, which holds the cache.
    """

    # What this process has found, by the file that is to keep it; a dry run keeps nothing, but plans several times.
    _noted: ClassVar[dict[Path, Mapping[str, Any]]] = {}
    # Digests of files are of all settings of a data set, and let go once they are kept: there may be 200,000.
    _digests_of: ClassVar[dict[Path, FileDigests]] = {}

    def __init__(self, settings: PrepareSettings, runs: Path) -> None:
        self._root = settings.root
        self._directory = runs.absolute() / _DIRECTORY
        data_set = f"{settings.dataset} {settings.split}\0{os.path.realpath(settings.root)}"
        options = settings.model_dump_json(exclude={"root"})
        place, kind = (
            hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16] for text in (data_set, options)
        )
        self._digests = self._directory / f"{place}.json"
        self._file = self._directory / f"{place}-{kind}.json"

    def digests(self) -> FileDigests:
        """Return what is known of the data set's files."""
        if self._digests not in self._digests_of:
            self._digests_of[self._digests] = FileDigests(self._digests)
        return self._digests_of[self._digests]

    def facts(self) -> DataSetFacts | None:
        """Return the facts that were noted by this version of the code, unless a file changed that they depend on."""
        for document in (self._noted.get(self._file), _read(self._file)):
            try:
                if document is not None and document["reader"] == _reader_digest():
                    watched = _Watched(**document["watched"])
                    if watched.state(self._root).digest == document["state"]:
                        return DataSetFacts.of_json(document["facts"])
            except (KeyError, TypeError, ValueError, AttributeError):  # of another version
                continue
        return None

    def note(self, facts: DataSetFacts, accessed: AccessedPaths, begun_ns: int) -> None:
        """Note facts, unless a file changed since a moment before the data set was opened.

        Args:
            begun_ns: When the data set was opened [ns since 1970].
        """
        self._noted.pop(self._file, None)
        watched = _Watched.of(self._root, accessed)
        state = watched.state(self._root)
        if begun_ns - state.changed_ns > SETTLED_AFTER_NS:
            values = {"facts": asdict(facts), "watched": asdict(watched)}
            document = {**values, "state": state.digest, "reader": _reader_digest()}
            self._noted[self._file] = json.loads(json.dumps(document))  # as it will be read: lists, no tuples

    def keep(self) -> None:
        """Keep what was noted for the next command, if the runs directory is there and can be written to."""
        if not self._directory.parent.is_dir():
            return
        digests = self._digests_of.get(self._digests)
        # Facts without the digests would forget which pictures changed in place: they are kept second.
        if digests is not None and digests.keep():
            del self._digests_of[self._digests]
        noted = self._noted.get(self._file)
        if noted is not None and self._digests not in self._digests_of and noted != _read(self._file):
            keep(self._file, {**noted, "seal": _seal(noted)})


def _read(file: Path) -> Mapping[str, Any] | None:
    """Read a cache file; None if it is absent or damaged."""
    try:
        document = json.loads(file.read_bytes())
        seal = document.pop("seal")
    except (OSError, ValueError, AttributeError, TypeError, KeyError):
        return None
    return document if isinstance(document, dict) and seal == _seal(document) else None


def _seal(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@cache
def _reader_digest() -> str:
    """Return the digest of the code that reads data sets: another version may find other facts in the same files."""
    digest = hashlib.sha256()
    readers, drawn = (sorted(Path(module).parent.rglob("*")) for module in (__file__, drawn_world.__file__))
    for path in (*readers, *drawn, Path(scenes.__file__)):
        if path.suffix in {".py", ".tsv"}:
            digest.update(path.read_bytes())
    return digest.hexdigest()
