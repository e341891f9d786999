"""Step 3 of mining: each noun gets the region whose embedding is nearest, and the region's box is cut out.

Reads ``scenes`` (captions and pictures), ``embeddings``, the regions that they are of, and the nouns'
``text_embeddings``; writes ``pairs``. No picture goes through a model.
"""

import io
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.errors import StageError
from pipeline.graph import Node, ParameterCounts, Step
from pipeline.mine.card import make_card, maker_of
from pipeline.mine.embed import sharing_of
from pipeline.mine.regions import (
    AREA_BELOW_MIN,
    EXPECTED,
    SCORE_BELOW_MIN,
    SCORE_NOT_FINITE,
    UNDECODABLE,
    NetSize,
    RegionSource,
    SceneRegions,
    left_out_identity,
    net_picture,
    net_size,
    regions_of,
)
from pipeline.mine.scene_nouns import (
    NounSource,
    SceneNoun,
    check_data_set,
    check_scenes,
    noun_identity,
    noun_source,
)
from pipeline.mine.tagger.sources import load_tagger
from pipeline.ordered_threads import in_threads, use_threads
from pipeline.settings import ComputeSettings, MineSettings, PairSettings, result_settings
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from pipeline.stored_pictures import UndecodableError
from pipeline.text_embeddings import Vector, embed_names, vectors_of
from pipeline.worker_device import WorkerCompute
from storage_schemas.artifact import Artifact
from storage_schemas.cards import has_current_card
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.embeddings import SceneEmbeddings, read_embeddings
from storage_schemas.manifest import Sidecar
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene, ScenesAttributes

logger = logging.getLogger(__name__)

_PAIR_BYTES = 110_000  # a crop as PNG, of a net input of 512 px, and its mask; docs/guides/reproduce.md
_PAIRS_PER_SCENE = 3.74  # of the paper, for one caption
_JPEG_QUALITY = 95  # Pillow advises against more: files grow, and pixels hardly change
_PNG_LEVEL = 1  # higher ones take several times as long and save a tenth on photographs
_SMALL_SIDE_PX = 256  # of "jpg-256": a random window of nine tenths of it still has CLIP's 224 px


