"""A file that is written piece by piece is there as a whole, or not at all."""

import pytest

from storage_schemas.commit import Disk, published_file


def begin_and_fail(target):
    with published_file(target, Disk()) as file:
        file.write(b"[1,")
        raise KeyError


def test_a_file_written_in_pieces_is_whole_or_not_there(tmp_path):
    target = tmp_path / "list.json"
    target.write_bytes(b"before")
    with pytest.raises(KeyError):
        begin_and_fail(target)
    assert [path.name for path in tmp_path.iterdir()] == ["list.json"]
    assert target.read_bytes() == b"before"
    with published_file(target, Disk()) as file:
        file.write(b"[1,")
        assert target.read_bytes() == b"before"
        file.write(b"2]")
    assert target.read_bytes() == b"[1,2]"
