"""Signs of trust for each pair, from stored embeddings alone: no picture goes through a model.

Reads ``pairs`` and, by the digests that they name, their ``embeddings``, ``proposals``, the captions of their
``scenes``, and ``text_embeddings``; writes ``pair_signs``. Memory holds one shard at a time, beside the text embeddings
of all nouns.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from pipeline.errors import StageError
from pipeline.executors import Compute
from pipeline.mine.noun_numbers import is_plural_or_counted
from pipeline.mine.pair import cosine_scores
from pipeline.mine.pair_origins import PairOrigins, mined_pairs, origins_of, runs_of
from pipeline.mine.signs_card import MAKER, make_signs_card
from pipeline.mine.tagger.sources import tagger_identity
from pipeline.shard_runner import Limits, StageReport, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.cards import has_current_card
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.embeddings import SceneEmbeddings, read_embeddings
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.pair_signs import KIND, SCHEMA_VERSION, write_pair_signs
from storage_schemas.pairs import KIND as PAIRS
from storage_schemas.pairs import read_index
from storage_schemas.proposals import read_proposals
from storage_schemas.rle import decode_masks, inside_matrix, iou_matrix

logger = logging.getLogger(__name__)

PRODUCER_VERSION = 1
"""Raise it when the same pairs come to have other signs."""

SAME_THING_IOU = 0.5
"""From which on two masks show the same thing."""
NEAR = 0.02
"""Masks whose similarities differ by no more are as near to the noun as each other."""
APART_INSIDE = 0.1
"""Two masks of which no greater share lies in the other do not overlap."""
PART_SHARE = 0.2
"""Of a mask's largest part, below which a part is a splinter."""

_ROWS_AT_ONCE = 1024
_ROUNDING = 1e-4  # more than sums of single precision are off for unit vectors of up to 1,536 numbers
_COLUMNS = (
    *("pair", "key", "status", "reason", "noun", "noun_text", "noun_start", "caption_id", "caption", "region"),
    *("score", "height_px", "width_px", "mask_counts", "area_px", "box_xyxy"),
)
_Row = dict[str, Any]


class NounStanding(NamedTuple):
    """How a mask's own noun stands among other nouns.

    Attributes:
        rank: How many of the others are nearer to the mask [mask].
        margin: Similarity to its own noun minus that to the nearest other one; NaN where there is no other [mask].
        nearest: Number of that other noun, the first of several; -1 where there is none [mask].
    """

    rank: npt.NDArray[np.int32]
    margin: npt.NDArray[np.float64]
    nearest: npt.NDArray[np.int32]


