"""Signs of trust: what stored embeddings say for and against each pair, beside the pairs and row by row.

A unit is ``shard-00000.parquet``, with one row per row of the pairs' own shard of that name, in the same order and with
the same ``pair``. A row that is no pair has the pair's ``status`` and nothing else. All similarities are cosines of
stored image and text embeddings, so differences of them are comparable with the pairs' ``score`` and ``margin``.

The identity's input ``pairs`` is the digest of the manifest of the pairs that were mined; a subset of them, as ``ovseg
pairs filter`` writes it, has rows of the same names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import REASON, SCENE_KEY, STATUS, column
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, UnitTable, read_table

KIND = "pair_signs"
SCHEMA_VERSION = 1

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("pair", pa.string(), "Name of the pair."),
            SCENE_KEY,
            column("noun", pa.string(), "Its noun; empty where there is none."),
            STATUS,
            REASON,
            column(
                "trust",
                pa.float32(),
                "noun_margin plus region_margin, of which a missing one counts 0: the plain sum, fitted to nothing.",
                null=True,
            ),
            column(
                "noun_margin",
                pa.float32(),
                "Similarity of mask and noun minus that of the mask and the nearest noun of other pictures; above 0: "
                "the way from noun to mask leads back to the noun. Null where no other picture has another noun.",
                null=True,
            ),
            column(
                "noun_rank",
                pa.int32(),
                "How many nouns of other pictures are nearer to the mask; those of this picture's own captions do not "
                "count.",
                null=True,
            ),
            column("nearest_noun", pa.string(), "The noun of other pictures that is nearest to the mask.", null=True),
            column(
                "region_margin",
                pa.float32(),
                "Similarity minus that of the best mask elsewhere in the picture, whose IoU with this one is below "
                "0.5, so that a second mask of the same thing does not count; null where there is none.",
                null=True,
            ),
            column("rival_region", pa.int32(), "That mask: query of the proposal, or class.", null=True),
            column(
                "rival_noun",
                pa.string(),
                "The picture's other noun whose mask is this one, or overlaps it by an IoU of at least 0.5; of several "
                "the nearest. Null where no other noun claims the mask.",
                null=True,
            ),
            column(
                "rival_margin",
                pa.float32(),
                "Score minus the rival noun's score; below 0: the other noun has the better claim.",
                null=True,
            ),
            column("captions", pa.int32(), "Captions of the picture; null for class names.", null=True),
            column("captions_naming", pa.int32(), "How many of them have the noun.", null=True),
            column("area_share", pa.float32(), "Share of the picture that the mask fills, 0..1.", null=True),
            column("plural", pa.bool_(), "Whether the caption has the noun in the plural, or counts it.", null=True),
            column(
                "alike_regions",
                pa.int32(),
                "Masks beside this one, none overlapping another, whose similarity is at most 0.02 lower.",
                null=True,
            ),
            column(
                "parts",
                pa.int32(),
                "Connected parts of the mask, those below a fifth of its largest part left out.",
                null=True,
            ),
            column(
                "more_instances",
                pa.bool_(),
                "Whether the picture probably shows more of the noun than this one thing: plural, alike_regions above "
                "0, or parts above 1.",
                null=True,
            ),
        ]
    ),
)


def write_pair_signs(unit: UnitWriter, rows: Sequence[Mapping[str, Any]]) -> Sidecar:
    """Write the signs of one shard.

    Args:
        unit: From ``artifact.write_unit``, inside its ``with`` block.
        rows: In the order of the pairs' shard; a column that a row lacks is null there.

    Raises:
        WriteError: If the operating system refuses.
    """
    table = UnitTable(unit, SCHEMA)
    table.write_sparse_rows(rows)
    return table.commit()


def read_pair_signs(artifact: Artifact, unit: str, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read the table of one shard, or some columns of it.

    Raises:
        SchemaError: If the file is of another schema.
    """
    return read_table(artifact.directory / f"{unit}.parquet", SCHEMA, columns=columns)
