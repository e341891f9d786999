"""Weight choices: how well each ensemble weight names mined validation pairs, so that none is chosen on a test set.

A unit is ``pairs.parquet``, one row per ensemble weight, in order.
"""

from collections.abc import Mapping, Sequence

import pyarrow as pa

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK, column
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, TableWriter, read_table

KIND = "weight_choices"
SCHEMA_VERSION = 1
UNIT = "pairs"

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            column("ensemble_weight", pa.float64(), "Lambda: 0 = proposal net only, 1 = CLIP only."),
            column("pairs", pa.int64(), "Pairs that were named."),
            column("nouns", pa.int64(), "Different nouns among which was chosen."),
            column("correct", pa.int64(), "Pairs whose own noun scored highest."),
        ]
    ),
)


def write_weight_choice(artifact: Artifact, rows: Sequence[Mapping[str, float]]) -> Sidecar:
    """Write the table as the finished unit.

    Raises:
        WriteError: If the operating system refuses.
    """
    with artifact.write_unit(UNIT) as writer:
        with TableWriter(writer.file("parquet"), SCHEMA) as table:
            table.write_rows(rows)
        return writer.commit(rows=len(rows), counts={OK: len(rows)})


def read_weight_choice(artifact: Artifact) -> pa.Table:
    """Read the table.

    Raises:
        SchemaError: If the file is of another schema.
    """
    return read_table(artifact.directory / f"{UNIT}.parquet", SCHEMA)
