"""The index of pairs: from stored embeddings or from crops, what it refuses, and what it says of a mask."""

import json
import shutil

import numpy as np
import pytest
import torch

from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from pipeline.clip_loading import load_clip
from pipeline.errors import PipelineError
from pipeline.mine.filter_pairs import PairRule, filter_pairs
from pipeline.pair_index import FACTS, ROWS, VECTORS, PairIndex, make_index
from pipeline.scenes_of_pairs import scenes_of
from pipeline.stored_pictures import upright_picture
from pipeline.trained_nets import stock_mask_adapted_clip
from storage_schemas.embeddings import read_embeddings
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import SceneShard
from tests.pipeline.mine.mining_world import mining_settings, pair_rows, random_net


def segmenter_of(runs, **settings) -> Segmenter:
    """Put the shipped CLIP, which mined the pairs, behind a random proposal net."""
    base = load_clip(mining_settings(runs).clip)
    sizes = {"short_side_px": 96, "max_side_px": 96} | settings
    return Segmenter(
        random_net(), stock_mask_adapted_clip(base), tokenizer=base.words, settings=SegmenterSettings(**sizes)
    )


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory):
    return segmenter_of(tmp_path_factory.mktemp("unused"))


@pytest.fixture
def index(drawn_pairs, segmenter, tmp_path):
    make_index(drawn_pairs, segmenter, tmp_path / "index")
    return PairIndex.open(tmp_path / "index")


def usable(pairs):
    return [row for row in pair_rows(pairs) if row["status"] == "ok"]


def test_stored_embeddings_of_the_same_clip_are_taken_as_they_are(drawn_pairs, segmenter, tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.pair_index._BATCH", 2)
    assert make_index(drawn_pairs, segmenter, tmp_path / "index") == "stored embeddings"
    index = PairIndex.open(tmp_path / "index")
    runs = drawn_pairs.directory.parent.parent
    (directory,) = (runs / "embeddings").iterdir()
    embeddings = type(drawn_pairs).open(directory)
    stored = {
        (scene.key, region): vector
        for unit in embeddings.description.units
        for scene in read_embeddings(embeddings, unit)
        for region, vector in zip(scene.regions.tolist(), scene.embeddings, strict=True)
    }
    expected = np.stack([stored[row["key"], row["region"]] for row in usable(drawn_pairs)])
    assert np.array_equal(index.vectors, expected)
    assert index.facts["embeddings"] == embeddings.manifest().digest()
    assert index.facts["pairs"] == drawn_pairs.manifest().digest()
    assert str(runs) not in (tmp_path / "index" / FACTS).read_text()


def test_another_clip_embeds_the_crops_again(drawn_pairs, segmenter, tmp_path):
    adapted = segmenter_of(tmp_path)
    with torch.no_grad():
        adapted.clip.clip.visual.proj.add_(0.5 * torch.randn_like(adapted.clip.clip.visual.proj))
    assert make_index(drawn_pairs, adapted, tmp_path / "index") == "crops"
    index = PairIndex.open(tmp_path / "index")
    assert index.facts["embeddings"] is None
    assert index.space == adapted.space != segmenter.space
    segmentation = segmenter.segment(np.zeros((96, 96, 3), np.uint8), ["sky"])
    with pytest.raises(ValueError, match="ovseg pairs index"):
        segmenter.explain(segmentation, 0, index)


def test_a_mask_of_an_old_picture_finds_its_own_pair_without_encoding_any(drawn_pairs, segmenter, index, monkeypatch):
    row = usable(drawn_pairs)[3]
    scenes = scenes_of(drawn_pairs, None)
    unit, place = next(
        (unit, keys.index(row["key"]))
        for unit in scenes.description.units
        if row["key"] in (keys := SceneShard(scenes, unit).index["key"].to_pylist())
    )
    picture = upright_picture(next(SceneShard(scenes, unit).scenes([place]))).resize(
        (row["width_px"], row["height_px"])
    )
    segmentation = segmenter.segment(picture, ["sky", "grass"])
    mask = torch.from_numpy(decode_masks([row["mask_counts"]], row["height_px"], row["width_px"]))
    own = segmentation.encoded.embed(mask).embeddings[0]
    calls = []
    monkeypatch.setattr(type(segmenter.clip), "encode_image", lambda *_, **__: calls.append(1))
    near = index.nearest(own, 3)
    alike = [each for each in usable(drawn_pairs) if (each["key"], each["region"]) == (row["key"], row["region"])]
    assert near[0].pair in {each["pair"] for each in alike}
    assert near[0].similarity == pytest.approx(1, abs=5e-3)
    assert "".join(near[0].caption) == next(each["caption"] for each in alike if each["pair"] == near[0].pair)
    left, top, right, bottom = row["box_xyxy"]
    assert near[0].picture.size == (right - left, bottom - top)
    query = int(segmentation.encoded.valid.nonzero()[1])
    found = segmenter.explain(segmentation, query, index, count=4)
    direct = index.nearest(segmentation.encoded.image_embeddings[1], 4)
    assert [each.pair for each in found] == [each.pair for each in direct]
    assert calls == []
    with pytest.raises(ValueError, match="no proposal 99"):
        segmenter.explain(segmentation, 99, index)


def test_a_subset_finds_the_embeddings_of_the_whole(drawn_pairs, segmenter, tmp_path):
    runs = drawn_pairs.directory.parent.parent
    subset = filter_pairs(drawn_pairs, PairRule(max_per_noun=1), runs / "pairs" / "subset-1").artifact
    assert make_index(subset, segmenter, tmp_path / "index") == "stored embeddings"
    assert len(PairIndex.open(tmp_path / "index").vectors) == len(usable(subset))


def test_what_is_no_index_or_of_other_pairs_is_refused(drawn_pairs, segmenter, index, tmp_path):
    with pytest.raises(PipelineError, match="is there already"):
        make_index(drawn_pairs, segmenter, index.folder)
    with pytest.raises(PipelineError, match="in one pass"):
        make_index(drawn_pairs, segmenter_of(tmp_path, namer="one-pass"), tmp_path / "other")
    with pytest.raises(PipelineError, match="is no index of pairs"):
        PairIndex.open(tmp_path)
    for name, content, found in (
        (VECTORS, b"damaged", VECTORS),
        (FACTS, b"{}", "is no index of pairs"),
        (FACTS, json.dumps(index.facts | {"version": 9}).encode(), "another format or version"),
        (FACTS, json.dumps(index.facts | {"pairs": "0" * 64}).encode(), "was made of pairs 000000000000"),
        (FACTS, json.dumps(index.facts | {"rows": 1}).encode(), "is stated"),
    ):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(index.folder, copy)
        (copy / name).write_bytes(content)
        with pytest.raises(PipelineError, match=found):
            PairIndex.open(copy, drawn_pairs.directory)
    moved = tmp_path / "moved"
    shutil.copytree(index.folder, moved / "deep" / "index")
    assert PairIndex.open(moved / "deep" / "index", drawn_pairs.directory).vectors.shape == index.vectors.shape
    assert (index.folder / ROWS).is_file()
