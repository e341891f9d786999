"""Negatives: nouns that pictures surely do not show, as rows of their own, for losses and for calibration.

A unit is ``shard-00000.parquet``, one row per picture and absent noun, in key order; of the same shards as the pairs. A
picture for which none was found is a row without a noun, with ``status`` and ``reason``. A noun is absent if it is in
none of the picture's captions, is no near synonym of a noun of them and shares no word with one, and every mask of the
picture is less near to it than the best masks of most other pictures are.

The identity's input ``pairs`` is the digest of the manifest of the pairs whose nouns and pictures these are.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import REASON, SCENE_KEY, STATUS, column
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, UnitTable, read_table

KIND = "negatives"
SCHEMA_VERSION = 1

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            SCENE_KEY,
            column("image_id", pa.string(), "The data set's own id of the image."),
            STATUS,
            REASON,
            column("noun", pa.string(), "What the picture does not show; empty where none was found."),
            column("score", pa.float32(), "Cosine of the noun and the picture's nearest mask.", null=True),
            column("region", pa.int32(), "That mask: query of the proposal, or class.", null=True),
            column(
                "usual_score",
                pa.float32(),
                "What the nearest mask of other pictures has for the noun, at the quantile that the settings name.",
                null=True,
            ),
            column("captions", pa.int32(), "Captions that were read; null for class names.", null=True),
        ]
    ),
)


def write_negatives(unit: UnitWriter, rows: Sequence[Mapping[str, Any]]) -> Sidecar:
    """Write one shard.

    Args:
        unit: From ``artifact.write_unit``, inside its ``with`` block.
        rows: In key order; a column that a row lacks is null there.

    Raises:
        WriteError: If the operating system refuses.
    """
    table = UnitTable(unit, SCHEMA)
    table.write_sparse_rows(rows)
    return table.commit()


def read_negatives(artifact: Artifact, unit: str) -> pa.Table:
    """Read the table of one shard.

    Raises:
        SchemaError: If the file is of another schema.
    """
    return read_table(artifact.directory / f"{unit}.parquet", SCHEMA)
