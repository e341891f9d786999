"""Two small stages in place of the real ones in tests of the flow: the second reads what the first wrote."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.clip_weights import ClipWeights
from pipeline.graph import Graph, Node, Step
from pipeline.settings import Settings
from pipeline.shard_runner import UnitJob
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Sidecar
from tests.pipeline.runner_jobs import WriteFiles, planned


@dataclass
class Plan:
    """What the stages of this process do.

    Attributes:
        units: Of the first stage; the second has two.
        job: Of the first stage.
    """

    units: int = 3
    job: UnitJob[str] = field(default_factory=WriteFiles)


CURRENT = Plan()


class First(Step):
    """Reads nothing."""

    kind = "test"
    stage: StageName = "prepare"

    def artifact(self, node: Node) -> Artifact:
        return planned(node.runs, CURRENT.units, of="first")

    def job(self, node: Node) -> UnitJob[str]:
        return CURRENT.job


class Second(Step):
    """Reads what the first wrote."""

    kind = "test"
    stage: StageName = "evaluate"

    def artifact(self, node: Node) -> Artifact:
        return planned(node.runs, 2, of=f"second, of {node['first'].digest()}")

    def job(self, node: Node) -> UnitJob[str]:
        return WriteReport()


def small_dataflow(settings: Settings, *, ablate: bool = False) -> Graph:
    """Return the dataflow of the tests."""
    graph = Graph(settings.runs_dir, settings.name, ClipWeights(settings.clip, settings.runs_dir))
    first = graph.add(First(), name="small", command="ovseg run --only prepare")
    graph.add(Second(), {"first": first}, name="small")
    return graph


# One red pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)


@dataclass(frozen=True)
class WriteReport(WriteFiles):
    """Writes reports: a picture, a text and a page."""

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        with artifact.write_unit(unit) as writer:
            if unit.endswith("0"):
                writer.file("sheet.png").write(PNG)
                writer.file("card.md").write(b"# Card\n\nAll is **well**.\n")
                writer.file("report.html").write(b"<!doctype html><title>report</title><p>All scores are here")
            else:
                writer.file("bin").write(b"-")
            return writer.commit(rows=2, counts={"ok": 2})


@dataclass(frozen=True)
class Flaky(WriteFiles):
    """Fails at some units, a few times or always, with an error of the operating system or of the settings.

    Attributes:
        at: The units.
        times: How often each fails.
        error: What it raises.
        marks: Directory in which failures are counted.
    """

    at: tuple[str, ...] = ()
    times: int = 1
    error: str = "OSError"
    marks: str = ""

    def run(self, state: str, artifact: Artifact, unit: str) -> Sidecar:
        self.note(f"run {unit}")
        if unit in self.at:
            failures = len(list(Path(self.marks).glob(f"{unit}-*")))
            if failures < self.times:
                (Path(self.marks) / f"{unit}-{failures}").touch()
                message = f"{unit}: the cable is loose"
                raise {"OSError": OSError, "ValueError": ValueError, "PermissionError": PermissionError}[self.error](
                    message
                )
        return WriteFiles().run(state, artifact, unit)


def from_environment() -> None:
    """Set the plan of a process that a test started."""
    CURRENT.units = int(os.environ.get("TEST_UNITS", "3"))
    CURRENT.job = WriteFiles(pause_s=float(os.environ.get("TEST_PAUSE_S", "0")), log=os.environ.get("TEST_LOG", ""))
    if "TEST_FAILS_AT" in os.environ:
        CURRENT.job = Flaky(at=(os.environ["TEST_FAILS_AT"],), marks=os.environ["TEST_MARKS"])
