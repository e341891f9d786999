"""Pairs: masked regions with the noun that names them, the product of mining that other projects reuse.

A unit is ``shard-00000.tar`` and ``shard-00000.parquet``. The tar is a WebDataset: per pair ``PAIR.png`` or
``PAIR.jpg`` (the region's box cut from the picture, not masked), ``PAIR.mask.png`` (255 inside the region, 0 outside,
same size), ``PAIR.txt`` (the noun) and ``PAIR.json`` (score and origin). The Parquet table has one row per pair, made
or not, with all that is known of it and the place of its members. Fill colour, crop rule and resize are applied when
reading, so one data set serves masked, unmasked and soft-mask experiments. Boxes and masks lie in the picture as the
proposal net saw it: turned as its EXIF tag says, and resized to ``height_px`` x ``width_px``.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import MEMBER, OK, REASON, SCENE_KEY, STATUS, column, vector_type
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, read_table
from storage_schemas.tars import IndexedTar, Member, read_member

KIND = "pairs"
SCHEMA_VERSION = 2


SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("pair", pa.string(), "Name of the pair, unique and ascending; also the stem of its members' names."),
            SCENE_KEY,
            column("image_id", pa.string(), "The data set's own id of the image."),
            STATUS,
            REASON,
            column("noun", pa.string(), "Lower-case lemma, or as written by settings; empty where there is none."),
            column("noun_text", pa.string(), "The noun as the caption has it."),
            column(
                "noun_start", pa.int32(), "First character of the noun in the caption; null for class names.", null=True
            ),
            column("noun_end", pa.int32(), "One past its last character.", null=True),
            column("caption_id", pa.int64(), "The caption's id in the data set; null for class names.", null=True),
            column("caption", pa.string(), "Text of that caption, in which noun_start and noun_end count.", null=True),
            column("region", pa.int32(), "Query of the proposal, or class of the ground-truth mask.", null=True),
            column("score", pa.float32(), "Cosine of image and text embedding, -1..1.", null=True),
            column(
                "margin",
                pa.float32(),
                "Score minus that of the best other region for the noun; null where there is but one. Below 0 only for "
                "class names, whose region is given.",
                null=True,
            ),
            column("rank", pa.int32(), "Place of this noun among the scene's nouns by score, from 0.", null=True),
            column("height_px", pa.int32(), "Height of the picture in which mask and box lie."),
            column("width_px", pa.int32(), "Width of that picture."),
            column("mask_counts", pa.binary(), "Compressed COCO run lengths of the region.", null=True),
            column("area_px", pa.int64(), "Pixels inside the region.", null=True),
            column("box_xyxy", vector_type(4, pa.int32()), "Tight box; px, half-open.", null=True),
            column("crop_suffix", pa.string(), "'png' or 'jpg'."),
            column("crop", MEMBER, "Place in the tar of the box's content, not masked; null when not ok.", null=True),
            column("crop_mask", MEMBER, "Place of the mask inside the box, 255 inside and 0 outside.", null=True),
        ]
    ),
)

ORIGIN: tuple[pa.Field, ...] = tuple(
    SCHEMA.columns.field(name)
    for name in (
        *("key", "image_id", "noun", "noun_text", "noun_start", "noun_end", "caption_id", "caption", "region"),
        *("score", "margin", "rank", "height_px", "width_px", "area_px", "box_xyxy"),
    )
)
"""Columns that ``PAIR.json`` holds as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One masked region with its noun, or why there is none.

    Attributes:
        pair: Name of the pair, unique in the artifact and ascending; letters, digits, ``_`` and ``-``.
        key: Key of the scene.
        image_id: The data set's own id of the image.
        noun: Lower-case lemma, or as written if settings say so; empty for a scene or caption that gave none.
        noun_text: The noun as the caption has it.
        noun_start: First character of the noun in the caption; None where the noun is a class name.
        noun_end: One past its last character.
        caption_id: The caption's id in the data set; None where the noun is a class name.
        caption: Text of that caption, as the data set has it.
        region: Query of the proposal, or class of the ground-truth mask; None where nothing was chosen.
        score: Cosine of image and text embedding, -1..1.
        margin: Score minus that of the second-best region for the noun; None where there is but one region.
        rank: Place of this noun among the scene's nouns by score, from 0.
        height_px: Height of the picture in which mask and box lie.
        width_px: Width of that picture.
        mask_counts: Compressed COCO run lengths of the region.
        area_px: Pixels inside the region.
        box_xyxy: Tight box; px, half-open.
        crop_suffix: ``"png"`` or ``"jpg"``.
        crop: Image file of the box's content, not masked.
        crop_mask_png: PNG file of the mask inside the box, 255 inside and 0 outside.
        status: ``"ok"``, else a slug of what went wrong.
        reason: What went wrong in words.
    """

    pair: str
    key: str
    image_id: str
    noun: str = ""
    noun_text: str = ""
    noun_start: int | None = None
    noun_end: int | None = None
    caption_id: int | None = None
    caption: str | None = None
    region: int | None = None
    score: float | None = None
    margin: float | None = None
    rank: int | None = None
    height_px: int = 0
    width_px: int = 0
    mask_counts: bytes | None = None
    area_px: int | None = None
    box_xyxy: tuple[int, int, int, int] | None = None
    crop_suffix: str = ""
    crop: bytes = b""
    crop_mask_png: bytes = b""
    status: str = OK
    reason: str = ""


class PairShardWriter:
    """Writes one shard of pairs; what it wrote counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the writer is used.
    """

    def __init__(self, unit: UnitWriter) -> None:
        self._unit = IndexedTar(unit, SCHEMA)

    def add(self, pair: Pair) -> None:
        """Append one pair; one that could not be made becomes a row without members.

        Raises:
            ArtifactError: If its name is not greater than that of the pair before, or cannot name a tar member.
            WriteError: If the operating system refuses.
        """
        rows = self._unit.rows
        if rows and pair.pair <= rows[-1]["pair"]:
            raise ArtifactError(f"pair {pair.pair!r}: comes after {rows[-1]['pair']!r}; add pairs in ascending order")
        row = {name: value for name, value in asdict(pair).items() if name in SCHEMA.columns.names}
        row["crop"], row["crop_mask"] = None, None
        if pair.status == OK:
            row["crop"] = self._unit.add_member(pair.pair, pair.crop_suffix, pair.crop)
            origin = json.dumps({field.name: getattr(pair, field.name) for field in ORIGIN}, ensure_ascii=False)
            self._unit.add_member(pair.pair, "json", origin.encode())
            row["crop_mask"] = self._unit.add_member(pair.pair, "mask.png", pair.crop_mask_png)
            self._unit.add_member(pair.pair, "txt", pair.noun.encode())
        rows.append(row)

    def commit(self) -> Sidecar:
        """Make the shard a finished unit.

        Raises:
            WriteError: If the operating system refuses.
        """
        return self._unit.commit()


class PairMembers(NamedTuple):
    """The stored pictures of a pair.

    Attributes:
        crop: Image file of the box's content, not masked.
        crop_mask_png: PNG file of the mask inside the box.
    """

    crop: bytes
    crop_mask_png: bytes


def read_index(artifact: Artifact, unit: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the table of one shard, or some columns of it.

    Raises:
        SchemaError: If the file is of another schema.
    """
    return read_table(artifact.directory / f"{unit}.parquet", SCHEMA, columns=columns)


def read_members(artifact: Artifact, unit: str, index: pa.Table, rows: Sequence[int]) -> Iterator[PairMembers]:
    """Read the pictures of some pairs of one shard.

    Args:
        index: Its table, with the columns ``crop`` and ``crop_mask``.
        rows: Row numbers of pairs whose status is ``"ok"``, in the order of the result.

    Raises:
        ArtifactError: If a row has no pictures.
        CorruptUnitError: If the tar is shorter than the index says.
    """
    path = artifact.directory / f"{unit}.tar"
    with path.open("rb") as file:
        for row in rows:
            crop, mask = index["crop"][row].as_py(), index["crop_mask"][row].as_py()
            if crop is None or mask is None:
                raise ArtifactError(f"{path}: row {row} has no pictures; ask for rows whose status is 'ok'")
            yield PairMembers(_read(file, crop, path), _read(file, mask, path))


def _read(file: BinaryIO, member: dict[str, int], path: Path) -> bytes:
    return read_member(file, Member(**member), path)
