"""Digests, tars, vectors and tables: equal content gives equal bytes, and what doesn't fit is named."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st

from storage_schemas.columns import column, vector_column, vectors_of
from storage_schemas.digests import canonical_json, sha256_of_file, sha256_of_json
from storage_schemas.errors import ArtifactError, CorruptUnitError, SchemaError
from storage_schemas.tables import TableSchema, TableWriter, read_table
from storage_schemas.tars import Member, ShardTarWriter, read_member

UNIT = "shard-00000"
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_is_json_and_knows_no_order(value: object) -> None:
    encoded = canonical_json(value)
    assert json.loads(encoded) == value
    if isinstance(value, dict):
        assert canonical_json(dict(reversed(value.items()))) == encoded


def test_values_that_differ_have_digests_that_differ() -> None:
    values = [None, False, 0, "", [], {}, [0], ["0"], {"0": 0}, {"0": "0"}, 1, 1.5, True]
    assert len({sha256_of_json(value) for value in values}) == len(values)
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))


def test_a_files_digest_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def tar_of(members: list[tuple[str, str, bytes]]) -> tuple[bytes, list[Member]]:
    file = io.BytesIO()
    tar = ShardTarWriter(file)
    places = [tar.add(*member) for member in members]
    tar.close()
    return file.getvalue(), places


@given(st.lists(st.binary(max_size=1500), max_size=6))
def test_tar_members_lie_where_their_places_say(contents: list[bytes]) -> None:
    members = [(f"key-{number}", "mask.png", data) for number, data in enumerate(contents)]
    tar, places = tar_of(members)
    assert tar_of(members)[0] == tar
    with tarfile.open(fileobj=io.BytesIO(tar)) as reader:
        found = [(info.name, info.mtime, info.uid, info.uname) for info in reader]
    assert found == [(f"key-{number}.mask.png", 0, 0, "") for number in range(len(contents))]
    for data, place in zip(contents, places, strict=True):
        assert read_member(io.BytesIO(tar), place, Path("x.tar")) == data


@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_webdataset_reads_the_tar_in_order(tmp_path: Path) -> None:
    members = [("b", "jpg", b"1"), ("b", "label.png", b"2"), ("a", "jpg", b"3")]
    (tmp_path / "x.tar").write_bytes(tar_of(members)[0])
    samples = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["b", "a"]
    assert (samples[0]["jpg"], samples[0]["label.png"], samples[1]["jpg"]) == (b"1", b"2", b"3")


@pytest.mark.parametrize("key", ["", "a.b", "a/b", "ä", "x" * 81, "a b"])
def test_keys_that_webdataset_would_split_elsewhere_are_refused(key: str) -> None:
    with pytest.raises(ArtifactError, match="tar member"):
        tar_of([(key, "jpg", b"")])


def test_a_tar_that_ends_early_is_named() -> None:
    tar, places = tar_of([("a", "jpg", b"x" * 100)])
    with pytest.raises(CorruptUnitError, match=r"x\.tar: ends within the member"):
        read_member(io.BytesIO(tar[:550]), places[0], Path("x.tar"))


SCHEMA = TableSchema(
    "test", 3, pa.schema([column("name", pa.string(), "A name."), column("size", pa.int32(), "Its size.")])
)


def table_file(path: Path, schema: TableSchema = SCHEMA) -> Path:
    with path.open("wb", buffering=0) as file, TableWriter(file, schema) as table:
        table.write_rows([{"name": "a", "size": 1}, {"name": "b", "size": 2}])
        table.write_columns({"size": np.array([3], np.int32), "name": ["c"]})
    return path


def test_equal_tables_are_equal_files_that_describe_their_columns(tmp_path: Path) -> None:
    first, second = table_file(tmp_path / "1"), table_file(tmp_path / "2")
    assert first.read_bytes() == second.read_bytes()
    read = read_table(first, SCHEMA)
    assert read.to_pydict() == {"name": ["a", "b", "c"], "size": [1, 2, 3]}
    assert read.schema.field("size").metadata[b"what"] == b"Its size."
    assert read_table(first, SCHEMA, columns=["size"]).column_names == ["size"]


@pytest.mark.parametrize(
    ("expected", "reason"),
    [
        (TableSchema("other", 3, SCHEMA.columns), "is of kind 'test', schema 3, kind 'other', schema 3 is expected"),
        (TableSchema("test", 4, SCHEMA.columns), "is of kind 'test', schema 3, kind 'test', schema 4 is expected"),
        (
            TableSchema("test", 3, pa.schema([column("name", pa.binary(), "."), column("size", pa.int32(), ".")])),
            "column 'name' is string, schema 3 has binary",
        ),
        (TableSchema("test", 3, pa.schema([column("name", pa.string(), ".")])), r"columns \['size'\] are not of"),
    ],
)
def test_tables_of_another_kind_are_refused(tmp_path: Path, expected: TableSchema, reason: str) -> None:
    with pytest.raises(SchemaError, match=reason):
        read_table(table_file(tmp_path / "x.parquet"), expected)


def test_what_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(SchemaError, match=r"x\.parquet: cannot be read as Parquet"):
        read_table(tmp_path / "x.parquet", SCHEMA)
    with pytest.raises(SchemaError, match=r"columns \['weight'\] are asked for"):
        read_table(table_file(tmp_path / "y.parquet"), SCHEMA, columns=["weight"])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"name": "a"}, r"found \['name'\], expected \['name', 'size'\]"),
        ({"name": None, "size": 1}, "'name': 1 of 1 values are missing"),
        ({"name": "a", "size": "big"}, "do not fit the schema"),
        ({"name": "a", "size": 2**40}, "do not fit the schema"),
    ],
)
def test_rows_that_do_not_fit_are_refused(row: dict[str, object], reason: str) -> None:
    table = TableWriter(io.BytesIO(), SCHEMA)
    with pytest.raises(SchemaError, match=reason):
        table.write_rows([row])
    table.close()


def test_vectors_with_a_row_missing_are_refused() -> None:
    kind = pa.list_(pa.field("item", pa.float32(), nullable=False), 2)
    with pytest.raises(SchemaError, match="1 of 2 rows are null"):
        vectors_of(pa.array([[1.0, 2.0], None], type=kind))


def test_vectors_have_two_axes() -> None:
    with pytest.raises(SchemaError, match=r"vectors: found shape \(3,\), expected \[row length\]"):
        vector_column(np.zeros(3))
