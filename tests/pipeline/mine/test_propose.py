"""Step 1: proposals equal a naive twin's, and what has none says why."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovseg_models.proposal_masks import upsampled_mask_probs
from pipeline.mine.proposer import Proposer, distinct_masks
from pipeline.settings import ProposeSettings
from storage_schemas.rle import areas_px, boxes_xyxy, decode_masks, encode_masks
from storage_schemas.scenes import Caption, Scene
from tests.pipeline.mine.mining_world import QUERIES, random_net

SETTINGS = {"short_side_px": 64, "max_side_px": 96}
ABOVE_ALL = 1 - 1e-9  # 1 in single precision, in which masks are


def scene(key: str, height: int = 40, width: int = 60, **options) -> Scene:
    pixels = np.random.default_rng(len(key)).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    known = {"image_suffix": "png", "width_px": width, "height_px": height, "captions": (Caption(1, "a dog"),)}
    return Scene(key=key, image_id="1", **{"image": buffer.getvalue()} | known | options)


def chosen(counts, *, max_iou: float) -> list[int]:
    areas, boxes = areas_px(counts, 10, 10), boxes_xyxy(counts, 10, 10)
    return distinct_masks(counts, areas, boxes, 10, 10, max_iou=max_iou)


@pytest.fixture(scope="module")
def net():
    return random_net()


@pytest.fixture
def texts():
    return torch.nn.functional.normalize(torch.randn(7, 96, generator=torch.Generator().manual_seed(0)), dim=-1)


@torch.no_grad()
def test_proposals_equal_a_naive_twin(net, texts):
    of = scene("a")
    (found,) = Proposer(net, texts, ProposeSettings(mask_threshold=0.3, **SETTINGS)).proposals([of])
    picture = Image.open(io.BytesIO(of.image)).resize((96, 64), Image.Resampling.BILINEAR)
    output = net(net.preprocess([torch.from_numpy(np.array(picture)).permute(2, 0, 1)]))
    probs = upsampled_mask_probs(output.mask_logits[0], (64, 96))
    kept = [query for query in range(QUERIES) if (probs[query] > 0.3).any()]
    assert found.queries.tolist() == kept
    assert len(kept) > 1
    masks = decode_masks(found.mask_counts, 64, 96)
    np.testing.assert_array_equal(masks, (probs[kept] > 0.3).numpy())
    for mask, area, box in zip(masks, found.areas_px, found.boxes_xyxy.tolist(), strict=True):
        lines, columns = np.nonzero(mask)
        assert area == mask.sum()
        assert box == [columns.min(), lines.min(), columns.max() + 1, lines.max() + 1]
    no_object = torch.nn.functional.normalize(net.no_object_embedding, dim=-1)
    logits = 100 * output.proposal_embeddings[0] @ torch.cat([texts, no_object]).T
    expected = 1 - logits.softmax(dim=-1)[kept, -1]
    np.testing.assert_allclose(found.objectness, expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.embeddings, output.proposal_embeddings[0, kept].numpy(), atol=1e-6)


def test_a_batch_gives_what_one_at_a_time_gives(net, texts):
    scenes = [scene(f"a{'a' * number}", *size) for number, size in enumerate([(40, 60), (60, 40), (40, 60), (50, 50)])]
    scenes.insert(2, scene("c", status="image_truncated", reason="ends early", image=b""))
    alone, batched = (
        list(Proposer(net, texts, ProposeSettings(batch_images=size, **SETTINGS)).proposals(scenes)) for size in (1, 3)
    )
    assert [one.key for one in alone] == [one.key for one in batched] == [one.key for one in scenes]
    for one, other in zip(alone, batched, strict=True):
        masks = [decode_masks(found.mask_counts, found.height_px, found.width_px) for found in (one, other)]
        assert masks[0].shape == masks[1].shape
        assert (
            not len(masks[0]) or (masks[0] == masks[1]).mean() > 0.999
        )  # a last bit may move a pixel at the threshold
        np.testing.assert_allclose(one.embeddings, other.embeddings, atol=1e-5)


def test_what_has_no_proposals_says_why(net, texts):
    scenes = [
        scene("a", status="image_truncated", reason="ends early"),
        scene("b", captions=()),
        scene("c", image=b"\x89PNG and no more"),
        scene("d"),
    ]
    proposer = Proposer(net, texts, ProposeSettings(mask_threshold=ABOVE_ALL, **SETTINGS))
    found = list(proposer.proposals(scenes))
    assert [one.status for one in found] == ["image_truncated", "no_caption", "image_undecodable", "no_proposals"]
    assert found[0].reason == "ends early"
    assert f"no pixel of {QUERIES} queries has a mask probability above {ABOVE_ALL}" in found[3].reason
    assert all(len(one.queries) == 0 for one in found)


def test_scenes_without_a_caption_have_proposals_where_no_pair_is_made_of_them(net, texts):
    uncaptioned, captioned = scene("b", captions=()), scene("b")
    settings = ProposeSettings(**SETTINGS)
    (found,) = Proposer(net, texts, settings, captioned=False).proposals([uncaptioned])
    (expected,) = Proposer(net, texts, settings).proposals([captioned])
    assert list(found.mask_counts) == list(expected.mask_counts)
    assert found.mask_counts


def test_near_duplicates_go_to_the_earlier_query():
    masks = np.zeros((4, 10, 10), bool)
    masks[0, :5] = True
    masks[1, :4] = True  # IoU 0.8 with the first
    masks[2, :3] = True  # 0.6 with the first, 0.75 with the second
    masks[3, 9] = True
    counts = encode_masks(masks)
    assert chosen(counts, max_iou=1.0) == [0, 1, 2, 3]
    assert chosen(counts, max_iou=0.8) == [0, 1, 2, 3]
    assert chosen(counts, max_iou=0.7) == [0, 2, 3]  # the second was dropped, so it drops no other
    assert chosen(counts, max_iou=0.1) == [0, 3]


@given(st.integers(0, 2**31), st.sampled_from([0.05, 0.3, 0.6, 0.9]))
@settings(max_examples=30, deadline=None)
def test_masks_chosen_are_those_of_all_overlaps(seed, max_iou):
    rng = np.random.default_rng(seed)
    masks = np.zeros((12, 10, 10), bool)
    for mask in masks:
        top, left, high, wide = rng.integers(0, 6), rng.integers(0, 6), rng.integers(1, 5), rng.integers(1, 5)
        mask[top : top + high, left : left + wide] = True
    expected: list[int] = []
    for place, mask in enumerate(masks):
        if all((mask & masks[other]).sum() / (mask | masks[other]).sum() <= max_iou for other in expected):
            expected.append(place)
    assert chosen(encode_masks(masks), max_iou=max_iou) == expected


def test_duplicates_are_dropped_when_asked_for(net, texts):
    (all_of_them,) = Proposer(net, texts, ProposeSettings(**SETTINGS)).proposals([scene("a")])
    (fewer,) = Proposer(net, texts, ProposeSettings(duplicate_iou=0.05, **SETTINGS)).proposals([scene("a")])
    assert 0 < len(fewer.queries) < len(all_of_them.queries)
    assert set(fewer.queries.tolist()) < set(all_of_them.queries.tolist())
