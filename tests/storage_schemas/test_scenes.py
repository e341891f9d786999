"""Scenes: what a shard refuses, what comes back, and any scene by its number."""

import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage_schemas.artifact import Artifact
from storage_schemas.errors import ArtifactError, CorruptUnitError, SchemaError
from storage_schemas.manifest import Description, Identity
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import (
    SCHEMA,
    SCHEMA_VERSION,
    Caption,
    Scene,
    ScenesAttributes,
    SceneShard,
    SceneShardWriter,
    captions_of,
)

ATTRIBUTES = ScenesAttributes(
    vocabulary="two", class_names=("sky", "sea"), seen=("seen", "unseen"), ignore_label=255, licence="ours"
)


def scene(key: str, **changes: object) -> Scene:
    whole = Scene(
        key=key,
        image_id=key.upper(),
        image=f"picture of {key}".encode(),
        image_suffix="png",
        width_px=3,
        height_px=2,
        label_png=b"label",
        instances_png=b"instances",
        classes=(0, 1),
        captions=(Caption(4, "the sea"), Caption(9, "")),
        source_path=f"images/{key}.png",
    )
    return replace(whole, **changes)


def planned(runs: Path, units: int = 1, kind: str = "scenes", version: int = SCHEMA_VERSION) -> Artifact:
    identity = Identity(kind=kind, name="some", schema_version=version, producer_version=1, settings={})
    names = tuple(f"shard-{number:05d}" for number in range(units))
    return Artifact.planned(runs, Description(identity=identity, units=names, attributes=ATTRIBUTES.to_json()))


def stored(runs: Path, *shards: list[Scene]) -> Artifact:
    artifact = planned(runs, len(shards))
    with artifact.writing():
        sidecars = {}
        for unit, scenes in zip(artifact.description.units, shards, strict=True):
            with artifact.write_unit(unit) as unit_writer:
                writer = SceneShardWriter(unit_writer)
                for one in scenes:
                    writer.add(one)
                sidecars[unit] = writer.commit()
        artifact.finish(artifact.manifest_of(sidecars))
    return artifact


FAILED = scene("b", image=b"", label_png=None, instances_png=None, status="image_missing", reason="b.png is not there")


drawn_scenes = st.builds(
    scene,
    key=st.just(""),
    image_id=st.text(min_size=1, max_size=5),
    image=st.binary(min_size=1, max_size=700),
    image_suffix=st.sampled_from(["jpg", "png", "webp"]),
    width_px=st.integers(1, 5000),
    height_px=st.integers(1, 5000),
    exif_orientation=st.integers(1, 8),
    label_png=st.none() | st.binary(min_size=1, max_size=50),
    instances_png=st.none() | st.binary(min_size=1, max_size=50),
    classes=st.lists(st.integers(0, 65535), unique=True, max_size=4).map(lambda found: tuple(sorted(found))),
    captions=st.lists(st.builds(Caption, st.integers(0, 2**60), st.text(max_size=20)), max_size=3).map(tuple),
)


@settings(max_examples=30)
@given(st.lists(drawn_scenes, max_size=5))
def test_scenes_come_back_failed_ones_included(tmp_path_factory: pytest.TempPathFactory, drawn: list[Scene]) -> None:
    written = [FAILED, *(replace(one, key=f"k{number}") for number, one in enumerate(drawn))]
    artifact = stored(tmp_path_factory.mktemp("runs"), written)
    shard = SceneShard(artifact, "shard-00000")
    assert list(shard.scenes()) == written
    assert list(shard.scenes([len(drawn), 0])) == [written[-1], FAILED]
    bare = [replace(one, label_png=None, instances_png=None) for one in written]
    assert list(shard.scenes(labels=False)) == bare
    (unit,) = artifact.manifest().units
    assert unit.counts == Counter(one.status for one in written)
    assert unit.facts["captions"] == sum(len(one.captions) for one in written)
    assert unit.facts["labelled"] == sum(one.label_png is not None for one in drawn)


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (scene("a b"), "scene 'a b': at most 80 letters, digits, '_' and '-' make a key; rename the scene"),
        (scene("a"), "scene 'a': comes after 'b'; add scenes in ascending order of key"),
        (scene("b"), "scene 'b': comes after 'b'"),
        (scene("c", image_suffix="gif"), r"scene 'c': image suffix 'gif', one of .* is expected; convert the image"),
    ],
)
def test_scenes_that_could_not_be_found_again_are_refused(tmp_path: Path, added: Scene, message: str) -> None:
    artifact = planned(tmp_path)
    with artifact.writing(), artifact.write_unit("shard-00000") as unit_writer:
        writer = SceneShardWriter(unit_writer)
        writer.add(FAILED)
        with pytest.raises(ArtifactError, match=message):
            writer.add(added)


