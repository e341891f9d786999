"""Nouns that pictures surely do not show, from captions and stored embeddings: no picture goes through a model.

Reads ``pairs`` and, by the digests that they name, their ``embeddings``, the captions of their ``scenes``, and
``text_embeddings``; writes ``negatives``. No dictionary of synonyms takes part: text embeddings say what means nearly
the same, and a noun that means more than a noun of a caption ("animal" for "dog") is near to one of the masks.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import PipelineError
from pipeline.executors import Compute
from pipeline.mine.pair_origins import PairOrigins, mined_pairs, origins_of, runs_of
from pipeline.mine.tagger.sources import tagger_identity
from pipeline.shard_runner import Limits, StageReport, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.embeddings import SceneEmbeddings, read_embeddings
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.negatives import KIND, SCHEMA_VERSION, write_negatives
from storage_schemas.pairs import KIND as PAIRS
from storage_schemas.pairs import read_index

PRODUCER_VERSION = 1
"""Raise it when the same pairs come to have other negatives."""

NO_EMBEDDING, NO_NEGATIVE = "no_embedding", "no_negative"

_SAMPLE_SHARDS, _SAMPLE_PICTURES = 16, 1024  # what nearest masks usually have is known to a few percent
_DRAWS_PER_NEGATIVE = 8
_DIGITS = 4  # of usual scores: sums in other orders then give the same


@dataclass(frozen=True, slots=True, kw_only=True)
class NegativeRule:
    """Which nouns count as absent.

    Attributes:
        per_picture: Nouns at most; they are drawn by lot from all nouns of pairs.
        max_quantile: The picture's nearest mask has at most the score at this quantile of the nearest masks of other
            pictures, which do not name the noun either, 0..1.
        alike_above: Cosine of two nouns' text embeddings from which on they count as synonyms.

    Raises:
        PipelineError: If a number is out of its range.
    """

    per_picture: int = 8
    max_quantile: float = 0.5
    alike_above: float = 0.9

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.per_picture < 1:
            raise PipelineError(f"negatives: per_picture is {self.per_picture}, at least 1 is expected; correct it")
        for name in ("max_quantile", "alike_above"):
            if not 0 < (value := getattr(self, name)) <= 1:
                raise PipelineError(f"negatives: {name} is {value}, above 0 and up to 1 is expected; correct it")


def make_negatives(
    pairs: Artifact, rule: NegativeRule = NegativeRule(), runs: Path | None = None, *, compute: Compute = Compute()
) -> StageReport:
    """Make the negatives of the pictures of pairs, as far as that is not done.

    Args:
        pairs: Finished, as mined; of a subset the negatives are those of the pairs that it was chosen from.
        runs: Runs directory, which holds what they were mined from and gets the negatives; by default the pairs' own.
        compute: Where shards are made.

    Raises:
        PipelineError: If the pairs were not mined, or what they were mined from is not there.
        StageError: If units failed.
    """
    pairs.require(PAIRS)
    runs = runs or runs_of(pairs)
    whole = mined_pairs(pairs, runs)
    job = NegativesJob(origins_of(whole, runs), rule)
    captions = job.origins.caption_nouns
    identity = Identity(
        kind=KIND,
        name=whole.identity.name,
        schema_version=SCHEMA_VERSION,
        producer_version=PRODUCER_VERSION,
        settings={**asdict(rule), "tagger": tagger_identity(captions.settings.tagger) if captions else "class names"},
        inputs={"pairs": whole.manifest().digest()},
    )
    negatives = Artifact.planned(runs, Description(identity=identity, units=whole.description.units))
    tolerated = Limits(tolerated=frozenset({NO_EMBEDDING, NO_NEGATIVE}))
    return run_stage(job, negatives, compute=compute, limits=tolerated)


@dataclass(frozen=True)
class NegativesJob:
    """Makes shards of negatives."""

    origins: PairOrigins
    rule: NegativeRule

    def open(self) -> "AbsentNouns":
        """Find out what nearest masks usually have for each noun."""
        return AbsentNouns(self.origins, self.rule)

    def run(self, state: "AbsentNouns", artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        rows = state.rows(unit)
        with artifact.write_unit(unit) as writer:
            return write_negatives(writer, rows)


@dataclass
class AbsentNouns:
    """Finds nouns that pictures do not show.

    Attributes:
        origins: The pairs, and what they were made of.
    """

    origins: PairOrigins
    rule: NegativeRule
    _nouns: list[str] = field(init=False)
    _texts: npt.NDArray[np.float64] = field(init=False)
    _usual: npt.NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        self._nouns = sorted(self.origins.vectors)
        self._numbers = {noun: number for number, noun in enumerate(self._nouns)}
        self._texts = np.stack([self.origins.vectors[noun] for noun in self._nouns]).astype(np.float64)
        self._usual = self._usual_scores()

    def rows(self, unit: str) -> list[dict[str, Any]]:
        """Return the rows of one shard."""
        named, captions = self._named(unit), self.origins.caption_nouns
        rows = []
        for scene in read_embeddings(self.origins.embeddings, unit):
            image_id, of_pairs, of_captions = named.get(scene.key, ("", frozenset(), []))
            blank: dict[str, Any] = {"key": scene.key, "image_id": image_id, "noun": "", "reason": ""}
            if captions:
                blank["captions"] = len(of_captions)
            usable = [status == OK for status in scene.statuses]
            if not any(usable):
                reason = scene.scene_reason or "no mask of the picture has an embedding"
                rows.append({**blank, "status": NO_EMBEDDING, "reason": reason})
                continue
            present = of_pairs.union(*of_captions)
            found = self._absent(scene, np.array(usable), present) if present else []
            rows += [{**blank, "status": OK, **negative} for negative in found]
            if not found:
                reason = "the picture has no noun" if not present else "no noun drawn is surely absent"
                rows.append({**blank, "status": NO_NEGATIVE, "reason": reason})
        return rows

    def _named(self, unit: str) -> dict[str, tuple[str, frozenset[str], list[frozenset[str]]]]:
        """Return by scene its image id, the nouns of its rows of pairs, and those of each of its captions."""
        captions = self.origins.caption_nouns
        captioned = captions.of_captions(self.origins.scenes, unit) if captions else {}
        nouns: dict[str, set[str]] = {}
        ids: dict[str, str] = {}
        for row in read_index(self.origins.pairs, unit, columns=("key", "image_id", "noun")).to_pylist():
            ids[row["key"]] = row["image_id"]
            nouns.setdefault(row["key"], set()).update({row["noun"]} - {""})
        return {key: (ids[key], frozenset(nouns[key]), captioned.get(key, [])) for key in ids}

    def _absent(
        self, scene: SceneEmbeddings, usable: npt.NDArray[np.bool_], present: frozenset[str]
    ) -> list[dict[str, Any]]:
        """Draw nouns by lot and keep those that the picture surely does not show, in the order of the lot."""
        seed = int.from_bytes(hashlib.sha256(scene.key.encode()).digest()[:8])
        draws = np.random.default_rng(seed).integers(len(self._nouns), size=_DRAWS_PER_NEGATIVE * self.rule.per_picture)
        drawn = np.array(list(dict.fromkeys(draws.tolist())))
        # [drawn mask], and [drawn present]
        scores = self._texts[drawn] @ scene.embeddings[usable].astype(np.float64).T
        own = [self._numbers[noun] for noun in sorted(present) if noun in self._numbers]
        alike = self._texts[drawn] @ self._texts[own].T
        words = {word for noun in present for word in noun.split()}
        best = scores.argmax(axis=1)
        regions = scene.regions[usable]
        found = []
        for number, noun in enumerate(drawn.tolist()):
            name, score = self._nouns[noun], round(float(scores[number, best[number]]), _DIGITS + 2)
            if (
                name in present
                or not words.isdisjoint(name.split())
                or (alike[number] >= self.rule.alike_above).any()
                or score > self._usual[noun]
            ):
                continue
            region = int(regions[best[number]])
            found.append({"noun": name, "score": score, "region": region, "usual_score": self._usual[noun]})
        return found[: self.rule.per_picture]

    def _usual_scores(self) -> npt.NDArray[np.float64]:
        """Return for each noun what the nearest mask has in pictures that do not name it [noun].

        It is the score at the rule's quantile of a sample, of shards that lie evenly among all.
        """
        units = self.origins.embeddings.description.units
        chosen = [units[place] for place in _evenly(len(units), _SAMPLE_SHARDS)]
        per_shard = -(-_SAMPLE_PICTURES // len(chosen))
        highest = []
        for unit in chosen:
            named = self._named(unit)
            scenes = [scene for scene in read_embeddings(self.origins.embeddings, unit) if OK in scene.statuses]
            for place in _evenly(len(scenes), per_shard):
                scene = scenes[place]
                usable = [status == OK for status in scene.statuses]
                nearest = (scene.embeddings[usable].astype(np.float64) @ self._texts.T).max(axis=0)
                _, of_pairs, of_captions = named.get(scene.key, ("", frozenset[str](), []))
                present = [self._numbers[noun] for noun in of_pairs.union(*of_captions) if noun in self._numbers]
                nearest[present] = np.nan
                highest.append(nearest)
        if not highest:
            return np.full(len(self._nouns), -np.inf)
        # A noun that every picture of the sample names is never absent.
        everywhere = np.isnan(highest).all(axis=0)
        usual = np.nanquantile(np.where(everywhere, 0.0, highest), self.rule.max_quantile, axis=0).round(_DIGITS)
        return np.where(everywhere, -np.inf, usual)


def _evenly(count: int, most: int) -> Sequence[int]:
    """Return places that lie evenly among a number of them, at most so many."""
    if count <= most:
        return range(count)
    return [place * count // most for place in range(most)]
