"""JSON read record by record is what Python's own reader gives, wherever the window ends."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.import_masks import json_records as module
from pipeline.import_masks.json_records import json_records, read_record

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


@given(
    st.lists(VALUES, max_size=4)
    | st.dictionaries(st.text(max_size=4), st.lists(VALUES, max_size=3) | VALUES, max_size=3),
    st.sampled_from([None, 1]),
    st.booleans(),
)
@settings(max_examples=40)
def test_records_equal_those_of_pythons_reader(tmp_path_factory, document, indent, plain):
    path = tmp_path_factory.mktemp("json") / "m.json"
    data = json.dumps(document, indent=indent, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    path.write_bytes(data)
    lists = {"": document} if isinstance(document, list) else document
    expected = [(key, item) for key, value in lists.items() for item in (value if isinstance(value, list) else [value])]
    before = module._CHUNK_BYTES
    module._CHUNK_BYTES = 3  # so that the window ends within nearly every value
    try:
        records = list(json_records(path))
    finally:
        module._CHUNK_BYTES = before
    assert len(records) == len(expected)
    with path.open("rb") as file:
        for record, (key, value) in zip(records, expected, strict=True):
            assert json.loads(data[record.offset : record.offset + record.size_bytes]) == value
            assert record.key == key
            assert record.value == read_record(file, record.offset, record.size_bytes) == value


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_is_passed_over(tmp_path, mark):
    path = tmp_path / "m.json"
    path.write_bytes(mark + b' [ {"a": "\xc3\xa9"} , 7 ] ')
    first, second = json_records(path)
    with path.open("rb") as file:
        assert read_record(file, first.offset, first.size_bytes) == {"a": "é"}
    assert second.value == 7
