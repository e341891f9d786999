"""Data preparation: an official data set, or anybody's own, becomes an artifact of scenes.

Reads the data set's files and no artifact; writes ``scenes``.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.ordered_threads import in_threads
from pipeline.prepare.data_root import LayoutError, text_digest
from pipeline.prepare.data_sets import open_source
from pipeline.prepare.plan_cache import DataSetFacts, PlanCache
from pipeline.prepare.report import report_of_artifact
from pipeline.prepare.source import SceneSource
from pipeline.settings import PrepareSettings, result_settings, writable_runs_dir
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.cards import has_current_card, write_card
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.scenes import KIND, SCHEMA_VERSION, ScenesAttributes, SceneShardWriter
from storage_schemas.status import CARD_DIRECTORY

logger = logging.getLogger(__name__)

PRODUCER_VERSION = 3
"""Raise it when the same settings and data come to mean other scenes."""

OFFICIAL_SCENES = {
    ("coco", "train2017"): 118_287,
    ("coco", "val2017"): 5000,
    ("ade20k-150", "val"): 2000,
    ("ade20k-847", "val"): 2000,
    ("pascal-context-59", "val"): 5105,
    ("pascal-context-459", "val"): 5105,
    ("pascal-voc-20", "val"): 1449,
    ("pascal-voc-21", "val"): 1449,
}
"""Pictures of official splits, for data that is not there yet."""

_SCENE_BYTES = 186_000  # of COCO; docs/guides/reproduce.md says where measured sizes are from
_READERS = 2  # threads that read pictures of a shard
_PLAN_HOLDS_S = 60.0  # after that, files are checked again before scenes are made of them
_REPORT_MAKER = "prepare 2"
_REPORT_FILE = "prepared.md"


class OpenDataSet(NamedTuple):
    """A data set at work, and the keys of the scenes to prepare, in order."""

    source: SceneSource
    keys: Sequence[str]


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """Makes shards of scenes.

    Attributes:
        settings: Which data set, and how.
        facts: What was known of it when the work was planned.
    """

    settings: PrepareSettings
    facts: DataSetFacts

    def open(self) -> OpenDataSet:
        """Open the data set.

        Raises:
            LayoutError: If it is not what it was when the work was planned.
        """
        source = open_source(self.settings)
        keys = scene_keys(source, self.settings)
        if text_digest(keys) != self.facts.keys_digest:
            raise LayoutError(
                f"{self.settings.dataset}: {self.settings.root} has other images than a moment ago; run again"
            )
        return OpenDataSet(source, keys)

    def run(self, state: OpenDataSet, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        first = artifact.description.units.index(unit) * self.settings.scenes_per_shard
        keys = state.keys[first : first + self.settings.scenes_per_shard]
        with artifact.write_unit(unit) as unit_writer:
            writer = SceneShardWriter(unit_writer)
            # One picture is decoded while another is hashed and written.
            for scene in in_threads(state.source.scene, keys, threads=_READERS):
                writer.add(scene)
            return writer.commit()


class PreparePlan(NamedTuple):
    """The artifact of the scenes, made or not, and what makes a shard of them."""

    artifact: Artifact
    job: PrepareJob


class Prepare(Step):
    """Makes the scenes of a data set.

    Args:
        settings: Which data set, and how.
    """

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = PRODUCER_VERSION
    stage: StageName = "prepare"
    on_demand = True
    computes = False

    def __init__(self, settings: PrepareSettings) -> None:
        self.settings = settings
        self._planned: PreparePlan | LayoutError | None = None
        self._planned_s = 0.0

    def plan(self, runs: Path) -> PreparePlan:
        """Plan the preparation, once; see `plan_prepare`.

        Raises:
            LayoutError: If the data set's directory is not in the expected layout.
        """
        if self._planned is None:
            self._planned_s = time.monotonic()
            try:
                self._planned = plan_prepare(self.settings, runs)
            except LayoutError as error:
                self._planned = error
        if isinstance(self._planned, LayoutError):
            raise self._planned
        return self._planned

    def artifact(self, node: Node) -> Artifact:
        """Return the artifact of the scenes, made or not.

        Raises:
            LayoutError: If the data set's directory is not in the expected layout.
        """
        return self.plan(node.runs).artifact

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Make the scenes that are not made, and the report of what was used.

        Raises:
            LayoutError: If the data set has changed since it was planned.
        """
        plan = self.plan(node.runs)
        # A command plans all data sets, and may come to this one hours later.
        if time.monotonic() - self._planned_s > _PLAN_HOLDS_S:
            again = plan_prepare(self.settings, node.runs)
            if again.artifact.directory != plan.artifact.directory:
                raise LayoutError(
                    f"{self.settings.dataset}: {self.settings.root} has changed since this command began; run it again"
                )
        return prepare(self.settings, node.runs, execution=execution, plan=plan)

    def unit_count(self, node: Node) -> int | None:
        """Return the shards of an official split that is not here; None if the number of its scenes is unknown."""
        scenes = self.scene_count(node)
        return None if scenes is None else -(-scenes // self.settings.scenes_per_shard)

    def scene_count(self, node: Node) -> int | None:
        """Return how many scenes there are, or will be of an official split that is not here; None if unknown."""
        try:
            return self.plan(node.runs).job.facts.scenes
        except LayoutError:
            number = OFFICIAL_SCENES.get((self.settings.dataset, self.settings.split))
            return number if number is None or self.settings.limit is None else min(number, self.settings.limit)

    def label_count(self, node: Node) -> int | None:
        """Return how many labels there are; None if the data set is not here."""
        try:
            plan = self.plan(node.runs)
        except LayoutError:
            return None
        return plan.job.facts.found.labels if ScenesAttributes.of(plan.artifact).class_names else 0

    def caption_count(self, node: Node) -> int | None:
        """Return how many captions there are; None if the data set is not here."""
        try:
            return self.plan(node.runs).job.facts.found.captions
        except LayoutError:
            return None

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from COCO's pictures."""
        del counts
        return scenes * _SCENE_BYTES


def scenes_name(settings: PrepareSettings) -> str:
    """Return the name of the scenes of a data set."""
    return f"{settings.dataset}-{settings.split}".removesuffix("-")


def prepare(
    settings: PrepareSettings,
    runs: Path,
    *,
    execution: Execution | None = None,
    plan: PreparePlan | None = None,
) -> StageReport:
    """Prepare a data set, as far as that is not done, and write the report of what was used beside it.

    Args:
        settings: Which data set, and how.
        execution: Where shards are made, and when to give up; by default in this process.
        plan: What `plan_prepare` returned; by default the data set is planned now.

    Raises:
        LayoutError: If the data set's directory is not in the expected layout, or none of its labels can be used.
        StageError: If a shard could not be made, or too many scenes are faulty.
    """
    plan = plan or plan_prepare(settings, runs)
    if not plan.artifact.status().finished:
        writable_runs_dir(runs)
    made = (execution or Execution()).run(plan.job, plan.artifact)
    PlanCache(settings, runs).keep()  # the runs directory may not have been there when it was planned
    if not has_current_card(plan.artifact, maker=_REPORT_MAKER):
        report = report_of_artifact(plan.artifact, plan.job.facts.found)
        files = {_REPORT_FILE: report.to_markdown().encode()}
        write_card(plan.artifact, maker=_REPORT_MAKER, facts=report.to_json(), files=files)
        for warning in report.warnings():
            logger.warning("%s %s: %s", KIND, plan.artifact.identity.name, warning)
    return made


def prepare_report(artifact: Artifact) -> str:
    """Return the report of what was found and used, as tables.

    Raises:
        OSError: If the artifact has none.
    """
    text = (artifact.directory / CARD_DIRECTORY / _REPORT_FILE).read_text(encoding="utf-8")
    return text.partition("```text\n")[2].removesuffix("```\n")


def plan_prepare(settings: PrepareSettings, runs: Path) -> PreparePlan:
    """Plan a preparation: open the data set and digest its lists, annotations and label files, but no picture.

    Where none of its files has changed since an earlier plan of the same settings, none is read.

    Raises:
        LayoutError: If the data set's directory is not in the expected layout, has no image, or has labels of which
            none can be used.
    """
    cache = PlanCache(settings, runs)
    facts = cache.facts()
    if facts is None:
        begun_ns = time.time_ns()
        source = open_source(settings)
        keys = scene_keys(source, settings)
        if not keys:
            message = f"{settings.dataset}: {settings.root} has no image in split '{settings.split}'"
            raise LayoutError(f"{message}; correct --root or --split")
        found = source.found()
        if found.no_label_used:
            raise LayoutError(f"{settings.dataset}: {settings.root}: no label can be used: {found.no_label_used}")
        facts = DataSetFacts(
            scenes=len(keys),
            keys_digest=text_digest(keys),
            identity=dict(source.identity(cache.digests(), keys)),
            attributes=attributes_of(source).to_json(),
            found=found,
        )
        cache.note(facts, source.accessed, begun_ns)
    cache.keep()
    shards = -(-facts.scenes // settings.scenes_per_shard)
    description = Description(
        identity=Identity(
            kind=KIND,
            name=scenes_name(settings),
            schema_version=SCHEMA_VERSION,
            producer_version=PRODUCER_VERSION,
            settings={"options": result_settings(settings), "data": facts.identity},
        ),
        units=tuple(f"shard-{number:05d}" for number in range(shards)),
        attributes=facts.attributes,
    )
    return PreparePlan(Artifact.planned(runs, description), PrepareJob(settings, facts))


def scene_keys(source: SceneSource, settings: PrepareSettings) -> list[str]:
    """Return the keys of the scenes to prepare, in order."""
    return list(source.keys()[: settings.limit])


def attributes_of(source: SceneSource) -> ScenesAttributes:
    """Return what readers of the scenes need beside their rows."""
    return ScenesAttributes(
        vocabulary=source.vocabulary.name,
        class_names=source.vocabulary.class_names,
        seen=tuple(str(mark) for mark in source.vocabulary.marks),
        ignore_label=source.ignore_label,
        licence=source.licence,
    )
