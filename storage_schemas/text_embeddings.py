"""Text embeddings: one vector per noun, so that no noun goes through CLIP's text tower twice.

A unit is ``nouns-00000.parquet``, one row per noun in ascending order. What a noun's vector is follows from CLIP, the
prompt templates and the noun alone, so vectors may be copied from any artifact of the same CLIP and templates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK, column, vector_column, vector_type, vectors_of
from storage_schemas.manifest import Sidecar
from storage_schemas.tables import TableSchema, TableWriter, read_table, vector_length

KIND = "text_embeddings"
SCHEMA_VERSION = 1


def schema(embedding_dim: int) -> TableSchema:
    """Return the table's schema for a CLIP with embeddings of this length."""
    columns = [
        column("noun", pa.string(), "Lower-case lemma, or class name."),
        column(
            "text_embedding",
            vector_type(embedding_dim, pa.float32()),
            "L2-normalised mean of the embeddings of all sentences around the noun.",
        ),
    ]
    return TableSchema(KIND, SCHEMA_VERSION, pa.schema(columns))


def write_text_embeddings(
    artifact: Artifact, unit: str, nouns: Sequence[str], embeddings: npt.NDArray[np.float32]
) -> Sidecar:
    """Write one unit.

    Args:
        artifact: Held for writing.
        unit: One of its units.
        nouns: In ascending order.
        embeddings: [noun dim].

    Raises:
        WriteError: If the operating system refuses.
    """
    with artifact.write_unit(unit) as writer:
        with TableWriter(writer.file("parquet"), schema(embeddings.shape[1])) as table:
            table.write_columns({"noun": list(nouns), "text_embedding": vector_column(embeddings)})
        return writer.commit(rows=len(nouns), counts={OK: len(nouns)})


def read_text_embeddings(artifact: Artifact, unit: str) -> Mapping[str, npt.NDArray[np.float32]]:
    """Read one unit as vectors [dim] by noun.

    Raises:
        SchemaError: If the file is of another schema.
    """
    path = artifact.directory / f"{unit}.parquet"
    table = read_table(path, schema(vector_length(path, "text_embedding")))
    return dict(zip(table["noun"].to_pylist(), vectors_of(table["text_embedding"]), strict=True))
