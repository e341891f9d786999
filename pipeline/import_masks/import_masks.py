"""Masks of others become proposals: no model takes part.

Reads ``scenes`` and files of masks; writes ``proposals``.
"""

import logging
import operator
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np

from pipeline.errors import StageError
from pipeline.executors import Compute
from pipeline.graph import Finished, Node, ParameterCounts, Step
from pipeline.import_masks.pictures import ScenePictures
from pipeline.import_masks.rules import RankedMask, sifted
from pipeline.import_masks.segmentation import LOST, PICTURE_UNKNOWN, MaskFault, PictureFrame, net_mask
from pipeline.import_masks.sources import KnownFormat, MaskFiles, OpenSource
from pipeline.mine.regions import EXPECTED, NO_CAPTION, NO_PROPOSALS, NetSize
from pipeline.ordered_threads import in_threads, use_threads
from pipeline.settings import ComputeSettings, MasksSettings, result_settings
from pipeline.shard_runner import Execution, Limits, StageReport
from pipeline.stage_names import StageName
from pipeline.text_tables import text_table
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.cards import has_current_card, write_card
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.proposals import (
    KIND,
    SCHEMA_VERSION,
    UNPLACED,
    ProposalShardWriter,
    RefusedMask,
    SceneProposals,
)
from storage_schemas.rle import areas_px, boxes_xyxy
from storage_schemas.scenes import KIND as SCENES
from storage_schemas.scenes import ScenesAttributes, SceneShard

logger = logging.getLogger(__name__)

_MASK_BYTES = 800  # run lengths (710 bytes for COCO's own masks at 512 px), box, numbers
_MASKS_PER_SCENE = 50
_MAKER = "import-masks 1"
_CARD_FILE = "imported.md"


