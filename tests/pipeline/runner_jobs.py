"""Small jobs for the runner's tests; importable by workers in other processes."""

import os
import signal
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.executors import Executor, Outcome
from pipeline.shard_runner import Hook
from storage_schemas.artifact import Artifact
from storage_schemas.commit import TEMPORARY_PREFIX, Disk
from storage_schemas.manifest import ARTIFACT_FILE, MANIFEST_FILE, Description, Identity, Sidecar


def planned(runs: Path, units: int = 3, disk: Disk | None = None, **settings: object) -> Artifact:
    """Plan an artifact of so many units."""
    identity = Identity(
        kind="test", name="small", schema_version=1, producer_version=1, settings={"seed": 7, **settings}
    )
    names = tuple(f"shard-{number:05d}" for number in range(units))
    return Artifact.planned(runs, Description(identity=identity, units=names, attributes={"of": "tests"}), disk)


def snapshot(directory: Path, *, unfinished: bool = True) -> dict[str, bytes]:
    """Read every file of an artifact but those of this machine only; on request without those yet unfinished."""
    names = [path.relative_to(directory) for path in sorted(directory.rglob("*")) if path.is_file()]
    kept = [name for name in names if name.parts[0] != "_local"]
    return {
        str(name): (directory / name).read_bytes()
        for name in kept
        if unfinished or not name.name.startswith(TEMPORARY_PREFIX)
    }


def believed_falsely(artifact: Artifact, reference: dict[str, bytes]) -> list[str]:
    """List what an unfinished or damaged artifact calls done although it isn't what an undisturbed run makes."""
    found = snapshot(artifact.directory)
    status = artifact.status(deep=True)
    false = []
    for unit in status.units:
        if unit.sidecar is not None:
            names = [f"{unit.unit}.json", *(record.name for record in unit.sidecar.files)]
            false += [name for name in names if found.get(name) != reference[name]]
    if status.finished:
        false += [name for name in reference if found.get(name) != reference[name]]
    if MANIFEST_FILE in found and found.get(ARTIFACT_FILE) != reference[ARTIFACT_FILE] and status.finished:
        false.append(ARTIFACT_FILE)
    return false


@dataclass(frozen=True)
class WatchedExecutor:
    """Calls a function with the name of each unit that ended."""

    inner: Executor
    ended: Callable[[str], object]

    def outcomes(self, function: Callable[[str], Any], units: Iterable[str]) -> Generator[Outcome[Any]]:
        with closing(self.inner.outcomes(function, units)) as outcomes:
            for outcome in outcomes:
                self.ended(outcome.unit)
                yield outcome


def watched(ended: Callable[[str], object]) -> Hook:
    """Return a hook of `run_stage` that sees units as they end."""
    return lambda _artifact, executor: WatchedExecutor(executor, ended)


@dataclass(frozen=True)
class WriteFiles:
    """Writes files of two pieces each, whose bytes follow from the unit's name.

    Attributes:
        suffixes: Of the files of each unit.
        pause_s: How long to wait between the pieces.
        log: File to which every call is appended as ``open PID`` or ``run UNIT``; none if empty.
    """

    suffixes: tuple[str, ...] = ("bin", "txt")
    pause_s: float = 0.0
    log: str = ""

    def open(self) -> str:
        self.note(f"open {os.getpid()}")
        return "state"

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        self.note(f"run {unit}")
        with artifact.write_unit(unit) as writer:
            for suffix in self.suffixes:
                file = writer.file(suffix)
                for piece in range(2):
                    file.write(f"{state} {unit} {suffix} {piece} ".encode() * 20)
                    if self.pause_s:
                        time.sleep(self.pause_s)
            return writer.commit(rows=2, counts={"ok": 2}, facts={"letters": len(unit)})

    def note(self, line: str) -> None:
        if self.log:
            with Path(self.log).open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")


@dataclass(frozen=True)
class Troubled(WriteFiles):
    """``WriteFiles`` with trouble at chosen units.

    Attributes:
        at: The units.
        trouble: ``"raise"``, ``"raise unpicklable"``, ``"exit"``, ``"kill worker"``, ``"kill worker once"``, ``"lie"``
            (report a unit that was not written), ``"fail rows"``.
        marker: File by which "once" is known.
    """

    at: tuple[str, ...] = ()
    trouble: str = "raise"
    marker: str = ""

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        if unit not in self.at:
            return super().run(state, artifact, unit)
        self.note(f"run {unit}")
        if self.trouble == "raise":
            message = f"{unit} is cursed"
            raise ValueError(message)
        if self.trouble == "raise unpicklable":
            raise UnpicklableError(unit)
        if self.trouble == "kill worker":
            _die_in_the_middle_of(artifact, unit)
        if self.trouble == "kill worker once" and not Path(self.marker).exists():
            Path(self.marker).touch()
            _die_in_the_middle_of(artifact, unit)
        if self.trouble == "lie":
            return Sidecar(unit=unit, artifact_digest=artifact.identity.digest(), files=(), rows=0, counts={})
        if self.trouble == "fail rows":
            with artifact.write_unit(unit) as writer:
                writer.file("bin").write(b"-")
                return writer.commit(rows=10, counts={"ok": 8, "unreadable": 2})
        return super().run(state, artifact, unit)


@dataclass(frozen=True)
class VariouslyTroubled:
    """Files as of ``WriteFiles``, with a trouble of ``Troubled`` at each of some units."""

    troubles: dict[str, str]

    def open(self) -> str:
        return WriteFiles().open()

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        trouble = self.troubles.get(unit)
        job = Troubled(at=(unit,), trouble=trouble) if trouble else WriteFiles()
        return job.run(state, artifact, unit)


class UnpicklableError(Exception):
    """An error that cannot be sent from one process to another."""

    def __init__(self, unit: str) -> None:
        super().__init__(f"{unit} holds a lambda")
        self.held = lambda: unit


def _die_in_the_middle_of(artifact: Artifact, unit: str) -> None:
    with artifact.write_unit(unit) as writer:
        writer.file("bin").write(b"half of it")
        os.kill(os.getpid(), signal.SIGKILL)