def noun_standing(
    images: npt.NDArray[np.float16],
    own: npt.NDArray[np.int64],
    texts: npt.NDArray[np.float32],
    left_out: Sequence[npt.NDArray[np.int64]],
) -> NounStanding:
    """Compare each mask's similarity to its noun with that to all other nouns.

    A matrix product in single precision finds out which nouns are nearer. Where it is too coarse to decide, and for the
    nearest noun, the sums are taken again in double precision, so that the result is the same on any machine.

    Args:
        images: L2-normalised embeddings of masks [mask dim].
        own: Number of each mask's noun [mask].
        texts: L2-normalised embeddings of all nouns [noun dim].
        left_out: Per mask the numbers of nouns that do not count, whether its own is among them or not.
    """
    count = len(images)
    standing = NounStanding(np.zeros(count, np.int32), np.full(count, np.nan), np.full(count, -1, np.int32))
    for start in range(0, count, _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        masks, nouns = images[part].astype(np.float32), own[part]
        rows = np.arange(len(masks))
        coarse = masks @ texts.T  # [mask noun]
        own_score = _exact(masks, texts, rows, nouns)
        for row, without in enumerate(left_out[part]):
            coarse[row, without] = -np.inf
        coarse[rows, nouns] = -np.inf
        difference = coarse - own_score[:, None].astype(np.float32)
        highest = coarse.max(axis=1, keepdims=True)
        standing.rank[part] = (difference > _ROUNDING).sum(axis=1)
        # what may be nearer than the own noun, or the nearest of all, by more than rounding; of -inf none is
        open_rows, open_nouns = np.nonzero(
            np.isfinite(coarse) & ((np.abs(difference) <= _ROUNDING) | (coarse >= highest - 2 * _ROUNDING))
        )
        exact = _exact(masks, texts, open_rows, open_nouns)
        undecided = np.abs(difference[open_rows, open_nouns]) <= _ROUNDING
        nearer = undecided & (exact > own_score[open_rows])
        np.add.at(standing.rank[part], open_rows[nearer], 1)
        for row, places in _runs(open_rows):
            best = places.start + int(exact[places].argmax())
            standing.nearest[start + row] = open_nouns[best]
            standing.margin[start + row] = own_score[row] - exact[best]
    return standing


def _exact(
    masks: npt.NDArray[np.float32],
    texts: npt.NDArray[np.float32],
    rows: npt.NDArray[np.int64],
    nouns: npt.NDArray[np.int64],
) -> npt.NDArray[np.float64]:
    """Return similarities of some masks and nouns, summed in double precision and without BLAS."""
    found = np.empty(len(rows))
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        found[part] = np.einsum("kd,kd->k", masks[rows[part]].astype(np.float64), texts[nouns[part]].astype(np.float64))
    return found


def _runs(values: npt.NDArray[np.int64]) -> Iterator[tuple[int, slice]]:
    """Yield each value of an ascending array with the range of its places."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(values)], strict=True):
        yield int(values[start]), slice(start, end)


def make_signs(pairs: Artifact, runs: Path | None = None, *, compute: Compute = Compute()) -> StageReport:
    """Make the signs of pairs and their card, as far as that is not done.

    Args:
        pairs: Finished, as mined; of a subset the signs are those of the pairs that it was chosen from.
        runs: Runs directory, which holds what they were mined from and gets the signs; by default the pairs' own.
        compute: Where shards are made.

    Raises:
        PipelineError: If the pairs were not mined, or what they were mined from is not there.
        StageError: If units failed.
    """
    pairs.require(PAIRS)
    runs = runs or runs_of(pairs)
    whole = mined_pairs(pairs, runs)
    job = SignsJob(origins_of(whole, runs))
    signs = Artifact.planned(runs, job.description())
    report = run_stage(job, signs, compute=compute, limits=Limits(tolerated=frozenset(whole.manifest().counts)))
    if not has_current_card(signs, maker=MAKER, manifest=report.manifest):
        make_signs_card(signs, whole, job.origins.scenes)
    return report


@dataclass(frozen=True)
class SignsJob:
    """Makes shards of signs.

    Attributes:
        origins: The pairs, and what they were made of.
    """

    origins: PairOrigins

    def description(self) -> Description:
        """Describe the artifact."""
        pairs, captions = self.origins.pairs, self.origins.caption_nouns
        tagger: Json = tagger_identity(captions.settings.tagger) if captions else "class names"
        identity = Identity(
            kind=KIND,
            name=pairs.identity.name,
            schema_version=SCHEMA_VERSION,
            producer_version=PRODUCER_VERSION,
            settings={"tagger": tagger},
            inputs={"pairs": pairs.manifest().digest()},
        )
        return Description(identity=identity, units=pairs.description.units)

    def open(self) -> "PairJudge":
        """Put the nouns' embeddings together."""
        return PairJudge(self.origins)

    def run(self, state: "PairJudge", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        rows = state.signs(unit)
        with artifact.write_unit(unit) as writer:
            return write_pair_signs(writer, rows)


class _Region(NamedTuple):
    """What is known of a pair's mask before its noun is compared with those of other pictures."""

    row: int
    embedding: npt.NDArray[np.float16]
    captioned: frozenset[str]


class PairJudge:
    """Finds signs of trust.

    Args:
        origins: The pairs, and what they were made of.
    """

    def __init__(self, origins: PairOrigins) -> None:
        self._origins = origins
        self._nouns = sorted(origins.vectors)
        self._numbers = {noun: number for number, noun in enumerate(self._nouns)}
        self._texts = np.stack([origins.vectors[noun] for noun in self._nouns])

    def signs(self, unit: str) -> list[_Row]:
        """Return the rows of one shard.

        Raises:
            StageError: If the embeddings are not of these pairs.
        """
        pairs = read_index(self._origins.pairs, unit, columns=_COLUMNS).to_pylist()
        signs = [{name: row[name] for name in ("pair", "key", "noun", "status", "reason")} for row in pairs]
        captions = self._origins.caption_nouns
        captioned = captions.of_captions(self._origins.scenes, unit) if captions else {}
        has_lemmas = bool(captions and captions.settings.lemmas)
        proposals = self._origins.proposals  # masks of labels never overlap, and are not needed
        found = read_proposals(proposals, unit) if proposals is not None else ()
        masks = {scene.key: scene.mask_counts for scene in found}
        embeddings = {found.key: found for found in read_embeddings(self._origins.embeddings, unit)}
        regions: list[_Region] = []
        for key, members in groupby(range(len(pairs)), key=lambda row: pairs[row]["key"]):
            numbers = list(members)
            usable = [row for row in numbers if pairs[row]["status"] == OK]
            if not usable:
                continue
            of_scene, scene = [pairs[row] for row in usable], embeddings[key]
            places = _places(of_scene, scene, self._origins.embeddings)
            texts = np.stack([self._texts[self._numbers[row["noun"]]] for row in of_scene])
            scores = cosine_scores(texts, scene.embeddings)
            of_pairs = _signs_of_scene(of_scene, places, scores, scene, masks.get(key), has_lemmas=has_lemmas)
            nouns = captioned.get(key, [])
            named = frozenset().union(*nouns, {pairs[row]["noun"] for row in numbers})
            for row, place, own in zip(usable, places, of_pairs, strict=True):
                signs[row] |= own
                if captions:
                    signs[row]["captions"] = len(nouns)
                    signs[row]["captions_naming"] = sum(pairs[row]["noun"] in of_caption for of_caption in nouns)
                regions.append(_Region(row, scene.embeddings[place], named))
        self._compare_with_other_pictures(pairs, signs, regions)
        return signs

    def _compare_with_other_pictures(self, pairs: list[_Row], signs: list[_Row], regions: list[_Region]) -> None:
        """Add how each mask's noun stands among those of other pictures, and the sum of both margins."""
        if not regions:
            return
        standing = noun_standing(
            np.stack([region.embedding for region in regions]),
            np.array([self._numbers[pairs[region.row]["noun"]] for region in regions]),
            self._texts,
            [
                np.array([self._numbers[noun] for noun in region.captioned if noun in self._numbers], np.int64)
                for region in regions
            ],
        )
        for number, region in enumerate(regions):
            of_pair, nearest = signs[region.row], int(standing.nearest[number])
            of_pair["noun_rank"] = int(standing.rank[number])
            if nearest >= 0:
                of_pair["noun_margin"] = float(np.float32(standing.margin[number]))
                of_pair["nearest_noun"] = self._nouns[nearest]
            of_pair["trust"] = (of_pair.get("noun_margin") or 0.0) + (of_pair.get("region_margin") or 0.0)


def _places(rows: Sequence[_Row], scene: SceneEmbeddings, embeddings: Artifact) -> list[int]:
    """Return the place of each pair's mask among the scene's masks.

    Raises:
        StageError: If it has no embedding there.
    """
    place_of = {region: place for place, region in enumerate(scene.regions.tolist())}
    if lacking := [row for row in rows if row["region"] not in place_of]:
        raise StageError(
            f"{embeddings.directory}: has no embedding of region {lacking[0]['region']} of {scene.key!r}, which is in "
            f"pair {lacking[0]['pair']}; run 'ovseg mine' again"
        )
    return [place_of[row["region"]] for row in rows]


def _signs_of_scene(
    rows: Sequence[_Row],
    places: Sequence[int],
    scores: npt.NDArray[np.float64],
    scene: SceneEmbeddings,
    counts: Sequence[bytes] | None,
    *,
    has_lemmas: bool,
) -> list[_Row]:
    """Return the signs that follow from one scene alone.

    Args:
        rows: Its pairs.
        places: Of their masks among the scene's masks.
        scores: Similarity of each pair's noun and each mask [pair mask].
        counts: Run lengths of the scene's masks; None if they do not overlap.
        has_lemmas: Whether nouns are in the singular, or as written.
    """
    size = rows[0]["height_px"], rows[0]["width_px"]
    usable = np.array([status == OK for status in scene.statuses]) & np.isfinite(scores).all(axis=0)
    if counts is None:
        overlaps = np.eye(len(scene.regions))[list(places)]
    else:
        overlaps = iou_matrix([row["mask_counts"] for row in rows], counts, *size)
    found = []
    for number, (row, place) in enumerate(zip(rows, places, strict=True)):
        own = scores[number, place]
        elsewhere = usable & (overlaps[number] < SAME_THING_IOU)
        elsewhere[place] = False
        signs: _Row = {"area_share": row["area_px"] / (size[0] * size[1])}
        if elsewhere.any():
            rival = int(np.where(elsewhere, scores[number], -np.inf).argmax())
            signs["region_margin"] = float(np.float32(own - scores[number, rival]))
            signs["rival_region"] = int(scene.regions[rival])
        claims = [
            (other["score"], other["noun"])
            for other, of_other in zip(rows, places, strict=True)
            if other["noun"] != row["noun"] and overlaps[number, of_other] >= SAME_THING_IOU
        ]
        if claims:
            score, noun = min(claims, key=lambda claim: (-claim[0], claim[1]))
            signs["rival_noun"], signs["rival_margin"] = noun, row["score"] - score
        near = np.flatnonzero(elsewhere & (scores[number] >= own - NEAR))
        alike = near[np.argsort(-scores[number, near], kind="stable")].tolist()
        signs["alike_regions"] = len(alike) if counts is None else _apart(place, alike, counts, size)
        signs["parts"] = _parts(row)
        if row["caption"] is not None:
            lemma = row["noun"] if has_lemmas else None
            signs["plural"] = is_plural_or_counted(row["caption"], row["noun_start"], row["noun_text"], lemma)
        signs["more_instances"] = bool(signs.get("plural")) or signs["alike_regions"] > 0 or signs["parts"] > 1
        found.append(signs)
    return found


def _apart(place: int, alike: Sequence[int], counts: Sequence[bytes], size: tuple[int, int]) -> int:
    """Count masks, the nearest to the noun first, that overlap neither a mask at ``place`` nor each other."""
    if not alike:
        return 0
    inside = inside_matrix([counts[mask] for mask in (place, *alike)], *size)
    shared = np.maximum(inside, inside.T)
    kept = [0]
    for candidate in range(1, len(shared)):
        if (shared[candidate, kept] < APART_INSIDE).all():
            kept.append(candidate)
    return len(kept) - 1


def _parts(row: _Row) -> int:
    """Count the connected parts of a pair's mask, corners joining, without splinters."""
    left, top, right, bottom = row["box_xyxy"]
    mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0, top:bottom, left:right]
    numbered, _ = ndimage.label(mask, np.ones((3, 3)))
    areas = np.bincount(numbered.ravel())[1:]
    return int((areas >= PART_SHARE * areas.max()).sum())
