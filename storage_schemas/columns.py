"""Columns: described where they are declared, those that kinds share, and vectors to and from numpy."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from storage_schemas.errors import SchemaError

MEMBER = pa.struct([pa.field("offset", pa.int64(), nullable=False), pa.field("size_bytes", pa.int64(), nullable=False)])
"""Place of a member's bytes in its tar."""

OK = "ok"
"""Status of a row that nothing is wrong with; any other is a slug of what went wrong."""


def column(name: str, kind: pa.DataType, what: str, *, null: bool = False) -> pa.Field:
    """Return a column that carries its own description, in the code and in every file.

    Args:
        name: Name of the column.
        what: What it holds, one sentence.
        null: Whether a row may leave it empty.
    """
    return pa.field(name, kind, nullable=null, metadata={"what": what})


SCENE_KEY = column("key", pa.string(), "Key of the scene.")
STATUS = column("status", pa.string(), "'ok', else a slug of what went wrong.")
REASON = column("reason", pa.string(), "What went wrong in words; empty when ok.")


def vector_type(length: int, value_type: pa.DataType) -> pa.DataType:
    """Return the Arrow type of vectors of one length."""
    return pa.list_(pa.field("item", value_type, nullable=False), length)


def vector_column(values: npt.NDArray[np.generic]) -> pa.Array:
    """Turn an array [row length] into a column of vectors.

    Raises:
        SchemaError: If ``values`` is not two-dimensional.
    """
    if values.ndim != 2:
        raise SchemaError(f"vectors: found shape {values.shape}, expected [row length]")
    flat = pa.array(np.ascontiguousarray(values).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, type=vector_type(values.shape[1], flat.type))


def vectors_of(column: pa.ChunkedArray | pa.Array) -> npt.NDArray[Any]:
    """Turn a column of vectors without nulls into an array [row length].

    Raises:
        SchemaError: If a row is null.
    """
    if column.null_count:
        raise SchemaError(
            f"vectors: {column.null_count} of {len(column)} rows are null; select the rows whose status is 'ok'"
        )
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    length = array.type.list_size
    values: npt.NDArray[Any] = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(-1, length)


def slices_by(table: pa.Table, column: str) -> Iterator[pa.Table]:
    """Cut a table into the runs of rows that share a column's value, in order."""
    values = table[column].to_pylist()
    starts = [row for row, value in enumerate(values) if row == 0 or value != values[row - 1]]
    for start, end in pairwise([*starts, len(values)]):
        yield table.slice(start, end - start)
