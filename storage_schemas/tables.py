"""Parquet tables with fixed writer options and a schema that is checked when they are read."""

import contextlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from storage_schemas.artifact import UnitWriter
from storage_schemas.digests import Json
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar

_KIND = b"ovseg.kind"
_VERSION = b"ovseg.schema_version"


@dataclass(frozen=True, slots=True)
class TableSchema:
    """Columns of a table, with the kind and version that its files carry.

    Attributes:
        version: Schema version; a reader refuses any other.
        columns: Arrow fields in order.
    """

    kind: str
    version: int
    columns: pa.Schema

    def with_metadata(self) -> pa.Schema:
        """Return the Arrow schema that is written, kind and version among its metadata."""
        return self.columns.with_metadata({_KIND: self.kind.encode(), _VERSION: str(self.version).encode()})


class TableWriter:
    """Writes a Parquet table in batches; equal batches give equal bytes."""

    def __init__(self, file: io.RawIOBase, schema: TableSchema) -> None:
        self._schema = schema.with_metadata()
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            version="2.6",
            data_page_version="1.0",
            compression="zstd",
            compression_level=3,
            use_dictionary=True,
            write_statistics=True,
        )
        self.rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error that passes through is the one to report
            self.close()

    def write_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows, each a mapping of all columns, as one row group.

        Raises:
            SchemaError: If a row has a column missing or one too many, or a value of another type.
        """
        for row in rows:
            self._check_names(row)
        with _explained_value_errors():
            table = pa.Table.from_pylist(list(rows), schema=self._schema)
        self._write(table)

    def write_columns(self, columns: Mapping[str, Any]) -> None:
        """Append rows given as one array per column, as one row group.

        Raises:
            SchemaError: If a column is missing or one too many, or has a value of another type or another length.
        """
        self._check_names(columns)
        with _explained_value_errors():
            arrays = [pa.array(columns[field.name], type=field.type) for field in self._schema]
            table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._write(table)

    def _check_names(self, names: Mapping[str, Any]) -> None:
        """Compare the names of columns given with those of the schema.

        Raises:
            SchemaError: If they differ.
        """
        if names.keys() != set(self._schema.names):
            found, expected = sorted(names), sorted(self._schema.names)
            raise SchemaError(f"columns: found {found}, expected {expected}; give each column once")

    def _write(self, table: pa.Table) -> None:
        for field in self._schema:
            nulls = table[field.name].null_count
            if nulls and not field.nullable:
                raise SchemaError(
                    f"column {field.name!r}: {nulls} of {table.num_rows} values are missing; give every row one"
                )
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def close(self) -> None:
        """Write the footer; the file stays open."""
        self._writer.close()


class UnitTable:
    """A unit that is one Parquet table, whose rows have a status; what was written counts once ``commit`` was called.

    Args:
        unit: From ``artifact.write_unit``, in whose ``with`` block the table is used.
    """

    def __init__(self, unit: UnitWriter, schema: TableSchema) -> None:
        self._unit = unit
        self._table = TableWriter(unit.file("parquet"), schema)
        self._names = schema.columns.names
        self._counts: Counter[str] = Counter()

    def write_columns(self, columns: Mapping[str, Any]) -> None:
        """Append rows as one row group; the column ``status`` is counted.

        Raises:
            SchemaError: As `TableWriter.write_columns`.
            WriteError: If the operating system refuses.
        """
        self._counts.update(columns["status"])
        self._table.write_columns(columns)

    def write_sparse_rows(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append rows as one row group; a column that a row lacks is null there. Errors as `write_columns`."""
        self.write_columns({name: [row.get(name) for row in rows] for name in self._names})

    def commit(self, facts: Mapping[str, Json] = MappingProxyType({})) -> Sidecar:
        """Make the table a finished unit.

        Args:
            facts: What else is known of it.

        Raises:
            WriteError: If the operating system refuses.
        """
        self._table.close()
        return self._unit.commit(rows=self._table.rows, counts=self._counts, facts=facts)


def read_table(path: Path, schema: TableSchema, *, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns, after checking that it is of this schema.

    Args:
        schema: What the file has to be.
        columns: Names of the columns to read; all by default.

    Raises:
        SchemaError: If the file is of another kind, version or column type, or is no Parquet file; or if a column
            is asked for that the schema does not have.
    """
    unknown = sorted(set(columns or ()) - set(schema.columns.names))
    if unknown:
        raise SchemaError(
            f"{path}: columns {unknown} are asked for, schema {schema.version} has {schema.columns.names}"
        )
    try:
        with pq.ParquetFile(path) as file:
            check_schema(path, file.schema_arrow, schema)
            # Tables are of one unit: handing their columns to threads takes longer than decoding them.
            return file.read(columns=list(columns) if columns is not None else None, use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"{path}: cannot be read as Parquet ({error}); run the stage that makes it again") from error


def vector_length(path: Path, column: str, *, if_missing: int | None = None) -> int:
    """Return the length of the vectors in a column of a Parquet file, from its footer.

    Args:
        column: Name of the column.
        if_missing: Length to return for a file without that column; None makes it an error.

    Raises:
        SchemaError: If it is no Parquet file, or has no such column of vectors.
    """
    try:
        found = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise SchemaError(f"{path}: cannot be read as Parquet ({error}); run the stage that makes it again") from error
    index = found.get_field_index(column)
    if index < 0 and if_missing is not None:
        return if_missing
    kind = found.field(index).type if index >= 0 else None
    if not isinstance(kind, pa.FixedSizeListType):
        raise SchemaError(
            f"{path}: column {column!r} is {kind or 'missing'}, vectors are expected; run the stage that makes it again"
        )
    length: int = kind.list_size
    return length


def check_schema(path: Path, found: pa.Schema, expected: TableSchema) -> None:
    """Compare the schema of a file with the one that its reader knows.

    Raises:
        SchemaError: If kind, version, or name, type or number of the columns differ.
    """
    metadata = found.metadata or {}
    kind, version = metadata.get(_KIND, b"").decode(), metadata.get(_VERSION, b"").decode()
    if (kind, version) != (expected.kind, str(expected.version)):
        found_text = f"is of kind {kind or 'unknown'!r}, schema {version or 'unknown'}"
        expected_text = f"kind {expected.kind!r}, schema {expected.version} is expected"
        raise SchemaError(f"{path}: {found_text}, {expected_text}; run the stage that makes it again")
    for field in expected.columns:
        index = found.get_field_index(field.name)
        type_found = found.field(index).type if index >= 0 else "missing"
        if type_found != field.type:
            difference = f"column {field.name!r} is {type_found}, schema {expected.version} has {field.type}"
            raise SchemaError(f"{path}: {difference}; run the stage that makes it again")
    unknown = [name for name in found.names if name not in expected.columns.names]
    if unknown:
        raise SchemaError(
            f"{path}: columns {unknown} are not of schema {expected.version}; run the stage that makes it again"
        )


@contextlib.contextmanager
def _explained_value_errors() -> Iterator[None]:
    """Turn Arrow's complaints about values into a ``SchemaError``.

    Raises:
        SchemaError: In place of any of them.
    """
    try:
        yield
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        raise SchemaError(
            f"rows: do not fit the schema ({error}); give values of the columns' types, columns of equal length"
        ) from error