def test_attributes_are_those_of_scenes_of_this_version(tmp_path: Path) -> None:
    assert ScenesAttributes.of(planned(tmp_path)) == ATTRIBUTES
    with pytest.raises(ArtifactError, match="is an artifact of pairs, expected scenes; give a directory below"):
        ScenesAttributes.of(planned(tmp_path, kind="pairs"))
    with pytest.raises(SchemaError, match="holds scenes of schema 99, expected schema 1; run the stage"):
        ScenesAttributes.of(planned(tmp_path, version=99))


def test_a_shard_that_is_gone_or_cut_is_reported(tmp_path: Path) -> None:
    artifact = stored(tmp_path, [scene("a")])
    tar = artifact.directory / "shard-00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(CorruptUnitError, match=r"shard-00000\.tar: ends within the member"):
        list(SceneShard(artifact, "shard-00000").scenes())
    tar.unlink()
    with pytest.raises(CorruptUnitError, match=r"shard-00000\.tar: cannot be read .* run the stage that makes it"):
        list(SceneShard(artifact, "shard-00000").scenes())


def test_a_collection_numbers_the_usable_scenes_of_all_shards(tmp_path: Path) -> None:
    bare = scene("d", label_png=None, instances_png=None, classes=())
    artifact = stored(tmp_path, [scene("a"), FAILED], [scene("c", captions=()), bare])
    whole = SceneCollection(artifact)
    assert [whole.read(number).key for number in range(len(whole))] == ["a", "c", "d"]
    assert whole.place(2) == ("shard-00001", "d")
    assert whole.read(0, labels=False).label_png is None
    assert [SceneCollection(artifact, labelled=True).read(number).key for number in range(2)] == ["a", "c"]
    captioned = pickle.loads(pickle.dumps(SceneCollection(artifact, captioned=True)))  # as on its way to a loader
    assert [captioned.read(number).key for number in range(len(captioned))] == ["a", "d"]
    assert len(SceneCollection(artifact, labelled=True, captioned=True)) == 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "a picture"),
        ({"labelled": True}, "a labelled pixel"),
        ({"captioned": True}, "a caption"),
        ({"labelled": True, "captioned": True}, "a labelled pixel and a caption"),
    ],
)
def test_a_collection_without_scenes_says_what_none_has(
    tmp_path: Path, options: dict[str, bool], expected: str
) -> None:
    scenes = [scene("a", label_png=None, instances_png=None, classes=(), captions=())] if options else [FAILED]
    with pytest.raises(ArtifactError, match=f"no scene has {expected}; correct the data set"):
        len(SceneCollection(stored(tmp_path, scenes), **options))


@given(
    chunks=st.lists(st.lists(st.lists(st.tuples(st.integers(0, 99), st.text(max_size=3)), max_size=3), max_size=4)),
    start=st.integers(0, 3),
)
@settings(max_examples=50)
def test_captions_of_a_column_are_those_of_its_rows_also_in_a_part_of_it(chunks: list, start: int) -> None:
    column = SCHEMA.columns.field("captions").type
    rows = [[[Caption(*caption)._asdict() for caption in row] for row in chunk] for chunk in chunks]
    whole = pa.chunked_array([pa.array(chunk, column) for chunk in rows], column)
    for part in (whole, whole.slice(start, 2), whole.take(pa.array(range(len(whole))[::-1], pa.int64()))):
        assert captions_of(part) == [tuple(Caption(**caption) for caption in row) for row in part.to_pylist()]


def test_captions_alone_are_those_of_the_scenes(tmp_path: Path) -> None:
    artifact = stored(tmp_path, [scene("a"), FAILED, scene("c", captions=())])
    shard = SceneShard(artifact, "shard-00000")
    assert shard.captions() == [one.captions for one in shard.scenes()] == [scene("a").captions, FAILED.captions, ()]
