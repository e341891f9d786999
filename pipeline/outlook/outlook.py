"""What a run would do: units per artifact, the disk that they take, and what is missing."""

import itertools
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pipeline.finetune.plan import units_of_phases
from pipeline.outlook.finding import Finding
from pipeline.outlook.machine import device_findings, tagger_findings
from pipeline.outlook.sizes import NetSizes, expected_bytes, shown_bytes
from pipeline.outlook.weights import clip_is_here, weights_findings
from pipeline.planning import PlannedArtifact
from pipeline.prepare.layout import LayoutError
from pipeline.prepare.prepare import scene_keys
from pipeline.prepare.sources import open_source
from pipeline.settings import PrepareSettings, Settings, SettingsError
from pipeline.stages import Stage
from pipeline.train_proposals.held_out import check_held_out
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import ADAPTED_CLIP, PROPOSAL_NET
from storage_schemas.errors import StorageError
from storage_schemas.status import UnitState
from storage_schemas.verification import nothing_kept

logger = logging.getLogger(__name__)

OFFICIAL_SCENES = {
    ("coco", "train2017"): 118_287,
    ("coco", "val2017"): 5000,
    ("ade20k-150", "val"): 2000,
    ("ade20k-847", "val"): 2000,
    ("pascal-context-59", "val"): 5105,
    ("pascal-context-459", "val"): 5105,
    ("pascal-voc-20", "val"): 1449,
}
"""Pictures of official splits, for data that is not there yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactOutlook:
    """What a run would do for one artifact.

    Attributes:
        stage: That makes it.
        label: ``KIND/NAME-DIGEST``, or ``KIND/NAME`` while the digest cannot be known; behind it, in brackets, the name
            that settings give a folder.
        todo: Units to make; None if not even an estimate is possible.
        done: Units that are made.
        spoilt: Units among ``todo`` that lie there, of other settings or damaged.
        is_estimate: Units follow from settings and counts of pictures, as an input is not made yet.
        new_bytes: What the units to make will take, about; None if unknown.
        reason: Why it is an estimate; empty otherwise.
    """

    stage: str
    label: str
    todo: int | None
    done: int = 0
    spoilt: int = 0
    is_estimate: bool = False
    new_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run would do, write and need.

    Attributes:
        artifacts: In the order of the dataflow.
        findings: What is missing, or will have to be fetched.
        disk: The existing directory whose disk is written to.
        free_bytes: What is free there.
    """

    artifacts: tuple[ArtifactOutlook, ...]
    findings: tuple[Finding, ...]
    disk: Path
    free_bytes: int

    @property
    def new_bytes(self) -> int:
        """What is known of what will be written, about."""
        return sum(artifact.new_bytes or 0 for artifact in self.artifacts)

    @property
    def unknown_sizes(self) -> tuple[str, ...]:
        """Artifacts to make whose size cannot be told."""
        return tuple(each.label for each in self.artifacts if each.todo != 0 and each.new_bytes is None)

    @property
    def is_all_there(self) -> bool:
        """Whether nothing is missing that the run would stop at."""
        return not any(finding.is_missing for finding in self.findings)


def outlook(settings: Settings, stages: tuple[Stage, ...]) -> Outlook:
    """Find out what a run would do; nothing is downloaded, made or written.

    Args:
        settings: Of the run.
        stages: That it would go through.

    Raises:
        ValueError: If CLIP or the backbone is no known architecture.
        PipelineError: If the file of an architecture cannot be read.
    """
    with nothing_kept():
        world = _World(settings)
        artifacts = tuple(each for stage in stages for each in world.artifacts(stage))
        findings = [
            *world.data_findings(),
            *world.label_findings(),
            *weights_findings(settings),
            *_pairs_finding(settings),
        ]
        writing = {each.stage for each in artifacts if each.todo != 0}
        findings += [
            *_held_out_finding(settings),
            *device_findings(settings, writing),
            *tagger_findings(settings, writing),
        ]
    disk = existing_parent(settings.runs_dir)
    free = shutil.disk_usage(disk).free
    found = Outlook(artifacts=artifacts, findings=(), disk=disk, free_bytes=free)
    findings += _disk_findings(settings, found)
    return Outlook(artifacts=artifacts, findings=tuple(findings), disk=disk, free_bytes=free)


