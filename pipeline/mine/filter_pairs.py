"""Subsets of pairs, chosen by what their tables and their signs of trust say: no model runs, no picture is read.

Reads ``pairs``, and ``pair_signs`` where a rule asks for them; writes ``pairs``, whose crops and masks are the very
bytes.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
from storage_schemas.pair_signs import KIND as SIGNS
from storage_schemas.pair_signs import SCHEMA_VERSION as SIGNS_VERSION
from storage_schemas.pair_signs import read_pair_signs
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
_SIGNS = ("trust", "noun_margin", "noun_rank", "region_margin", "rival_margin", "captions_naming", "more_instances")
_OF_SIGNS = frozenset(
    {
        *("min_trust", "min_noun_margin", "max_noun_rank", "min_region_margin", "min_rival_margin"),
        *("min_captions_naming", "single_instances", "keep_share"),
    }
)
"""What a rule can ask for only of pairs with signs."""
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
        min_trust: Sum of both margins at least; this and all below are columns of `storage_schemas.pair_signs`, and a
            pair that lacks one is kept, but for ``keep_share``.
        min_noun_margin: Margin to the nearest noun of other pictures at least.
        max_noun_rank: Nouns of other pictures that are nearer at most.
        min_region_margin: Margin to the best mask elsewhere in the picture at least.
        min_rival_margin: Margin to the noun that claims the same mask at least; 0 keeps of these the nearest.
        min_captions_naming: Captions of the picture that have the noun at least.
        single_instances: True leaves out what is marked to be one of several.
        keep_share: Share of the pairs that all other bounds leave, 0..1, those with the highest trust; of equal ones
            the first by name. It comes before ``max_per_noun``.

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
    min_trust: float | None = None
    min_noun_margin: float | None = None
    max_noun_rank: int | None = None
    min_region_margin: float | None = None
    min_rival_margin: float | None = None
    min_captions_naming: int | None = None
    single_instances: bool | None = None
    keep_share: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name, value in asdict(self).items():
            if isinstance(value, float) and not np.isfinite(value):
                raise PipelineError(f"pairs filter: {name} is {value}, a finite number is expected; correct it")
        if self.max_per_noun is not None and self.max_per_noun < 1:
            raise PipelineError(
                f"pairs filter: max_per_noun is {self.max_per_noun}, at least 1 is expected; correct it"
            )
        if self.keep_share is not None and not 0 < self.keep_share <= 1:
            raise PipelineError(
                f"pairs filter: keep_share is {self.keep_share}, a share above 0, up to 1, is expected; correct it"
            )

    @property
    def uses_signs(self) -> bool:
        """Whether it asks for signs of trust."""
        return not _OF_SIGNS.isdisjoint(self.to_json())

    def to_json(self) -> dict[str, Json]:
        """Return what is asked for, and nothing of what is not."""
        asked = {
            name: value
            for name, value in asdict(self).items()
            if value is not None and value != () and value is not False
        }
        return {name: sorted(set(value)) if isinstance(value, tuple) else value for name, value in asked.items()}

    def keeps(self, table: pa.Table) -> pa.Array:
        """Return which rows fulfil all bounds; how many they are, of a noun or in all, does not count here.

        Args:
            table: The columns that rules use, those of signs only if this one does.
        """
        pixels = pc.multiply(table["height_px"].cast(pa.float64()), table["width_px"].cast(pa.float64()))
        share = pc.divide(table["area_px"].cast(pa.float64()), pixels)
        score, margin = table["score"].cast(pa.float64()), pc.fill_null(table["margin"].cast(pa.float64()), np.inf)
        kept = pc.equal(table["status"], OK)
        bounds: list[tuple[Any, float | None, float | None]] = [
            (score, self.min_score, self.max_score),
            (margin, self.min_margin, None),
            (share, self.min_area_share, self.max_area_share),
        ]
        of_signs: list[tuple[str, float | None, float | None]] = [
            ("trust", self.min_trust, None),
            ("noun_margin", self.min_noun_margin, None),
            ("noun_rank", None, self.max_noun_rank),
            ("region_margin", self.min_region_margin, None),
            ("rival_margin", self.min_rival_margin, None),
            ("captions_naming", self.min_captions_naming, None),
        ]
        for name, least, most in of_signs:
            if least is not None or most is not None:
                missing = np.inf if least is not None else -np.inf
                bounds.append((pc.fill_null(table[name].cast(pa.float64()), missing), least, most))
        for values, least, most in bounds:
            if least is not None:
                kept = pc.and_(kept, pc.greater_equal(values, least))
            if most is not None:
                kept = pc.and_(kept, pc.less_equal(values, most))
        if self.nouns:
            kept = pc.and_(kept, pc.is_in(table["noun"], value_set=pa.array(self.nouns)))
        if self.without_nouns:
            kept = pc.and_(kept, pc.invert(pc.is_in(table["noun"], value_set=pa.array(self.without_nouns))))
        if self.single_instances:
            kept = pc.and_(kept, pc.invert(pc.fill_null(table["more_instances"], fill_value=False)))
        return pc.fill_null(kept, fill_value=False)


@dataclass(frozen=True, slots=True)
class FilterJob:
    """Copies the chosen pairs of a shard.

    Attributes:
        pairs: To choose from, finished.
        rule: What is kept.
        signs: Of the pairs; None if the rule needs none.
    """

    pairs: Artifact
    rule: PairRule
    signs: Artifact | None = None

    def open(self) -> Mapping[str, Sequence[int]]:
        """Choose the rows of every shard."""
        return chosen_rows(self.pairs, self.rule, self.signs)

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


def filter_pairs(
    pairs: Artifact,
    rule: PairRule,
    directory: Path,
    *,
    signs: Artifact | None = None,
    compute: Compute = Compute(),
) -> StageReport:
    """Make a subset of pairs in a directory of its own, as far as that is not done.

    Args:
        pairs: To choose from, finished.
        rule: What is kept.
        directory: For the subset; new, or that of the same subset.
        signs: Of these pairs or of those that they were chosen from (`pair_signs.make_signs`); needed only by rules
            that use them.
        compute: Where shards are made.

    Raises:
        PipelineError: If no pair fulfils the rule, something else is in the directory, or signs are missing.
        ArtifactError: If the artifact is not one of pairs, or not finished.
        SchemaError: If its pairs are of another schema.
    """
    pairs.require(KIND, SCHEMA_VERSION)
    if rule.uses_signs and signs is None:
        raise PipelineError(f"pairs filter: {rule.to_json()} asks for signs of trust; make them by 'ovseg pairs signs'")
    signs = signs if rule.uses_signs else None
    if signs is not None:
        signs.require(SIGNS, SIGNS_VERSION)
    subset = _planned(pairs, rule, directory, signs)
    absent = sorted(set(rule.nouns) - set(_columns(pairs, ("noun",))["noun"].to_pylist()))
    if absent:
        logger.warning("pairs filter: %d of %d nouns are in no pair: %s", len(absent), len(rule.nouns), absent[:10])
    if not any(map(len, chosen_rows(pairs, rule, signs).values())):
        raise PipelineError(
            f"pairs filter: none of {pairs.manifest().rows} rows fulfils {rule.to_json()}; ask for less"
        )
    report = run_stage(FilterJob(pairs, rule, signs), subset, compute=compute)
    make_card(subset)
    return report


def chosen_rows(pairs: Artifact, rule: PairRule, signs: Artifact | None = None) -> dict[str, list[int]]:
    """Choose the rows of every shard, ascending, by the tables alone.

    Raises:
        PipelineError: If the signs are of other pairs.
    """
    table = _columns(pairs, _COLUMNS)
    if signs is not None:
        table = _with_signs(table, pairs, signs)
    unit_of = np.repeat(np.arange(len(pairs.description.units)), [unit.rows for unit in pairs.manifest().units])
    kept = np.flatnonzero(rule.keeps(table).to_numpy(zero_copy_only=False))
    if rule.keep_share is not None:
        trust = pc.fill_null(table["trust"], -np.inf).to_numpy()[kept]
        most_trusted = np.argsort(-trust, kind="stable")[: round(rule.keep_share * len(kept))]
        kept = np.sort(kept[most_trusted])
    if rule.max_per_noun is not None:
        kept = kept[_best_of_each_noun(table.take(kept), rule.max_per_noun)]
    first = np.searchsorted(unit_of, np.arange(len(pairs.description.units)))
    return {
        unit: (kept[unit_of[kept] == number] - first[number]).tolist()
        for number, unit in enumerate(pairs.description.units)
    }


def _with_signs(table: pa.Table, pairs: Artifact, signs: Artifact) -> pa.Table:
    """Add the signs of each row, which are found by the names of the pairs.

    Raises:
        PipelineError: If a pair has none.
    """
    units = signs.description.units
    found = pa.concat_tables([read_pair_signs(signs, unit, columns=("pair", "noun", *_SIGNS)) for unit in units])
    places = pc.index_in(table["pair"], value_set=found["pair"].combine_chunks())
    same = pc.fill_null(pc.equal(found["noun"].take(places), table["noun"]), fill_value=False)
    if others := table.num_rows - (pc.sum(same).as_py() or 0):
        raise PipelineError(
            f"{signs.directory}: has no signs of {others} of {table.num_rows} rows of {pairs.directory}; give those of "
            "these pairs, or of the pairs that they were chosen from"
        )
    for name in _SIGNS:
        table = table.append_column(name, found[name].take(places))
    return table


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


def _planned(pairs: Artifact, rule: PairRule, directory: Path, signs: Artifact | None) -> Artifact:
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
        inputs={"pairs": pairs.manifest().digest()} | ({"signs": signs.manifest().digest()} if signs else {}),
    )
    attributes = {**pairs.description.attributes, "filter": asked}
    subset = Artifact(directory, Description(identity=identity, units=pairs.description.units, attributes=attributes))
    occupied = directory.exists() and (not directory.is_dir() or any(directory.iterdir()))
    if occupied and not ((directory / ARTIFACT_FILE).is_file() and Artifact.open(directory).identity == identity):
        raise PipelineError(
            f"{directory}: holds something else than this subset; choose another directory, or delete this one"
        )
    return subset
