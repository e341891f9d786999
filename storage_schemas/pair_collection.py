"""All usable pairs of an artifact, or of several, as one numbered list, each of them one seek away."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.errors import ArtifactError
from storage_schemas.pairs import KIND, SCHEMA_VERSION, PairMembers, read_index, read_members

_COLUMNS = ("pair", "key", "status", "noun", "crop", "crop_mask")


class PairPlace(NamedTuple):
    """Where a pair is, for messages.

    Attributes:
        unit: Name of the shard.
        pair: Name of the pair.
    """

    unit: str
    pair: str


class PairRegion(NamedTuple):
    """Where a pair's mask lies in its picture.

    Attributes:
        key: Of the scene.
        height_px: Of the picture in which the mask lies.
        width_px: Of that picture.
        mask_counts: Compressed COCO run lengths.
    """

    key: str
    height_px: int
    width_px: int
    mask_counts: bytes


class PairCollection:
    """The pairs with status ``"ok"`` in order of shard and name, numbered from 0.

    Cheap to send to another process, which reads the indexes itself.

    Args:
        artifact: A finished artifact of pairs.
        without_nouns: Nouns whose pairs are left out.

    Raises:
        ArtifactError: If the artifact is of another kind.
        SchemaError: If its pairs are of another schema.
    """

    def __init__(self, artifact: Artifact, without_nouns: Sequence[str] = ()) -> None:
        artifact.require(KIND, SCHEMA_VERSION)
        self.artifact = artifact
        self._without_nouns = frozenset(without_nouns)

    def __reduce__(self) -> tuple[Any, ...]:
        return PairCollection, (self.artifact, tuple(self._without_nouns))

    def __len__(self) -> int:
        return len(self._places)

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """Each noun once, sorted."""
        return tuple(sorted(set(self._noun_of_each)))

    @cached_property
    def noun_numbers(self) -> npt.NDArray[np.int64]:
        """Place in ``nouns`` of each pair's noun [pair]."""
        numbers = {noun: number for number, noun in enumerate(self.nouns)}
        return np.array([numbers[noun] for noun in self._noun_of_each], np.int64)

    def read(self, number: int) -> PairMembers:
        """Read the stored pictures of one pair.

        Raises:
            CorruptUnitError: If the shard is shorter than its index says.
        """
        shard, row = self._places[number]
        unit = self.artifact.description.units[shard]
        return next(read_members(self.artifact, unit, self._indexes[shard], [int(row)]))

    def place(self, number: int) -> PairPlace:
        """Return where a pair is."""
        shard, row = self._places[number]
        return PairPlace(self.artifact.description.units[shard], self._indexes[shard]["pair"][int(row)].as_py())

    def region(self, number: int) -> PairRegion:
        """Return where a pair's mask lies in its picture."""
        shard, row = self._places[number]
        table = self._regions[shard]
        return PairRegion(*(table[name][int(row)].as_py() for name in PairRegion._fields))

    @cached_property
    def pictures(self) -> list[str]:
        """Key of the picture of each pair."""
        columns = [index["key"].to_pylist() for index in self._indexes]
        return [columns[shard][row] for shard, row in self._places.tolist()]

    @cached_property
    def _indexes(self) -> list[pa.Table]:
        units = self.artifact.description.units  # in one piece each: a row is then found without going through chunks
        return [read_index(self.artifact, unit, columns=_COLUMNS).combine_chunks() for unit in units]

    @cached_property
    def _regions(self) -> list[pa.Table]:
        units = self.artifact.description.units
        return [read_index(self.artifact, unit, columns=PairRegion._fields).combine_chunks() for unit in units]

    @cached_property
    def _places(self) -> npt.NDArray[np.int64]:
        """Number of the shard and row in it, per pair [pair 2].

        Raises:
            ArtifactError: If no pair is left.
        """
        places = []
        for number, index in enumerate(self._indexes):
            listed = zip(index["status"].to_pylist(), index["noun"].to_pylist(), strict=True)
            usable = [status == OK and noun not in self._without_nouns for status, noun in listed]
            rows = np.flatnonzero(np.array(usable, bool))
            places.append(np.stack([np.full(len(rows), number), rows], axis=1))
        joined = np.concatenate(places or [np.zeros((0, 2))]).astype(np.int64)
        if len(joined) == 0:
            rows = sum(index.num_rows for index in self._indexes)
            raise ArtifactError(
                f"{self.artifact.directory}: none of {rows} rows is a pair with status 'ok'; mine other scenes"
            )
        return joined

    @cached_property
    def _noun_of_each(self) -> list[str]:
        columns = [index["noun"].to_pylist() for index in self._indexes]
        return [columns[shard][row] for shard, row in self._places.tolist()]


@dataclass(frozen=True)
class JoinedPairs:
    """The pairs of several collections, one after the other.

    Attributes:
        parts: At least one.
    """

    parts: tuple[PairCollection, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @cached_property
    def nouns(self) -> tuple[str, ...]:
        """Each noun once, sorted."""
        return tuple(sorted({noun for part in self.parts for noun in part.nouns}))

    @cached_property
    def noun_numbers(self) -> npt.NDArray[np.int64]:
        """Place in ``nouns`` of each pair's noun [pair]."""
        numbers = {noun: number for number, noun in enumerate(self.nouns)}
        of_parts = [np.array([numbers[noun] for noun in part.nouns], np.int64) for part in self.parts]
        return np.concatenate([own[part.noun_numbers] for own, part in zip(of_parts, self.parts, strict=True)])

    @cached_property
    def pictures(self) -> list[str]:
        """Key of the picture of each pair."""
        return [key for part in self.parts for key in part.pictures]

    def read(self, number: int) -> PairMembers:
        """Read the stored pictures of one pair.

        Raises:
            CorruptUnitError: If the shard is shorter than its index says.
        """
        part, own = self._part(number)
        return part.read(own)

    def region(self, number: int) -> PairRegion:
        """Return where a pair's mask lies in its picture."""
        part, own = self._part(number)
        return part.region(own)

    def place(self, number: int) -> PairPlace:
        """Return where a pair lies."""
        part, own = self._part(number)
        return part.place(own)

    def _part(self, number: int) -> tuple[PairCollection, int]:
        """Return the collection that holds a pair, and its number there."""
        own = number
        for part in self.parts:
            if own < len(part):
                return part, own
            own -= len(part)
        raise IndexError(f"pair {number}: is beyond the {len(self)} pairs of {len(self.parts)} collections")


Pairs: TypeAlias = PairCollection | JoinedPairs
