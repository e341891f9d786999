"""All usable pairs as one list."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from storage_schemas.artifact import Artifact
from storage_schemas.errors import ArtifactError, CorruptUnitError, SchemaError
from storage_schemas.manifest import Description, Identity
from storage_schemas.pair_collection import JoinedPairs, PairCollection
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter

NOUNS = {"shard-00000": ["boat", "", "tree"], "shard-00001": ["", "boat"]}


def written(runs: Path, nouns: dict[str, list[str]], *, kind: str = KIND, version: int = SCHEMA_VERSION) -> Artifact:
    identity = Identity(kind=kind, name="some", schema_version=version, producer_version=1, settings={})
    artifact = Artifact.planned(runs, Description(identity=identity, units=tuple(nouns)))
    with artifact.writing():
        for unit, of_unit in nouns.items():
            with artifact.write_unit(unit) as unit_writer:
                writer = PairShardWriter(unit_writer)
                for place, noun in enumerate(of_unit):
                    name = f"{unit[-1]}-{place}"
                    made = {"crop_suffix": "png", "crop": f"crop {name}".encode(), "crop_mask_png": name.encode()}
                    fault = {"status": "no_noun", "reason": "the caption names nothing"}
                    writer.add(Pair(pair=name, key="a", image_id="1", noun=noun, **(made if noun else fault)))
                writer.commit()
    return artifact


def test_rows_that_are_no_pairs_are_passed_over(tmp_path: Path) -> None:
    pairs = PairCollection(written(tmp_path, NOUNS))
    assert len(pairs) == 3
    assert pairs.nouns == ("boat", "tree")
    np.testing.assert_array_equal(pairs.noun_numbers, [0, 1, 0])
    assert [pairs.place(number).pair for number in range(3)] == ["0-0", "0-2", "1-1"]
    assert pairs.place(2).unit == "shard-00001"
    assert [pairs.read(number).crop for number in (2, 0, 1)] == [b"crop 1-1", b"crop 0-0", b"crop 0-2"]
    assert pairs.read(1).crop_mask_png == b"0-2"


def test_nouns_are_left_out(tmp_path: Path) -> None:
    pairs = pickle.loads(pickle.dumps(PairCollection(written(tmp_path, NOUNS), ["boat", "car"])))
    assert (len(pairs), pairs.nouns, pairs.place(0).pair) == (1, ("tree",), "0-2")
    with pytest.raises(ArtifactError, match=r"none of 5 rows is a pair"):
        len(PairCollection(written(tmp_path, NOUNS), ["boat", "tree"]))


def test_joined_collections_are_one_list(tmp_path: Path) -> None:
    first = PairCollection(written(tmp_path, NOUNS))
    second = PairCollection(written(tmp_path / "more", {"shard-00000": ["car", "tree"]}))
    joined = pickle.loads(pickle.dumps(JoinedPairs((first, second))))
    assert len(joined) == 5
    assert joined.nouns == ("boat", "car", "tree")
    assert [joined.nouns[number] for number in joined.noun_numbers] == ["boat", "tree", "boat", "car", "tree"]
    assert [joined.read(number) for number in (0, 2, 3, 4)] == [
        first.read(0),
        first.read(2),
        second.read(0),
        second.read(1),
    ]
    assert joined.place(4) == second.place(1)
    assert joined.pictures == ["a"] * 5
    with pytest.raises(IndexError, match=r"pair 5: is beyond the 5 pairs of 2 collections"):
        joined.read(5)


def test_another_process_reads_the_same(tmp_path: Path) -> None:
    pairs = PairCollection(written(tmp_path, NOUNS))
    assert len(pairs) == 3
    sent = pickle.dumps(pairs)
    assert len(sent) < 2000
    assert pickle.loads(sent).read(2) == pairs.read(2)


def test_what_holds_no_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"none of 2 rows is a pair with status 'ok'; mine other scenes"):
        len(PairCollection(written(tmp_path, {"shard-00000": ["", ""]})))


def test_other_kinds_and_schemas_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is an artifact of scenes, expected pairs; give a directory below"):
        PairCollection(written(tmp_path, NOUNS, kind="scenes"))
    with pytest.raises(SchemaError, match=rf"schema 99, expected schema {SCHEMA_VERSION}; run the stage"):
        PairCollection(written(tmp_path, NOUNS, version=99))


def test_a_shard_that_was_cut_short_is_named(tmp_path: Path) -> None:
    artifact = written(tmp_path, NOUNS)
    tar = artifact.directory / "shard-00001.tar"
    tar.write_bytes(tar.read_bytes()[:300])
    pairs = PairCollection(artifact)
    with pytest.raises(CorruptUnitError, match=r"shard-00001.tar: ends within the member"):
        pairs.read(2)
