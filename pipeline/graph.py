"""The parts of the dataflow: a node is one artifact, made by a step from other nodes.

A step declares itself beside the code that does it; a node knows its inputs. All else follows from these two: the
digest that names a directory, what is done, the command that makes it. Each is computed once per command, and none of
it loads a model.

The digest of an artifact covers those of its inputs, as they are on disk. So a node whose inputs are not finished has
no directory yet: asking for it raises `MissingInputError`, and counts and sizes are estimates.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol, cast

from pipeline.clip_weights import ClipWeights
from pipeline.errors import PipelineError
from pipeline.settings import SettingsError, writable_runs_dir
from pipeline.shard_runner import Execution, StageReport, UnitJob
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.errors import StorageError
from storage_schemas.manifest import MANIFEST_FILE, Description, Identity, Manifest
from storage_schemas.status import ArtifactStatus

logger = logging.getLogger(__name__)


class MissingInputError(PipelineError):
    """An input is not finished."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Numbers of parameters that sizes of artifacts follow from.

    Attributes:
        adaptation: What stage 3 trains, in all its phases together.
        embedding_dim: Length of the embeddings of the CLIP that names.
        proposal_dim: Length of the proposal net's embeddings.
    """

    proposal_net: int
    image_tower: int
    adaptation: int
    embedding_dim: int
    proposal_dim: int


class Step:
    """How one kind of artifact is made. A subclass is beside the code that does the work, and holds its settings.

    Its module must import no model: jobs do that when a worker opens them, so that planning takes no time.

    Attributes:
        schema_version: Of the kind's columns and files.
        producer_version: Raise it when the code gives another result for the same settings and inputs.
        stage: The stage to which it belongs.
        on_demand: Whether later stages make it when it is missing; else they ask for the stage's command first.
        tolerated: Row statuses beside ``"ok"`` that are no failures, such as a caption without a noun.
        trains: Whether it is a training: several processes may share it, of which the first alone makes inputs, and
            Dask has no part in it.
        computes: Whether it runs a model, on the device.
        labels_of: Roles of the inputs whose labels it needs, for the dry run.
    """

    kind: str
    schema_version: int
    producer_version: int
    stage: StageName
    on_demand: bool = False
    tolerated: frozenset[str] = frozenset()
    trains: bool = False
    computes: bool = True
    labels_of: tuple[str, ...] = ()

    def fingerprint(self, node: "Node") -> Mapping[str, Json]:
        """Return the settings that change the result, and no others.

        Raises:
            SettingsError: If the settings don't fit the inputs.
        """
        raise NotImplementedError

    def units(self, node: "Node") -> tuple[str, ...]:
        """Return the names of the units, which follow from settings and inputs; by default the shards of the scenes."""
        return node["scenes"].artifact.description.units

    def attributes(self, node: "Node") -> Mapping[str, Json]:
        """Return what every reader of the artifact needs beside its rows."""
        del node
        return {}

    def describe(self, node: "Node") -> Description:
        """Return what identifies the artifact, and its units.

        Raises:
            MissingInputError: If an input is not finished.
            PipelineError: If the settings don't fit the inputs.
        """
        identity = Identity(
            kind=self.kind,
            name=node.name,
            schema_version=self.schema_version,
            producer_version=self.producer_version,
            settings=self.fingerprint(node),  # before inputs: settings that cannot work are reported first
            inputs={role: source.digest() for role, source in node.sources.items()},
        )
        return Description(identity=identity, units=self.units(node), attributes=self.attributes(node))

    def artifact(self, node: "Node") -> Artifact:
        """Return the artifact, made or not.

        Raises:
            PipelineError: As `describe`.
        """
        return Artifact.planned(node.runs, self.describe(node))

    def refuse_if_absent(self, node: "Node") -> None:
        """Raise an error where there is no artifact of this kind and name, whatever its digest may turn out to be.

        Raises:
            MissingInputError: If there is none.
        """
        place = node.runs / self.kind
        if not any(place.glob(f"{node.name}-{'[0-9a-f]' * 12}")):
            raise MissingInputError(
                f"{place / node.name}: is not finished; run '{node.command}' first (there is none of that name)"
            )

    def check(self, node: "Node") -> None:
        """Check, before anything is made, what would fail later.

        Raises:
            PipelineError: If the settings cannot work here.
        """

    def job(self, node: "Node") -> UnitJob[Any]:
        """Return what makes one unit."""
        raise NotImplementedError

    def make(self, node: "Node", execution: Execution) -> StageReport:
        """Make what is not done.

        Raises:
            StageError: If units failed, or too many rows did.
        """
        return execution.run(self.job(node), node.artifact, tolerated=self.tolerated)

    def is_complete(self, node: "Node") -> bool:
        """Return whether what belongs to a finished artifact is there too, such as a card."""
        del node
        return True

    def unit_count(self, node: "Node") -> int | None:
        """Return how many units there will be while inputs are missing; by default as many as the scenes' shards."""
        return node["scenes"].unit_count() if "scenes" in node else None

    def scene_count(self, node: "Node") -> int | None:
        """Return how many scenes it is made of, for estimates; None if that is unknown."""
        return node["scenes"].step.scene_count(node["scenes"]) if "scenes" in node else 0

    def label_count(self, node: "Node") -> int | None:
        """Return how many labels it holds; None if that is unknown, or it is not scenes."""
        del node
        return None

    def caption_count(self, node: "Node") -> int | None:
        """Return how many captions it holds; None if that is unknown, or it is not scenes."""
        del node
        return None

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate the size of the whole artifact [bytes], to a factor of two or so.

        Args:
            counts: Sizes of the nets.
            scenes: Number of scenes that it is made of.
        """
        raise NotImplementedError


class Source(Protocol):
    """What an artifact can be made of."""

    def digest(self) -> str:
        """Return what identifies its contents.

        Raises:
            PipelineError: If it is not finished, or not here.
        """
        ...


class Node:
    """One artifact of the dataflow.

    Artifact, status and manifest are read once and kept, as every node downstream asks for them. `make` renews them.

    Args:
        sources: What it is made of, by role.
        setting: Key of its data set in the settings; empty where it is no data set.
        command: What the user types to make it; by default that of its stage.
    """

    def __init__(
        self,
        step: Step,
        name: str,
        runs: Path,
        sources: Mapping[str, Source],
        *,
        setting: str = "",
        command: str = "",
    ) -> None:
        self.step = step
        self.name = name
        self.runs = runs
        self.sources = sources
        self.setting = setting
        self.command = command or f"ovseg {step.stage}"
        self._status: ArtifactStatus | None = None
        self._manifest: Manifest | None = None
        self._digest: str | None = None

    def __getitem__(self, role: str) -> "Node":
        """Return an input that is an artifact."""
        return cast("Node", self.sources[role])

    def __contains__(self, role: str) -> bool:
        return role in self.sources

    def get(self, role: str) -> "Node | None":
        """Return an input that is an artifact, or None where there is none of that role."""
        return cast("Node | None", self.sources.get(role))

    @property
    def clip(self) -> ClipWeights:
        """The input that is the original CLIP."""
        return cast("ClipWeights", self.sources["clip"])

    @property
    def inputs(self) -> Iterator["Node"]:
        """The inputs that are artifacts."""
        return (source for source in self.sources.values() if isinstance(source, Node))

    @property
    def label(self) -> str:
        """``KIND/NAME``."""
        return f"{self.step.kind}/{self.name}"

    @cached_property
    def artifact(self) -> Artifact:
        """The artifact, made or not.

        Raises:
            MissingInputError: If an input is not finished, on which its digest depends.
            PipelineError: If the settings don't fit the inputs.
        """
        return self.step.artifact(self)

    def status(self) -> ArtifactStatus:
        """Return the state of every unit, as this command found it, or made it."""
        if self._status is None:
            self._status = self.artifact.status()
        return self._status

    def is_complete(self) -> bool:
        """Return whether there is nothing to make; False while an input is missing."""
        try:
            return self.status().finished and self.step.is_complete(self)
        except (PipelineError, StorageError):
            return False

    def manifest(self) -> Manifest:
        """Return what the finished artifact states of itself.

        Raises:
            MissingInputError: If it is not finished, or a file of it is not what was written.
        """
        if self._manifest is None:
            try:
                self._manifest = self.artifact.manifest(self.status())
            except StorageError as error:
                raise MissingInputError(
                    f"{self.artifact.directory}: is not finished; run '{self.command}' first ({error})"
                ) from error
        return self._manifest

    def digest(self) -> str:
        """Return the digest of the manifest.

        Raises:
            MissingInputError: If the artifact is not finished.
            PipelineError: If it cannot be planned.
        """
        if self._digest is None:
            self._digest = self.manifest().digest()
        return self._digest

    def unit_count(self) -> int | None:
        """Return how many units it has or will have; None if not even an estimate is possible."""
        try:
            return len(self.artifact.description.units)
        except PipelineError:
            return self.step.unit_count(self)

    def upstream(self) -> list["Node"]:
        """Return all nodes that it is made of, directly or not, each once and after its own inputs."""
        found: dict[Node, None] = {}
        for node in self.inputs:
            found.update(dict.fromkeys([*node.upstream(), node]))
        return list(found)

    def make(self, execution: Execution) -> StageReport:
        """Make what is not done of it, and of its inputs what is made on demand.

        Raises:
            MissingInputError: If another input is not finished.
            PipelineError: If it fails.
        """
        if not self.step.trains:  # a training makes them itself, in the first of its processes
            self.make_inputs(execution)
            if not (self.artifact.directory / MANIFEST_FILE).exists():
                writable_runs_dir(self.runs)
        try:
            report = self.step.make(self, execution)
        finally:  # a run that failed has made units, too
            self._status = self._manifest = self._digest = None
        self._manifest = report.manifest
        return report

    def make_inputs(self, execution: Execution) -> None:
        """Make the inputs that are made on demand, unless another one is missing: then hours of work would be in vain.

        Raises:
            MissingInputError: If an input that is not made on demand is missing.
            PipelineError: If one cannot be made.
        """
        self._check_inputs()
        for node in self.upstream():
            if node.step.on_demand and not node.is_complete():
                logger.info("%s: is made first", node.label)
                node.make(replace(execution, reports=[]))  # the stage reports what it was asked for
        _ = self.artifact  # every digest is known now: raises for an input of another digest than those on disk

    def _check_inputs(self) -> None:
        """Raise an error where an input is missing, as far as that can be known before others are made.

        Raises:
            MissingInputError: If one is missing.
        """
        for node in self.inputs:
            if node.step.on_demand:
                continue
            node.step.refuse_if_absent(node)
            node._check_inputs()
            # With its own inputs there, its digest is known, and whether one of that digest is finished.
            if all(source.is_complete() for source in node.upstream() if source.step.on_demand):
                node.manifest()


class Finished(Step):
    """An artifact that was made elsewhere, in a directory that the settings name.

    Args:
        directory: As the settings have it.
        setting: That names it.
    """

    stage: StageName = "mine"

    def __init__(self, kind: str, directory: str, setting: str) -> None:
        self.kind = kind
        self._directory = Path(directory)
        self._setting = setting

    def artifact(self, node: Node) -> Artifact:
        """Open the directory.

        Raises:
            MissingInputError: If it holds no artifact.
        """
        del node
        try:
            return Artifact.open(self._directory)
        except StorageError as error:
            raise MissingInputError(
                f"{self._setting}: {self._directory} holds no artifact of {self.kind} ({error}); correct the path"
            ) from error

    def refuse_if_absent(self, node: Node) -> None:
        """Raise an error where there is none.

        Raises:
            MissingInputError: As `artifact`.
        """
        self.artifact(node)


class Refused(Step):
    """Takes the place of an input that the settings don't describe: whoever needs it gets the error.

    Args:
        error: Why there is none.
    """

    kind = "scenes"
    stage: StageName = "prepare"

    def __init__(self, error: PipelineError) -> None:
        self._error = error

    def refuse_if_absent(self, node: Node) -> None:
        """Raise the error.

        Raises:
            PipelineError: Always.
        """
        self.artifact(node)

    def artifact(self, node: Node) -> Artifact:
        """Raise the error.

        Raises:
            PipelineError: Always.
        """
        del node
        raise self._error


class Graph:
    """All artifacts that settings imply, each after those that it is made of.

    Args:
        name: Of artifacts that have no other.
        clip: The CLIP of all stages.

    Attributes:
        nodes: Artifacts that a run makes.
        others: Inputs that another command makes, or that the settings don't name.
    """

    def __init__(self, runs: Path, name: str, clip: ClipWeights) -> None:
        self.runs = runs
        self.name = name
        self.clip = clip
        self.nodes: list[Node] = []
        self.others: list[Node] = []

    def add(
        self,
        step: Step,
        sources: Mapping[str, Source | None] = MappingProxyType({}),
        *,
        name: str = "",
        made_here: bool = True,
        setting: str = "",
        command: str = "",
    ) -> Node:
        """Add an artifact.

        Args:
            sources: What it is made of, by role; None is left out.
            name: Of the artifact; that of the run by default.
            made_here: Whether this run makes it; otherwise it is an input that another command makes.
            setting: Name that the settings give it beside.
            command: What the user types to make it; by default that of its stage.
        """
        found = {role: source for role, source in sources.items() if source is not None}
        node = Node(step, name or self.name, self.runs, found, setting=setting, command=command)
        (self.nodes if made_here else self.others).append(node)
        return node

    def of_stage(self, stage: StageName) -> list[Node]:
        """Return the artifacts of a stage, in order."""
        return [node for node in self.nodes if node.step.stage == stage]

    def of_kind(self, kind: str) -> list[Node]:
        """Return the artifacts of a kind, in order."""
        return [node for node in self.nodes if node.step.kind == kind]

    def only(self, kind: str) -> Node:
        """Return the artifact of a kind that the run is about, whether it makes it or not.

        Of several that it makes that is the last: an average of weights comes after the weights.
        """
        made = self.of_kind(kind)
        return made[-1] if made else next(node for node in self.others if node.step.kind == kind)

    def scenes(self, setting: str, key: str = "datasets") -> Node:
        """Return the scenes of a data set by the name that the settings give it.

        A name that they don't describe gives a node that raises a `SettingsError` when it is needed.

        Args:
            key: Of the setting that names it.
        """
        known = {node.setting: node for node in self.nodes if node.setting}
        if setting not in known:
            message = f"{key}: a data set is expected, one of {', '.join(known) or 'none'}"
            error = SettingsError([f"{message}; describe it under 'datasets', and name it here (got {setting!r})"])
            return self.add(Refused(error), made_here=False)
        return known[setting]

    def scenes_or_none(self, setting: str, key: str) -> Node | None:
        """Return the scenes of a data set, as `scenes`, or None for an empty name."""
        return self.scenes(setting, key) if setting else None


def summary(nodes: Iterable[Node]) -> str:
    """Return what nodes of one stage read and write, by kinds: ``scenes, proposal_net -> proposals, pairs``."""
    nodes = list(nodes)
    written = dict.fromkeys(node.step.kind for node in nodes)
    read = dict.fromkeys(source.step.kind for node in nodes for source in node.inputs)
    return f"{', '.join(kind for kind in read if kind not in written) or 'data sets'} -> {', '.join(written)}"