@dataclass(frozen=True, kw_only=True)
class ImportMasks(Step):
    """Makes proposals of masks of others.

    Attributes:
        settings: Where they are, and which are kept.
        size: At which regions are expected.
        captioned: Whether scenes without a caption are passed over, as `Propose` does for mining.
        where: Setting that names the masks, for messages.
    """

    settings: MasksSettings
    size: NetSize
    compute: ComputeSettings
    captioned: bool = False
    where: str = "masks"

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 1
    stage: StageName = "prepare"
    on_demand = True
    computes = False
    tolerated = EXPECTED | {PICTURE_UNKNOWN, LOST}

    @cached_property
    def files(self) -> MaskFiles:
        """The files, found when they are first asked for."""
        return MaskFiles(self.where, self.settings)

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the rules, the size, and the digests of the files.

        Raises:
            MaskSourceError: If there are no files, or it cannot be found out what they are.
        """
        digest: Mapping[str, Json] = self.files.digest(node.runs.absolute() / ".data_sets")
        options = {**result_settings(self.settings), "format": self.files.format}
        size: Mapping[str, Json] = self.size._asdict()
        return {"options": options, "data": digest, "size": size, "captioned": self.captioned}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the shards of the scenes, and one for the pictures that are none of them."""
        return (*super().units(node), UNPLACED)

    def check(self, node: Node) -> None:
        """Check that there are files of a known kind.

        Raises:
            MaskSourceError: If not.
        """
        del node
        _ = self.files.format

    def job(self, node: Node) -> "ImportMasksJob":
        """Return what makes a shard."""
        return ImportMasksJob(
            scenes=node["scenes"].artifact,
            where=self.where,
            settings=self.settings,
            format=self.files.format,
            size=self.size,
            captioned=self.captioned,
            compute=WorkerCompute.of(self.compute),
        )

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Import the masks, and write the card that counts what became of them.

        Raises:
            MaskSourceError: If a file cannot be used at all, or no mask is of a scene.
            StageError: If units failed, too many masks don't fit, or none is left.
        """
        if node.artifact.status().todo:
            self.files.open(ScenePictures(node["scenes"].artifact))  # raises once what every unit would raise
        report = super().make(node, execution)
        counts = report.manifest.counts
        if not any(cast("int", unit.facts["kept"]) for unit in report.manifest.units):
            raise StageError(f"{node.artifact.directory}: no mask is left, the rows are {counts}; see their reasons")
        if not has_current_card(node.artifact, maker=_MAKER, manifest=report.manifest):
            facts = import_facts(node.artifact)
            write_card(node.artifact, maker=_MAKER, facts=facts, files={_CARD_FILE: _import_text(facts).encode()})
            logger.info("proposals %s: %s", node.name, import_line(facts))
        return report

    def is_complete(self, node: Node) -> bool:
        """Return whether the card is there."""
        return has_current_card(node.artifact, maker=_MAKER, manifest=node.manifest())

    def unit_count(self, node: Node) -> int | None:
        """Return the number of shards of the scenes, and one."""
        scenes = super().unit_count(node)
        return None if scenes is None else scenes + 1

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from some masks a scene."""
        del counts
        return scenes * _MASKS_PER_SCENE * _MASK_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportMasksJob:
    """Makes shards of imported masks.

    Attributes:
        scenes: Of which the masks are, finished.
        where: Setting that names the masks.
        format: Kind of the files.
    """

    scenes: Artifact
    where: str
    settings: MasksSettings
    format: KnownFormat
    size: NetSize
    captioned: bool
    compute: WorkerCompute

    def open(self) -> "MaskImporter":
        """Find out which masks are of which scene.

        Raises:
            MaskSourceError: If a file cannot be used at all, or no mask is of a scene.
        """
        use_threads(self.compute.decode_threads, processes=self.compute.processes)
        settings = self.settings.model_copy(update={"format": self.format})
        pictures = ScenePictures(self.scenes)
        return MaskImporter(self, MaskFiles(self.where, settings).open(pictures), pictures)

    def run(self, state: "MaskImporter", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard; masks of a picture are read while those before are written."""
        with artifact.write_unit(unit) as unit_writer:
            writer = ProposalShardWriter(unit_writer, embedding_dim=0)
            total: Counter[str] = Counter()
            for proposals, counted in in_threads(operator.call, state.reads(unit)):
                writer.add(proposals)
                total.update(counted)
            facts: dict[str, Json] = {name: total[name] for name in ("read", "swapped", "kept")}
            rules: dict[str, Json] = {name: count for name, count in sorted(total.items()) if name not in facts}
            return writer.commit({**facts, "rules": rules})


def import_masks(
    settings: MasksSettings,
    scenes: Path,
    runs: Path,
    *,
    size: NetSize,
    compute: ComputeSettings,
    captioned: bool = False,
) -> StageReport:
    """Import masks for an artifact of scenes, without settings of a whole run.

    Args:
        settings: Where the masks are, and which are kept.
        scenes: Directory of the scenes.
        runs: Runs directory, in which the proposals will lie.
        size: At which regions are expected.
        compute: Processes, and how much may go wrong.
        captioned: Whether scenes without a caption are passed over, as mining does.

    Raises:
        PipelineError: If there are no scenes or masks, or they don't fit each other.
    """
    source = Node(Finished(SCENES, str(scenes), "scenes"), SCENES, runs, {})
    ScenesAttributes.of(source.artifact)  # raises if they are none
    step = ImportMasks(settings=settings, size=size, compute=compute, captioned=captioned, where=str(settings.path))
    name = imported_name(source.artifact.identity.name)
    node = Node(step, name, runs, {"scenes": source}, command="ovseg import-masks")
    limits = Limits(max_failed_units=compute.max_failed_units, max_failed_share=compute.max_failed_share)
    return node.make(Execution(Compute(workers=compute.workers), limits))


def imported_name(scenes: str) -> str:
    """Return the name of the proposals of scenes by theirs."""
    return f"{scenes}-imported"


Imported = tuple[SceneProposals, Counter[str]]


class MaskImporter:
    """A source at work on scenes.

    Args:
        job: What is asked for.
        source: Of the masks.
        pictures: The scenes.
    """

    def __init__(self, job: ImportMasksJob, source: OpenSource, pictures: ScenePictures) -> None:
        self._job = job
        self._source = source
        self._pictures = pictures

    def reads(self, unit: str) -> Iterator[Callable[[], Imported]]:
        """Yield, for each scene of a shard in order, what reads its masks."""
        if unit == UNPLACED:
            for name, refused in self._source.unplaced():
                unplaced: Imported = SceneProposals.failed(name, 0, *refused), Counter()
                yield [unplaced].pop  # nothing is left to read
            return
        first = self._pictures.first_of_unit[unit]
        columns = ["key", "status", "reason", "height_px", "width_px", "exif_orientation", "captions"]
        index = SceneShard(self._job.scenes, unit).index.select(columns)
        for place, row in enumerate(index.to_pylist()):
            yield partial(self.scene, first + place, row)

    def scene(self, number: int, row: Mapping[str, object]) -> Imported:
        """Read, check and sift the masks of one scene."""
        key, status, reason = (str(row[name]) for name in ("key", "status", "reason"))
        if status != OK:
            return SceneProposals.failed(key, 0, status, reason), Counter()
        if self._job.captioned and not row["captions"]:
            reason = "the scene has no caption, so nothing could be paired with it"
            return SceneProposals.failed(key, 0, NO_CAPTION, reason), Counter()
        height, width, turn = (cast("int", row[name]) for name in ("height_px", "width_px", "exif_orientation"))
        frame = PictureFrame.of(height, width, turn, self._job.size, self._job.settings.pixels)
        counted: Counter[str] = Counter()
        refused: list[RefusedMask] = []
        ranked: list[RankedMask] = []
        given: list[int | None] = []
        for found in self._source.masks(number, frame):
            counted["read"] += 1
            try:
                if isinstance(found, RefusedMask):
                    refused.append(found)
                    continue
                mask = net_mask(found, frame)
            except MaskFault as fault:
                refused.append(fault.refused)
                continue
            counted["swapped"] += mask.was_swapped
            area = int(areas_px([mask.counts], *frame.net)[0])
            category = None if found.category is None else str(found.category)
            number_in_picture = counted["read"] - 1
            ranked.append(
                RankedMask(number_in_picture, counts=mask.counts, area_px=area, score=found.score, category=category)
            )
            given.append(found.query)
        # Our own export numbers masks by their queries, which are the regions of pairs.
        numbers = [number for number in given if number is not None]
        if len(numbers) == len(ranked) and all(one < other for one, other in pairwise(numbers)):
            ranked = [replace(mask, query=number) for mask, number in zip(ranked, numbers, strict=True)]
        kept, of_rules = sifted(ranked, self._job.settings.rules, *frame.net)
        counted.update(of_rules)
        counted["kept"] += len(kept)
        if not kept:
            reason = f"of {counted['read']} masks of the picture none is left" if counted["read"] else "has no mask"
            return SceneProposals.failed(key, 0, NO_PROPOSALS, f"{self._job.where}: {reason}", refused), counted
        counts = [mask.counts for mask in kept]
        proposals = SceneProposals(
            key=key,
            height_px=frame.net[0],
            width_px=frame.net[1],
            queries=np.array([mask.query for mask in kept], np.int32),
            mask_counts=counts,
            areas_px=np.array([mask.area_px for mask in kept], np.int64),
            boxes_xyxy=boxes_xyxy(counts, *frame.net),
            objectness=np.array([mask.score for mask in kept], np.float32),
            embeddings=np.zeros((len(kept), 0), np.float32),
            refused=refused,
        )
        return proposals, counted


def import_facts(artifact: Artifact) -> dict[str, Json]:
    """Sum up what became of the masks, over all units of a finished artifact."""
    manifest = artifact.manifest()
    rules: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    for unit in manifest.units:
        rules.update(cast("dict[str, int]", unit.facts["rules"]))
        totals.update({name: cast("int", unit.facts[name]) for name in ("read", "kept", "swapped")})
    refused = {status: count for status, count in manifest.counts.items() if status != OK}
    return {**totals, "rules": dict(rules), "other_rows": dict(refused)}


def import_line(facts: Mapping[str, Json]) -> str:
    """Say in one line what became of the masks."""
    dropped = sum(cast("dict[str, int]", facts["rules"]).values())
    unknown = cast("dict[str, int]", facts["other_rows"]).get(PICTURE_UNKNOWN, 0)
    line = f"{facts['kept']} of {facts['read']} masks are kept, rules dropped or joined {dropped}"
    return f"{line}; {unknown} pictures of the source are no scene" if unknown else line


def _import_text(facts: Mapping[str, Json]) -> str:
    """Write the card: what became of all masks."""
    read = cast("int", facts["read"])
    rows = [("masks read", str(read)), ("kept", str(facts["kept"]))]
    rows += [(f"rule {name}", str(count)) for name, count in cast("dict[str, int]", facts["rules"]).items() if count]
    rows += [(f"rows {status}", str(count)) for status, count in cast("dict[str, int]", facts["other_rows"]).items()]
    rows += [("size was swapped, and is right", str(facts["swapped"]))] if facts["swapped"] else []
    return f"# Imported masks\n\n```text\n{text_table(('what', 'count'), rows, words=('what',))}```\n"
