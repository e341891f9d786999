"""Round trips of the artifact kinds after the scenes, and what each refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import webdataset

from storage_schemas import checkpoints, embeddings, pairs, proposals, text_embeddings
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import Checkpoint, CheckpointStore
from storage_schemas.commit import StagedFile
from storage_schemas.errors import ArtifactError, SchemaError
from storage_schemas.manifest import Description, Identity
from storage_schemas.rle import encode_masks

UNIT = "shard-00000"
DIM = 4


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    identity = Identity(kind="test", name="kinds", schema_version=1, producer_version=1, settings={})
    artifact = Artifact.planned(tmp_path, Description(identity=identity, units=(UNIT,)))
    with artifact.writing():
        return artifact


def unit_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def scene_proposals(key: str, count: int) -> proposals.SceneProposals:
    masks = np.random.default_rng(count).random((count, 6, 5)) > 0.5
    return proposals.SceneProposals(
        key=key,
        height_px=6,
        width_px=5,
        queries=np.arange(count, dtype=np.int32),
        mask_counts=encode_masks(masks),
        areas_px=masks.sum(axis=(1, 2)).astype(np.int64),
        boxes_xyxy=np.tile(np.array([0, 0, 5, 6], np.int32), (count, 1)),
        objectness=np.linspace(0, 1, count, dtype=np.float32),
        embeddings=unit_vectors(count),
    )


def test_proposals_come_back_scene_by_scene(artifact: Artifact) -> None:
    written = [
        scene_proposals("a", 3),
        proposals.SceneProposals.failed("b", DIM, "no_proposals", "no query is above 0.5"),
        scene_proposals("c", 1),
    ]
    with artifact.write_unit(UNIT) as unit_writer:
        writer = proposals.ProposalShardWriter(unit_writer, embedding_dim=DIM)
        for scene in written:
            writer.add(scene)
        sidecar = writer.commit()
    read = list(proposals.read_proposals(artifact, UNIT, embedding_dim=DIM))
    assert [scene.key for scene in read] == ["a", "b", "c"]
    assert sidecar.counts == {"ok": 4, "no_proposals": 1}
    assert (read[1].status, read[1].reason, len(read[1].queries)) == ("no_proposals", "no query is above 0.5", 0)
    for before, after in zip(written, read, strict=True):
        np.testing.assert_array_equal(after.embeddings, before.embeddings)
        np.testing.assert_array_equal(after.boxes_xyxy, before.boxes_xyxy)
        np.testing.assert_array_equal(after.queries, before.queries)
        assert list(after.mask_counts) == list(before.mask_counts)


def test_proposals_of_another_embedding_length_are_refused(artifact: Artifact) -> None:
    with artifact.write_unit(UNIT) as unit_writer:
        writer = proposals.ProposalShardWriter(unit_writer, embedding_dim=DIM)
        writer.add(scene_proposals("a", 1))
        writer.commit()
    with pytest.raises(SchemaError, match="proposal_embedding"):
        list(proposals.read_proposals(artifact, UNIT, embedding_dim=DIM + 1))


def test_proposals_with_parts_of_different_lengths_are_refused() -> None:
    whole = scene_proposals("a", 2)
    with pytest.raises(SchemaError, match="lengths"):
        proposals.SceneProposals(
            key="a",
            height_px=6,
            width_px=5,
            queries=whole.queries[:1],
            mask_counts=whole.mask_counts,
            areas_px=whole.areas_px,
            boxes_xyxy=whole.boxes_xyxy,
            objectness=whole.objectness,
            embeddings=whole.embeddings,
        )


def test_embeddings_keep_failed_regions_and_scenes_without_any(artifact: Artifact) -> None:
    vectors = unit_vectors(3).astype(np.float16)
    vectors[1] = 0
    with artifact.write_unit(UNIT) as unit_writer:
        writer = embeddings.EmbeddingShardWriter(unit_writer, embedding_dim=DIM)
        writer.add(
            embeddings.SceneEmbeddings(
                key="a",
                regions=np.array([0, 2, 5], np.int32),
                statuses=("ok", "empty_mask", "ok"),
                reasons=("", "no pixel above 0.5", ""),
                embeddings=vectors,
            )
        )
        writer.add(
            embeddings.SceneEmbeddings(
                key="b",
                regions=np.zeros(0, np.int32),
                statuses=(),
                reasons=(),
                embeddings=np.zeros((0, DIM), np.float16),
                scene_status="no_proposals",
                scene_reason="nothing to embed",
            )
        )
        sidecar = writer.commit()
    first, second = embeddings.read_embeddings(artifact, UNIT)
    assert sidecar.counts == {"ok": 2, "empty_mask": 1, "no_proposals": 1}
    assert list(first.regions) == [0, 2, 5]
    assert list(first.statuses) == ["ok", "empty_mask", "ok"]
    np.testing.assert_array_equal(first.embeddings, vectors)
    assert (second.scene_status, second.scene_reason, len(second.regions)) == ("no_proposals", "nothing to embed", 0)


def test_embeddings_with_parts_of_different_lengths_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"scene 'a': parts of lengths \[1, 0, 0, 1\]; give every region each part"):
        embeddings.SceneEmbeddings(
            key="a", regions=np.zeros(1, np.int32), statuses=(), reasons=(), embeddings=np.zeros((1, DIM), np.float16)
        )


def test_embeddings_of_a_scene_without_regions_must_say_why() -> None:
    with pytest.raises(SchemaError, match="say why"):
        embeddings.SceneEmbeddings(
            key="a", regions=np.zeros(0, np.int32), statuses=(), reasons=(), embeddings=np.zeros((0, DIM), np.float16)
        )


def sample_pair(name: str, noun: str = "boat") -> pairs.Pair:
    return pairs.Pair(
        pair=name,
        key="a",
        image_id="7",
        noun=noun,
        noun_text=noun.title(),
        noun_start=2,
        noun_end=6,
        caption_id=11,
        region=3,
        score=0.5,
        margin=0.25,
        rank=0,
        height_px=6,
        width_px=5,
        mask_counts=encode_masks(np.ones((1, 6, 5), np.bool_))[0],
        area_px=30,
        box_xyxy=(0, 0, 5, 6),
        crop_suffix="png",
        crop=f"crop of {name}".encode(),
        crop_mask_png=f"mask of {name}".encode(),
    )


def write_pairs(artifact: Artifact) -> None:
    with artifact.write_unit(UNIT) as unit_writer:
        writer = pairs.PairShardWriter(unit_writer)
        writer.add(sample_pair("a-000"))
        writer.add(
            pairs.Pair(pair="a-001", key="a", image_id="7", status="no_noun", reason="the caption names nothing")
        )
        writer.add(sample_pair("a-002", noun="tree"))
        assert writer.commit().counts == {"ok": 2, "no_noun": 1}


def test_pairs_come_back_by_table_and_members(artifact: Artifact) -> None:
    write_pairs(artifact)
    index = pairs.read_index(artifact, UNIT)
    assert index["noun"].to_pylist() == ["boat", "", "tree"]
    assert index["box_xyxy"][0].as_py() == [0, 0, 5, 6]
    last, first = pairs.read_members(artifact, UNIT, index, [2, 0])
    assert (last.crop, first.crop_mask_png) == (b"crop of a-002", b"mask of a-000")
    with pytest.raises(ArtifactError, match="row 1 has no pictures"):
        list(pairs.read_members(artifact, UNIT, index, [1]))


# webdataset leaves the closing of its tar to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_pairs_are_a_webdataset(artifact: Artifact) -> None:
    write_pairs(artifact)
    path = str(artifact.directory / f"{UNIT}.tar")
    samples = list(webdataset.WebDataset(path, shardshuffle=False, empty_check=False))
    assert [sample["__key__"] for sample in samples] == ["a-000", "a-002"]
    assert samples[1]["txt"] == b"tree"
    assert samples[1]["mask.png"] == b"mask of a-002"
    assert json.loads(samples[0]["json"])["box_xyxy"] == [0, 0, 5, 6]


def test_pairs_out_of_order_are_refused(artifact: Artifact) -> None:
    with artifact.write_unit(UNIT) as unit_writer:
        writer = pairs.PairShardWriter(unit_writer)
        writer.add(sample_pair("b"))
        with pytest.raises(ArtifactError, match="ascending"):
            writer.add(sample_pair("a"))


def test_weights_come_back_and_damage_is_named(artifact: Artifact) -> None:
    tensors = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "step": np.array(3, np.int64)}
    sidecar = checkpoints.write_weights(artifact, UNIT, tensors, {"width": 3})
    read = checkpoints.read_weights(artifact, UNIT)
    assert sidecar.facts == {"width": 3}
    np.testing.assert_array_equal(read["weight"], tensors["weight"])
    assert read["step"] == 3
    (artifact.directory / f"{UNIT}.safetensors").write_bytes(b"no")
    with pytest.raises(ArtifactError, match="cannot be read as safetensors"):
        checkpoints.read_weights(artifact, UNIT)


def opened(artifact: Artifact) -> CheckpointStore:
    store = CheckpointStore(artifact)
    store.prepare()
    return store


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(step=step, tensors={"weight": np.full(3, step, np.float32)}, facts={"seed": 1, "step": step})


def test_the_newest_whole_checkpoint_is_in_force(artifact: Artifact, caplog: pytest.LogCaptureFixture) -> None:
    store = opened(artifact)
    assert store.latest() is None
    for step in (10, 20, 30):
        store.save(checkpoint(step))
    latest = store.latest()
    assert latest is not None
    assert (latest.step, latest.facts["seed"], latest.tensors["weight"][0]) == (30, 1, 30)
    damaged = artifact.local_directory / "checkpoints" / "step-000000030.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\0")
    latest = store.latest()
    assert latest is not None
    assert latest.step == 20
    assert "step-000000030.safetensors" in caplog.text


def test_an_interrupted_checkpoint_is_never_loaded(artifact: Artifact) -> None:
    store = opened(artifact)
    store.save(checkpoint(10))
    half = StagedFile(artifact.local_directory / "checkpoints" / "step-000000020.safetensors", artifact.disk)
    half.write(b"half")
    half._file.close()  # as the end of a killed process does
    latest = opened(artifact).latest()
    assert latest is not None
    assert latest.step == 10
    assert not list((artifact.local_directory / "checkpoints").glob(".tmp-*"))


def test_pruning_keeps_the_newest_and_the_named(artifact: Artifact) -> None:
    store = opened(artifact)
    for step in (10, 20, 30, 40):
        store.save(checkpoint(step))
    store.prune(keep_last=1, keep=frozenset({20}))
    assert store.steps() == (20, 40)


def test_a_checkpoint_of_other_settings_is_refused(artifact: Artifact, tmp_path: Path) -> None:
    opened(artifact).save(checkpoint(10))
    identity = Identity(kind="test", name="kinds", schema_version=1, producer_version=2, settings={})
    other = Artifact(artifact.directory, Description(identity=identity, units=(UNIT,)))
    with pytest.raises(ArtifactError, match="is of settings"):
        CheckpointStore(other).load(10)


def test_equal_states_give_equal_bytes(artifact: Artifact) -> None:
    store = opened(artifact)
    path = artifact.local_directory / "checkpoints" / "step-000000010.safetensors"
    store.save(checkpoint(10))
    first = path.read_bytes()
    store.save(checkpoint(10))
    assert path.read_bytes() == first


def test_staged_files_take_any_buffer(artifact: Artifact) -> None:
    staged = StagedFile(artifact.directory / "x.bin", artifact.disk)
    staged.write(memoryview(np.arange(3, dtype=np.int32)))
    record = staged.seal()
    staged.publish()
    assert record.size_bytes == 12


def test_text_embeddings_come_back_by_noun(artifact: Artifact) -> None:
    vectors = unit_vectors(2)
    with artifact.writing():
        text_embeddings.write_text_embeddings(artifact, UNIT, ["boat", "cow"], vectors)
    read = text_embeddings.read_text_embeddings(artifact, UNIT)
    assert list(read) == ["boat", "cow"]
    np.testing.assert_array_equal(read["cow"], vectors[1])


def test_the_length_of_embeddings_is_read_from_the_file(artifact: Artifact) -> None:
    with artifact.writing(), artifact.write_unit(UNIT) as unit_writer:
        writer = proposals.ProposalShardWriter(unit_writer, embedding_dim=DIM)
        writer.add(scene_proposals("a", 1))
        writer.commit()
    (read,) = proposals.read_proposals(artifact, UNIT)
    assert read.embeddings.shape == (1, DIM)
    with pytest.raises(SchemaError, match="column 'image_embedding' is missing, vectors are expected; run the stage"):
        next(embeddings.read_embeddings(artifact, UNIT))
    (artifact.directory / f"{UNIT}.parquet").write_bytes(b"no Parquet")
    with pytest.raises(SchemaError, match="cannot be read as Parquet"):
        next(proposals.read_proposals(artifact, UNIT))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_and_states_that_are_no_numbers_are_neither_written_nor_read(artifact: Artifact, value: float) -> None:
    broken = {"fine": np.ones(3, np.float32), "tower.proj": np.array([1, value], np.float32)}
    with pytest.raises(ArtifactError, match=r"tower\.proj holds . NaN and . infinite of 2 values"):
        checkpoints.write_weights(artifact, UNIT, broken, {})
    assert not (artifact.directory / f"{UNIT}.safetensors").exists()
    store = opened(artifact)
    store.save(checkpoint(10))
    with pytest.raises(ArtifactError, match=r"step 20: tower\.proj"):
        store.save(Checkpoint(step=20, tensors=broken, facts={}))
    assert store.steps() == (10,)
    (artifact.directory / f"{UNIT}.safetensors").write_bytes(safetensors.numpy.save(broken))
    with pytest.raises(ArtifactError, match=rf"{UNIT}\.safetensors: tower\.proj"):
        checkpoints.read_weights(artifact, UNIT)