def existing_parent(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    whole = path.absolute()
    return next(each for each in (whole, *whole.parents) if each.exists())


class _World:
    """What settings say of data and nets, looked up once each."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clip_is_here = clip_is_here(settings.clip)
        self._scenes = {name: _SceneCount.of(data) for name, data in settings.datasets.items()}

    @cached_property
    def _nets(self) -> NetSizes:
        return NetSizes.of(self._settings)

    def data_findings(self) -> Iterator[Finding]:
        """List the data sets that are not there or not as their layout says."""
        for name, count in self._scenes.items():
            if count.fault:
                text = f"{count.fault}; docs/data_preparation.md says where it comes from"
                yield Finding(f"datasets.{name}", text, is_missing=True)

    def label_findings(self) -> Iterator[Finding]:
        """List the stages that need labels of a data set that has none."""
        settings = self._settings
        needed = [
            ("proposal_net.dataset", settings.proposal_net.dataset),
            ("proposal_net.validation_dataset", settings.proposal_net.validation_dataset),
            ("finetune.validation_dataset", settings.finetune.validation_dataset),
            *(
                (f"evaluate.datasets.{place}.dataset", each.dataset)
                for place, each in enumerate(settings.evaluate.datasets)
            ),
        ]
        for key, name in needed:
            if name in self._scenes and self._scenes[name].labels == 0:
                yield Finding(
                    key, f"{name}: no scene has a labelled pixel; name a data set with labels", is_missing=True
                )

    def artifacts(self, stage: Stage) -> Iterator[ArtifactOutlook]:
        """Look at the artifacts of one stage, each planned if that is possible without a download."""
        if stage.name != "prepare" and not self._clip_is_here:
            logger.debug("%s: cannot be planned before CLIP is here", stage.name)
            for label in self._labels(stage):
                yield self._estimated(stage, label, "CLIP's weights are not here, so what is done cannot be told")
            return
        names = self._scenes if stage.name == "prepare" else itertools.repeat("")
        for planned, name in zip(stage.artifacts(self._settings), names, strict=False):
            if planned.artifact is None:
                yield self._estimated(stage, planned.label, planned.reason, name)
            else:
                yield self._known(stage, planned, planned.artifact, name)

    def _labels(self, stage: Stage) -> Iterator[str]:
        """Name the artifacts of a stage that cannot be planned."""
        name = self._settings.name
        mines = bool(self._settings.mine.dataset)
        if stage.name == "train-proposals" and self._settings.proposal_net.dataset:
            yield f"{PROPOSAL_NET}/{name}"
        elif stage.name == "mine" and mines:
            kinds = ("embeddings", "pairs") if self._settings.mine.uses_ground_truth_masks else _MINED
            yield from (f"{kind}/{name}" for kind in kinds)
        elif stage.name == "finetune" and (mines or self._settings.finetune.pairs_dir):
            yield f"{ADAPTED_CLIP}/{name}"
        elif stage.name == "evaluate" and self._settings.evaluate.datasets:
            yield from (f"scores/{name}-{each.dataset}" for each in self._settings.evaluate.datasets)
            yield f"reports/{name}"

    def _estimated(self, stage: Stage, label: str, reason: str, dataset: str = "") -> ArtifactOutlook:
        """Estimate an artifact whose inputs are not made."""
        kind, count = label.partition("/")[0], self._scene_count(label, dataset)
        units = self._unit_count(kind, count)
        return ArtifactOutlook(
            stage=stage.name,
            label=label,
            todo=units,
            is_estimate=True,
            new_bytes=None if count is None else expected_bytes(kind, self._settings, self._nets, count.scenes or 0),
            reason=reason,
        )

    def _known(self, stage: Stage, planned: PlannedArtifact, artifact: Artifact, dataset: str) -> ArtifactOutlook:
        """Look at an artifact whose place is known."""
        status = artifact.status()
        count, kind, units = self._scene_count(planned.label, dataset), artifact.identity.kind, len(status.units)
        todo = len(status.todo)
        whole = 0 if not todo else None
        if todo and count is not None:
            whole = expected_bytes(kind, self._settings, self._nets, count.scenes or 0)
        return ArtifactOutlook(
            stage=stage.name,
            label=f"{kind}/{artifact.directory.name}" + (f" ({planned.dataset})" if planned.dataset else ""),
            todo=todo,
            done=units - todo,
            spoilt=len(status.of_state(UnitState.STALE)) + len(status.of_state(UnitState.CORRUPT)),
            new_bytes=None if whole is None else round(whole * todo / max(1, units)),
        )

    def _scene_count(self, label: str, dataset: str) -> "_SceneCount | None":
        """Return how many scenes an artifact is made of; None if that is unknown. Without a data set its name tells."""
        kind, _, name = label.partition("/")
        if kind in (PROPOSAL_NET, ADAPTED_CLIP, "reports"):
            return _SceneCount(0, 0)
        mined = self._settings.mine.dataset if kind in _MINED else ""
        count = self._scenes.get(dataset or mined or name.removeprefix(f"{self._settings.name}-"))
        return None if count is None or count.scenes is None else count

    def _unit_count(self, kind: str, count: "_SceneCount | None") -> int | None:
        """Return how many units an artifact of the kind will have."""
        if kind == PROPOSAL_NET:
            return 2
        if kind == ADAPTED_CLIP:
            return len(units_of_phases(self._settings.finetune.phases)) + 1
        if kind == "reports":
            return 1
        return None if count is None else count.units


_MINED = ("proposals", "embeddings", "pairs")


@dataclass(frozen=True, slots=True)
class _SceneCount:
    """How many scenes a data set has.

    Attributes:
        scenes: Number; None if unknown.
        units: Shards that they will fill.
        fault: Why the data set cannot be read; empty if it can.
        labels: How many labels it has; None if unknown.
    """

    scenes: int | None
    units: int | None
    fault: str = ""
    labels: int | None = None

    @classmethod
    def of(cls, data: PrepareSettings) -> "_SceneCount":
        """Count the scenes that are there; for an official split that is not, take its official number."""
        fault = ""
        number: int | None
        labels = None
        try:
            source = open_source(data)
            number, found = len(scene_keys(source, data)), source.found()
            labels, fault = found.labels if source.vocabulary.class_names else 0, found.no_label_used
        except LayoutError as error:
            fault = str(error)
            number = OFFICIAL_SCENES.get((data.dataset, data.split))
            number = number if number is None or data.limit is None else min(number, data.limit)
        if number == 0:
            fault = f"{data.dataset}: {data.root} has no image in split '{data.split}'; correct root or split"
        units = None if number is None else -(-number // data.scenes_per_shard)
        return cls(number, units, fault, labels)


def _pairs_finding(settings: Settings) -> Iterator[Finding]:
    """Say that pairs mined elsewhere are not there."""
    directory = settings.finetune.pairs_dir
    if directory:
        try:
            Artifact.open(Path(directory))
        except StorageError as error:
            yield Finding("finetune.pairs_dir", f"{error}; correct the path", is_missing=True)


def _held_out_finding(settings: Settings) -> Iterator[Finding]:
    """Say that a held-out class is none of the data set's."""
    try:
        check_held_out(settings)
    except SettingsError as error:
        where, _, text = str(error).partition(": ")
        yield Finding(where, text, is_missing=True)
    except LayoutError:
        logger.debug("the data set whose classes are held out is not there, which is told by itself")


def _disk_findings(settings: Settings, found: Outlook) -> Iterator[Finding]:
    """Say that the disk is too small or cannot be written to."""
    if not found.disk.is_dir() or not os.access(found.disk, os.W_OK):
        text = f"{settings.runs_dir} cannot be made or written to; choose another directory"
        yield Finding("runs_dir", text, is_missing=True)
    if found.new_bytes > found.free_bytes:
        text = f"about {shown_bytes(found.new_bytes)} will be written, {shown_bytes(found.free_bytes)} are free there"
        yield Finding("runs_dir", f"{text}; make room, or choose a directory on another disk", is_missing=True)
