"""Data preparation: an official data set, or anybody's own, becomes an artifact of scenes.

Reads the data set's files and no artifact; writes ``scenes``.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.executors import Compute
from pipeline.prepare.layout import LayoutError, text_digest
from pipeline.prepare.source import SceneSource
from pipeline.prepare.sources import open_source
from pipeline.settings.prepare import PrepareSettings
from pipeline.settings.result import result_settings
from pipeline.shard_runner import Limits, StageReport, UnitPlan, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.scenes import KIND, SCHEMA_VERSION, Scene, ScenesAttributes, SceneShardWriter

RECIPE = 1
"""Raise it when the same settings and data come to mean other scenes."""

_READERS = 2


@dataclass(frozen=True, slots=True)
class PrepareJob:
    """Makes shards of scenes.

    Attributes:
        settings: Which data set, and how.
        keys_digest: Digest of the keys for which the work was planned.
    """

    settings: PrepareSettings
    keys_digest: str

    def open(self) -> SceneSource:
        """Open the data set.

        Raises:
            LayoutError: If it is not what it was when the work was planned.
        """
        source = open_source(self.settings)
        if text_digest(scene_keys(source, self.settings)) != self.keys_digest:
            message = f"{self.settings.dataset}: {self.settings.root} has other images than a moment ago; run again"
            raise LayoutError(message)
        return source

    def run(self, state: SceneSource, artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        first = artifact.description.units.index(unit) * self.settings.scenes_per_shard
        keys = scene_keys(state, self.settings)[first : first + self.settings.scenes_per_shard]
        with artifact.write_unit(unit) as unit_writer:
            writer = SceneShardWriter(unit_writer)
            for scene in read_ahead(state, keys):
                writer.add(scene)
            return writer.commit()


def prepare(
    settings: PrepareSettings, runs: Path, *, compute: Compute = Compute(), limits: Limits = Limits()
) -> StageReport:
    """Prepare a data set, as far as that is not done.

    Args:
        settings: Which data set, and how.
        runs: Runs directory.
        compute: Where shards are made.
        limits: When to give up.

    Raises:
        LayoutError: If the data set's directory does not look as its layout says.
        StageError: If a shard could not be made, or too many scenes are faulty.
    """
    plan = plan_prepare(settings, runs)
    return run_stage(plan.job, plan.artifact, compute=compute, limits=limits)


def plan_prepare(settings: PrepareSettings, runs: Path) -> UnitPlan[PrepareJob]:
    """Find out what a preparation will do; reads lists and annotations, and no image.

    Raises:
        LayoutError: If the data set's directory does not look as its layout says, or has no image.
    """
    source = open_source(settings)
    keys = scene_keys(source, settings)
    if not keys:
        message = (
            f"{settings.dataset}: {settings.root} has no image in split '{settings.split}'; correct --root or --split"
        )
        raise LayoutError(message)
    shards = -(-len(keys) // settings.scenes_per_shard)
    description = Description(
        identity=Identity(
            kind=KIND,
            name=f"{settings.dataset}-{settings.split}".removesuffix("-"),
            schema_version=SCHEMA_VERSION,
            recipe=RECIPE,
            settings={"options": result_settings(settings), "data": dict(source.identity())},
        ),
        units=tuple(f"shard-{number:05d}" for number in range(shards)),
        attributes=attributes_of(source).to_json(),
    )
    return UnitPlan(Artifact.planned(runs, description), PrepareJob(settings, text_digest(list(keys))))


def scene_keys(source: SceneSource, settings: PrepareSettings) -> list[str]:
    """Return the keys of the scenes to prepare, in order."""
    return list(source.keys()[: settings.limit])


def read_ahead(source: SceneSource, keys: Sequence[str]) -> Iterator[Scene]:
    """Read scenes in order, a few ahead of the one in hand: one is decoded while another is hashed and written."""
    with ThreadPoolExecutor(max_workers=_READERS) as readers:
        waiting: deque[Future[Scene]] = deque()
        for key in keys:
            waiting.append(readers.submit(source.scene, key))
            if len(waiting) > 2 * _READERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def attributes_of(source: SceneSource) -> ScenesAttributes:
    """Return what readers of the scenes need beside their rows."""
    return ScenesAttributes(
        vocabulary=source.vocabulary.name,
        class_names=source.vocabulary.class_names,
        seen=tuple(str(mark) for mark in source.vocabulary.marks),
        ignore_label=source.ignore_label,
        licence=source.licence,
    )