@dataclass(frozen=True, kw_only=True)
class PairNouns(Step):
    """Makes pairs of regions and nouns.

    Attributes:
        compute: Where nouns are embedded.
    """

    mining: MineSettings
    compute: ComputeSettings

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 4
    stage: StageName = "mine"
    tolerated = EXPECTED

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return the settings of step 3 and what decides the nouns; their embeddings follow from these and CLIP.

        Raises:
            SettingsError: If the scenes lack what pairs are made of.
            TaggerMissingError: If what the tagger needs is not installed.
        """
        check_scenes(node["scenes"], self.mining)
        return {
            "options": result_settings(self.mining.pair),
            "nouns": noun_identity(self.mining),
            "size": net_size(self.mining)._asdict(),
            **left_out_identity(node, self.mining),
        }

    def attributes(self, node: Node) -> Mapping[str, Json]:
        """Return where the pairs come from, for their card."""
        scenes = node["scenes"].artifact
        proposals = node["proposals"].digest() if "proposals" in node else ""
        return {
            "source": self.mining.source,
            "dataset": scenes.identity.name,
            "licence": ScenesAttributes.of(scenes).licence,
            "models": {"clip": node.clip.digest(), "proposals": proposals},
            **sharing_of(node["embeddings"], self.mining.embed),
        }

    def check(self, node: Node) -> None:
        """Check the data set and load the tagger, before any picture goes through a model.

        Raises:
            SettingsError: If the data set lacks what pairs are made of.
            TaggerMissingError: If what the tagger needs is not installed.
        """
        check_data_set(node["scenes"], self.mining)
        if self.mining.captions_per_image:
            load_tagger(self.mining.nouns.tagger)

    def job(self, node: Node) -> "PairJob":
        """Return what makes a shard; the nouns' embeddings are still missing."""
        labels = ScenesAttributes.of(node["scenes"].artifact)
        return PairJob(
            regions=regions_of(node, self.mining),
            embeddings=node["embeddings"].artifact,
            nouns=noun_source(self.mining, labels),
            texts=None,
            settings=self.mining.pair,
            compute=WorkerCompute.of(self.compute),
        )

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Embed the nouns, unless all pairs are made; then make pairs and their card.

        Raises:
            StageError: If there is no pair at all.
        """
        job = self.job(node)
        if not node.status().finished:
            nouns = job.nouns.vocabulary(job.regions.scenes)
            logger.info("pairs %s: %d different nouns", node.name, len(nouns))
            if nouns:
                templates = self.mining.pair.prompt_templates
                job = replace(job, texts=embed_names(node, nouns, templates, self.compute, execution))
        report = execution.run(job, node.artifact, tolerated=self.tolerated)
        counts = report.manifest.counts
        if not counts.get(OK):
            raise StageError(f"{node.artifact.directory}: holds no pair, its rows are {counts}; see their reasons")
        make_card(node.artifact)
        return report

    def is_complete(self, node: Node) -> bool:
        """Return whether the pairs have their data card and contact sheet."""
        return has_current_card(node.artifact, maker=maker_of(node.artifact), manifest=node.manifest())

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Estimate from the paper's pairs per scene."""
        del counts
        return round(scenes * _PAIRS_PER_SCENE * max(1, self.mining.captions_per_image)) * _PAIR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class PairJob:
    """Makes shards of pairs.

    Attributes:
        regions: Where scenes and their regions come from.
        embeddings: Of the regions, finished.
        nouns: Where nouns come from.
        texts: Embeddings of all those nouns; finished when the job is opened.
    """

    regions: RegionSource
    embeddings: Artifact
    nouns: NounSource
    texts: Artifact | None
    settings: PairSettings
    compute: WorkerCompute

    def open(self) -> "Pairer":
        """Choose how many threads encode pictures, and read the nouns' embeddings; no device is used."""
        use_threads(self.compute.decode_threads, processes=self.compute.processes)
        vectors = vectors_of(self.texts) if self.texts is not None else {}
        return Pairer(self.nouns, vectors, self.settings, self.regions.size)

    def run(self, state: "Pairer", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        with artifact.write_unit(unit) as unit_writer:
            writer = PairShardWriter(unit_writer)
            number = artifact.description.units.index(unit)
            row = 0
            for pairs in in_threads(state.pairs, self._embedded_scenes(unit)):
                for pair in pairs:
                    writer.add(replace(pair, pair=f"{number:05d}-{row:07d}"))
                    row += 1
            return writer.commit()

    def _embedded_scenes(self, unit: str) -> Iterator["EmbeddedScene"]:
        """Read the scenes of a shard with their regions and embeddings.

        Raises:
            StageError: If the embeddings are not of these regions.
        """
        embeddings = read_embeddings(self.embeddings, unit)
        for (scene, regions), found in zip(self.regions.read(unit), embeddings, strict=True):
            if scene.key != found.key or found.regions.tolist() not in ([], regions.indices.tolist()):
                raise StageError(
                    f"{self.embeddings.directory}: {unit} has {len(found.regions)} embeddings of {found.key!r} where "
                    f"{len(regions.indices)} regions of {scene.key!r} are expected; run 'ovseg mine' again"
                )
            yield EmbeddedScene(scene, regions, found)


class BestRegion(NamedTuple):
    """The region of one noun.

    Attributes:
        place: Which of the scene's regions.
        score: Cosine of image and text embedding, rounded to single precision.
        margin: Score minus that of the best other region; None where there is no other. Below 0 only where the region
            was given and another one is nearer.
        rank: Place of this noun among the scene's nouns by score, from 0; equal scores in order of the nouns.
    """

    place: int
    score: float
    margin: float | None
    rank: int


def cosine_scores(texts: npt.NDArray[np.float32], images: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """Return the cosine of each noun with each region [noun region].

    The sums are taken in double precision and without BLAS, whose order of summing depends on the machine's threads.

    Args:
        texts: L2-normalised [noun dim].
        images: L2-normalised [region dim].
    """
    scores: npt.NDArray[np.float64] = np.einsum("nd,rd->nr", texts.astype(np.float64), images.astype(np.float64))
    return scores


def best_regions(
    scores: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_], given: Sequence[int | None]
) -> list[BestRegion | None]:
    """Give each noun the region with the highest score, the first of several.

    Args:
        scores: [noun region]; what is not finite counts for nothing.
        usable: Whether a region has an embedding [region].
        given: Place of a noun's region where that is known, as with ground truth; else None.

    Returns:
        Per noun its region; None if no usable region has a finite score, or the given one has none.
    """
    finite = np.isfinite(scores) & usable
    ranked = np.where(finite, scores, -np.inf)
    chosen: list[int | None] = []
    for noun, known in enumerate(given):
        place = (int(ranked[noun].argmax()) if finite.shape[1] else None) if known is None else known
        chosen.append(place if place is not None and finite.shape[1] and finite[noun, place] else None)
    found = [noun for noun, choice in enumerate(chosen) if choice is not None]
    by_score = sorted(found, key=lambda noun: -ranked[noun, chosen[noun]])
    ranks = {noun: rank for rank, noun in enumerate(by_score)}
    best: list[BestRegion | None] = []
    for noun, place in enumerate(chosen):
        if place is None:
            best.append(None)
            continue
        others = np.delete(ranked[noun], place)
        best_other = others.max() if len(others) else -np.inf
        margin = float(np.float32(ranked[noun, place] - best_other)) if np.isfinite(best_other) else None
        best.append(BestRegion(place, float(np.float32(ranked[noun, place])), margin, ranks[noun]))
    return best


@dataclass(frozen=True, slots=True)
class RegionCutter:
    """Cuts regions out of one picture; a region that serves several nouns is encoded once.

    Attributes:
        picture: As the proposal net saw it, RGB.
        settings: How crops are encoded.
    """

    picture: Image.Image
    settings: PairSettings
    _encoded: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)

    @classmethod
    def of(cls, scene: Scene, size: NetSize, settings: PairSettings) -> "RegionCutter":
        """Decode a scene's picture.

        Raises:
            UndecodableError: If its bytes are damaged.
        """
        return cls(net_picture(scene, size), settings)

    def completed(self, pair: Pair) -> Pair:
        """Return a pair with its crop and mask; one without a region comes back as it is."""
        if pair.region is None or pair.mask_counts is None or pair.box_xyxy is None:
            return pair
        if pair.region not in self._encoded:
            left, top, right, bottom = pair.box_xyxy
            mask = decode_masks([pair.mask_counts], pair.height_px, pair.width_px)[0, top:bottom, left:right]
            self._encoded[pair.region] = self._files(self.picture.crop(pair.box_xyxy), Image.fromarray(mask))
        crop, mask_png = self._encoded[pair.region]
        suffix = "png" if self.settings.crop_format == "png" else "jpg"
        return replace(pair, crop=crop, crop_mask_png=mask_png, crop_suffix=suffix)

    def _files(self, crop: Image.Image, mask: Image.Image) -> tuple[bytes, bytes]:
        """Encode a crop and its mask, of one size."""
        short_side = min(crop.size)
        if self.settings.crop_format == "jpg-256" and short_side > _SMALL_SIDE_PX:
            width, height = (round(side * _SMALL_SIDE_PX / short_side) for side in crop.size)
            crop = crop.resize((width, height), Image.Resampling.BICUBIC)
            mask = _smaller_mask(mask, width, height)
        buffer = io.BytesIO()
        if self.settings.crop_format == "png":
            # Most of a photograph has no equal strings further back: searching them takes a third of the time, and
            # the files are a tenth larger and slower to decode.
            crop.save(buffer, format="PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_RLE)
        else:
            crop.save(buffer, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
        mask_png = io.BytesIO()
        mask.convert("L").save(mask_png, "PNG", compress_level=_PNG_LEVEL, compress_type=zlib.Z_DEFAULT_STRATEGY)
        return buffer.getvalue(), mask_png.getvalue()


def _smaller_mask(mask: Image.Image, width_px: int, height_px: int) -> Image.Image:
    """Shrink a mask by the nearest pixels; one so thin that none is hit keeps what it touches."""
    smaller = mask.resize((width_px, height_px), Image.Resampling.NEAREST)
    if smaller.getbbox() is None:
        shares = mask.convert("L").resize((width_px, height_px), Image.Resampling.BOX)
        smaller = shares.point(lambda value: 255 * (value > 0))
    return smaller


class EmbeddedScene(NamedTuple):
    """A scene with all that pairs are made of."""

    scene: Scene
    regions: SceneRegions
    embeddings: SceneEmbeddings


class Pairer:
    """Pairs nouns with regions.

    Args:
        nouns: Where nouns come from.
        vectors: Text embedding of each noun.
        size: At which size regions lie.
    """

    def __init__(self, nouns: NounSource, vectors: Mapping[str, Vector], settings: PairSettings, size: NetSize) -> None:
        self._nouns = nouns
        self._vectors = vectors
        self._settings = settings
        self._size = size

    def pairs(self, embedded: EmbeddedScene) -> list[Pair]:
        """Pair the nouns of one scene; what cannot be paired is a row that says why. Names are given later."""
        scene, regions, embeddings = embedded
        if scene.status != OK:
            return [_row(scene, status=scene.status, reason=scene.reason)]
        found = self._nouns.of(scene, regions)
        if found.status != OK:
            return [_row(scene, status=found.status, reason=found.reason)]
        if embeddings.scene_status != OK:
            status, reason = embeddings.scene_status, embeddings.scene_reason
            return [_row(scene, noun, status=status, reason=reason) for noun in found.nouns or (None,)]
        texts = np.stack([self._vectors[noun.noun] for noun in found.nouns])
        usable = np.array([status == OK for status in embeddings.statuses])
        indices = regions.indices.tolist()
        given = [None if noun.region is None else indices.index(noun.region) for noun in found.nouns]
        best = best_regions(cosine_scores(texts, embeddings.embeddings), usable, given)
        rows = [self._judged(embedded, noun, region) for noun, region in zip(found.nouns, best, strict=True)]
        if all(row.status != OK for row in rows):
            return rows
        try:
            cutter = RegionCutter.of(scene, self._size, self._settings)
        except UndecodableError as error:
            reason = f"the picture of {scene.key} {error}"
            return [replace(row, status=UNDECODABLE, reason=reason) if row.status == OK else row for row in rows]
        return [cutter.completed(row) if row.status == OK else row for row in rows]

    def _judged(self, embedded: EmbeddedScene, noun: SceneNoun, best: BestRegion | None) -> Pair:
        """Make the row of one noun, without crop and mask."""
        scene, regions, _ = embedded
        if best is None:
            reason = "no region of the scene has a finite score for the noun"
            return _row(scene, noun, status=SCORE_NOT_FINITE, reason=reason)
        area = int(regions.areas_px[best.place])
        share, status, reason = area / (regions.height_px * regions.width_px), OK, ""
        if best.score < self._settings.min_score:
            status, reason = SCORE_BELOW_MIN, f"the score {best.score:.4f} is below {self._settings.min_score}"
        elif share < self._settings.min_area_share:
            status = AREA_BELOW_MIN
            reason = f"the mask fills {share:.4%} of the picture, below {self._settings.min_area_share:.4%}"
        left, top, right, bottom = regions.boxes_xyxy[best.place].tolist()
        return replace(
            _row(scene, noun, status=status, reason=reason),
            region=int(regions.indices[best.place]),
            score=best.score,
            margin=best.margin,
            rank=best.rank,
            height_px=regions.height_px,
            width_px=regions.width_px,
            mask_counts=regions.mask_counts[best.place],
            area_px=area,
            box_xyxy=(left, top, right, bottom),
        )


def _row(scene: Scene, noun: SceneNoun | None = None, *, status: str, reason: str) -> Pair:
    """Make a row that knows its scene and perhaps its noun."""
    bare = Pair(pair="", key=scene.key, image_id=scene.image_id, status=status, reason=reason)
    if noun is None:
        return bare
    return replace(
        bare,
        noun=noun.noun,
        noun_text=noun.text,
        noun_start=noun.start,
        noun_end=noun.end,
        caption_id=noun.caption_id,
        caption=noun.caption,
    )
