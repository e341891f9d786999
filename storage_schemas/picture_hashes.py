"""Picture hashes: what the pictures of a data set are recognised by in another one.

A unit is ``shard-00000.parquet``, one row per scene in key order, of the same shards as the scenes. It is only a cache:
scenes are large, and a data set is compared with many. How hashes are made and compared: `ovseg_models.picture_hash`.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage_schemas.artifact import Artifact, UnitWriter
from storage_schemas.columns import OK, REASON, SCENE_KEY, STATUS, column
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, UnitTable, read_table

KIND = "picture_hashes"
SCHEMA_VERSION = 1
_SIGNS, _COLOURS, _DIGEST = 128, 192, hashlib.sha256().digest_size

SCHEMA = TableSchema(
    KIND,
    SCHEMA_VERSION,
    pa.schema(
        [
            SCENE_KEY,
            STATUS,
            REASON,
            column("file_sha256", pa.binary(_DIGEST), "Of the image file as stored; null without one.", null=True),
            column("signs", pa.binary(_SIGNS), "Perceptual hash: 128 signed bytes, -1, 0 or 1.", null=True),
            column("colours", pa.binary(_COLOURS), "Mean red, green, blue of 8 x 8 blocks, upright.", null=True),
        ]
    ),
)


class PictureHashTable(NamedTuple):
    """The hashes of one shard.

    Attributes:
        keys: Of scenes with a picture, ascending.
        file_digests: SHA-256 of each file.
        signs: [picture 128].
        colours: [picture 192].
    """

    keys: list[str]
    file_digests: list[bytes]
    signs: npt.NDArray[np.int8]
    colours: npt.NDArray[np.uint8]


def write_picture_hashes(unit: UnitWriter, rows: Sequence[Mapping[str, object]]) -> Sidecar:
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


def read_picture_hashes(artifact: Artifact, unit: str) -> PictureHashTable:
    """Read one shard; scenes without a picture are left out.

    Raises:
        SchemaError: If the file is of another schema.
    """
    table = read_table(artifact.directory / f"{unit}.parquet", SCHEMA).filter(pc.field("status") == OK)
    signs, colours = (b"".join(table[name].to_pylist()) for name in ("signs", "colours"))
    return PictureHashTable(
        keys=table["key"].to_pylist(),
        file_digests=table["file_sha256"].to_pylist(),
        signs=np.frombuffer(signs, np.int8).reshape(-1, _SIGNS),
        colours=np.frombuffer(colours, np.uint8).reshape(-1, _COLOURS),
    )
