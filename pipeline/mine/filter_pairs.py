"""Subsets of pairs, chosen by what their tables say: no model runs and no picture is read.

Reads ``pairs``; writes ``pairs``, whose crops and masks are the very bytes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PipelineError
from pipeline.executors import Compute
from pipeline.mine.card import make_card
from pipeline.shard_runner import StageReport, run_stage
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json
from storage_schemas.manifest import ARTIFACT_FILE, Description, Identity, Sidecar
from storage_schemas.pairs import (
    KIND,
    SCHEMA_VERSION,
    Pair,
    PairShardWriter,
    read_index,
    read_members,
)

logger = logging.getLogger(__name__)

PRODUCER_VERSION = 1_000_001
"""Raise it when the same rule comes to mean another subset; far from the versions of mining, which writes pairs too."""

_COLUMNS = ("pair", "status", "noun", "score", "margin", "area_px", "height_px", "width_px")
_MEMBERS = frozenset({"crop", "crop_mask"})


@dataclass(frozen=True, slots=True, kw_only=True)
class PairRule:
    """Which pairs are kept; a bound that is None is none.

    Attributes:
        min_score: Cosine at least.
        max_score: Cosine at most.
        min_margin: Margin to the second-best region at least; a pair without a margin is kept.
        min_area_share: Share of the picture that the mask fills at least, 0..1.
        max_area_share: The same at most.
        nouns: Nouns that are kept; empty = all.
        without_nouns: Nouns that are left out.
        max_per_noun: Pairs of a noun at most, those with the highest scores; of equal ones the first by name.

    Raises:
        PipelineError: If a bound is not finite or no pair can fulfil them.
    """

    min_score: float | None = None
    max_score: float | None = None
    min_margin: float | None = None
    min_area_share: float | None = None
    max_area_share: float | None = None
    nouns: tuple[str, ...] = ()
    without_nouns: tuple[str, ...] = ()
    max_per_noun: int | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, value in asdict(self).items():
            if isinstance(value, float) and not np.isfinite(value):
                raise PipelineError(f"pairs filter: {name} is {value}, a finite number is expected; correct it")
        if self.max_per_noun is not None and self.max_per_noun < 1:
            raise PipelineError(
                f"pairs filter: max_per_noun is {self.max_per_noun}, at least 1 is expected; correct it"
            )

    def to_json(self) -> dict[str, Json]:
        """Return what is asked for, and nothing of what is not."""
        asked = {name: value for name, value in asdict(self).items() if value not in (None, ())}
        return {name: sorted(set(value)) if isinstance(value, tuple) else value for name, value in asked.items()}

    def keeps(self, table: pa.Table) -> pa.Array:
        """Return which rows fulfil all bounds; how many of a noun they are does not count here.

        Args:
            table: The columns that rules use.
        """
        pixels = pc.multiply(table["height_px"].cast(pa.float64()), table["width_px"].cast(pa.float64()))
        share = pc.divide(table["area_px"].cast(pa.float64()), pixels)
        score, margin = table["score"].cast(pa.float64()), pc.fill_null(table["margin"].cast(pa.float64()), np.inf)
        kept = pc.equal(table["status"], OK)
        for values, least, most in (
            (score, self.min_score, self.max_score),
            (margin, self.min_margin, None),
            (share, self.min_area_share, self.max_area_share),
        ):
            if least is not None:
                kept = pc.and_(kept, pc.greater_equal(values, least))
            if most is not None:
                kept = pc.and_(kept, pc.less_equal(values, most))
        if self.nouns:
            kept = pc.and_(kept, pc.is_in(table["noun"], value_set=pa.array(self.nouns)))
        if self.without_nouns:
            kept = pc.and_(kept, pc.invert(pc.is_in(table["noun"], value_set=pa.array(self.without_nouns))))
        return pc.fill_null(kept, fill_value=False)


@dataclass(frozen=True, slots=True)
class FilterJob:
    """Copies the chosen pairs of a shard.

    Attributes:
        pairs: To choose from, finished.
        rule: What is kept.
    """

    pairs: Artifact
    rule: PairRule

    def open(self) -> Mapping[str, Sequence[int]]:
        """Choose the rows of every shard."""
        return chosen_rows(self.pairs, self.rule)

    def run(self, state: Mapping[str, Sequence[int]], artifact: Artifact, unit: str) -> Sidecar:
        """Make one shard."""
        index, rows = read_index(self.pairs, unit), state[unit]
        with artifact.write_unit(unit) as unit_writer:
            writer = PairShardWriter(unit_writer)
            members = read_members(self.pairs, unit, index, rows)
            for values, pictures in zip(index.take(pa.array(rows, pa.int64())).to_pylist(), members, strict=True):
                own = {name: value for name, value in values.items() if name not in _MEMBERS}
                own["box_xyxy"] = tuple(values["box_xyxy"])
                writer.add(Pair(crop=pictures.crop, crop_mask_png=pictures.crop_mask_png, **own))
            return writer.commit()


def filter_pairs(pairs: Artifact, rule: PairRule, directory: Path, *, compute: Compute = Compute()) -> StageReport:
    """Make a subset of pairs in a directory of its own, as far as that is not done.

    Args:
        pairs: To choose from, finished.
        rule: What is kept.
        directory: For the subset; new, or that of the same subset.
        compute: Where shards are made.

    Raises:
        PipelineError: If no pair fulfils the rule, or something else is in the directory.
        ArtifactError: If the artifact is not one of pairs, or not finished.
        SchemaError: If its pairs are of another schema.
    """
    pairs.require(KIND, SCHEMA_VERSION)
    subset = _planned(pairs, rule, directory)
    absent = sorted(set(rule.nouns) - set(_columns(pairs, ("noun",))["noun"].to_pylist()))
    if absent:
        logger.warning("pairs filter: %d of %d nouns are in no pair: %s", len(absent), len(rule.nouns), absent[:10])
    if not any(map(len, chosen_rows(pairs, rule).values())):
        raise PipelineError(
            f"pairs filter: none of {pairs.manifest().rows} rows fulfils {rule.to_json()}; ask for less"
        )
    report = run_stage(FilterJob(pairs, rule), subset, compute=compute)
    make_card(subset)
    return report


def chosen_rows(pairs: Artifact, rule: PairRule) -> dict[str, list[int]]:
    """Choose the rows of every shard, ascending, by the tables alone."""
    table = _columns(pairs, _COLUMNS)
    unit_of = np.repeat(np.arange(len(pairs.description.units)), [unit.rows for unit in pairs.manifest().units])
    kept = np.flatnonzero(rule.keeps(table).to_numpy(zero_copy_only=False))
    if rule.max_per_noun is not None:
        kept = kept[_best_of_each_noun(table.take(kept), rule.max_per_noun)]
    first = np.searchsorted(unit_of, np.arange(len(pairs.description.units)))
    return {
        unit: (kept[unit_of[kept] == number] - first[number]).tolist()
        for number, unit in enumerate(pairs.description.units)
    }


def _best_of_each_noun(table: pa.Table, most: int) -> list[int]:
    """Return the places of the pairs with the highest scores of each noun, ascending."""
    taken: dict[str, int] = {}
    places = []
    nouns = table["noun"].to_pylist()
    for place in np.argsort(-table["score"].to_numpy(), kind="stable").tolist():  # of equal scores the first by name
        count = taken.get(nouns[place], 0)
        if count < most:
            taken[nouns[place]] = count + 1
            places.append(place)
    return sorted(places)


def _columns(pairs: Artifact, names: Sequence[str]) -> pa.Table:
    """Read columns of all shards, one after the other."""
    return pa.concat_tables([read_index(pairs, unit, columns=names) for unit in pairs.description.units])


def _planned(pairs: Artifact, rule: PairRule, directory: Path) -> Artifact:
    """Plan a subset in a directory.

    Raises:
        PipelineError: If something else is in the directory.
    """
    asked = rule.to_json()
    identity = Identity(
        kind=KIND,
        name=pairs.identity.name,
        schema_version=SCHEMA_VERSION,
        producer_version=PRODUCER_VERSION,
        settings={"filter": asked},
        inputs={"pairs": pairs.manifest().digest()},
    )
    attributes = {**pairs.description.attributes, "filter": asked}
    subset = Artifact(directory, Description(identity=identity, units=pairs.description.units, attributes=attributes))
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not ((directory / ARTIFACT_FILE).is_file() and Artifact.open(directory).identity == identity):
        raise PipelineError(
            f"{directory}: holds something else than this subset; choose another directory, or delete this one"
        )
    return subset
