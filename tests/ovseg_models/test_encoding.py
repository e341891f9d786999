"""Embeddings of regions against one crop at a time, and equal masks, which share one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.encoding import cut_regions, cut_regions_of_pictures, distinct_masks, embed_regions
from ovseg_models.masked_crops import mask_boxes, masked_crops, patch_mask
from ovseg_models.preprocessing import CropFormat
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_presets import build_proposal_net
from tests import forked
from tests.operations import CountedOperations
from tests.tiny_segmenter import CLIP, PROPOSAL_NET, picture


@settings(max_examples=60, deadline=None)
@given(count=st.integers(0, 8), height=st.integers(1, 4), width=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_distinct_masks_equal_a_loop(count, height, width, seed):
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, height, width, generator=generator) < 0.5
    if count > 2:
        masks[count // 2] = masks[0]
    firsts, of_mask = [], []
    for row, mask in enumerate(masks):
        equal = next((place for place, first in enumerate(firsts) if torch.equal(masks[first], mask)), None)
        if equal is None:
            firsts.append(row)
        of_mask.append(len(firsts) - 1 if equal is None else equal)
    found, inverse, boxes = (torch.from_numpy(part) for part in distinct_masks(masks))
    rows, tight = mask_boxes(masks)
    assert torch.equal(boxes[rows], tight)
    assert boxes.any(dim=1).nonzero()[:, 0].tolist() == rows.tolist()
    assert torch.equal(masks[found][inverse], masks)
    assert set(firsts) <= set(found.tolist())  # no first one is missed
    if masks.flatten(1).unique(dim=0).shape[0] == len(found):
        assert (found.tolist(), inverse.tolist()) == (firsts, of_mask)


def test_masks_with_equal_counts_per_line_and_column_are_reported_apart():
    diagonal = torch.eye(3, dtype=torch.bool)
    masks = torch.stack([diagonal, diagonal.flip(0), diagonal, diagonal.flip(0)])
    found, of_mask, _ = distinct_masks(masks)
    assert torch.equal(masks[found][of_mask], masks)
    assert found.tolist()[:2] == [0, 1]
    assert of_mask[0] == of_mask[2] != of_mask[1]


@pytest.mark.parametrize("use_mask_prompts", [True, False])
@pytest.mark.parametrize("at_once", [1, 2, 64])
@torch.no_grad()
def test_equal_masks_are_embedded_once_and_all_as_alone(monkeypatch, use_mask_prompts, at_once):
    clip = build_mask_adapted_clip(CLIP, prompt_depth=3, seed=0)
    clip.mask_prompts.data.mul_(20)
    image = torch.from_numpy(picture()).permute(2, 0, 1).contiguous()
    masks = torch.zeros(6, 50, 70, dtype=torch.bool)
    masks[0, 3:20, 4:30] = masks[2, 3:20, 4:30] = masks[5, 3:20, 4:30] = True
    masks[3, 30:, 40:] = True  # 1 and 4 stay empty
    expected = []
    for mask in masks[[0, 2, 3, 5]]:
        cut = masked_crops(image, mask[None], crop_px=clip.crop_px)
        expected.append(clip.encode_image(cut.crops, patch_mask(cut.crop_masks, 4) if use_mask_prompts else None)[0])
    crops, encode_image = [], clip.encode_image

    def counting(some, *rest, **how):
        crops.append(len(some))
        return encode_image(some, *rest, **how)

    monkeypatch.setattr(
        clip, "encode_image", lambda some, *rest, **how: crops.append(len(some)) or encode_image(some, *rest, **how)
    )
    embeddings, valid = embed_regions(clip, image, masks, use_mask_prompts=use_mask_prompts, at_once=at_once)
    assert valid.tolist() == [True, False, True, True, False, True]
    assert sum(crops) == 2
    assert max(crops) <= at_once
    torch.testing.assert_close(embeddings, torch.stack(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("use_mask_prompts", [True, False])
@torch.no_grad()
def test_a_clip_that_drops_blank_patches_does_so_with_and_without_prompts(use_mask_prompts):
    clip = build_mask_adapted_clip(CLIP, prompt_depth=1, seed=0, blank_patches="dropped")
    clip.mask_prompts.data.mul_(20)
    image = torch.from_numpy(picture()).permute(2, 0, 1).contiguous()
    masks = torch.zeros(2, 50, 70, dtype=torch.bool)
    masks[0, 3:40, 4:12] = masks[0, 32:40, 4:60] = masks[1, 10:20, 30:50] = True
    cut = masked_crops(image, masks, crop_px=clip.crop_px)
    patches = patch_mask(cut.crop_masks, 4)
    assert patches.all(dim=1).tolist() == [False, True]
    expected = clip.encode_image(cut.crops, patches, use_prompts=use_mask_prompts)
    found = embed_regions(clip, image, masks, use_mask_prompts=use_mask_prompts, at_once=1).embeddings
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert (found[0] - clip.encode_image(cut.crops)[0]).abs().max() > 1e-3
    boxes = embed_regions(clip, image, masks, fill="unmasked", use_mask_prompts=False, at_once=2).embeddings
    whole = clip.encode_image(masked_crops(image, masks, crop_px=clip.crop_px, fill="unmasked").crops)
    torch.testing.assert_close(boxes, whole, atol=1e-6, rtol=0)


def test_overlapping_masks_share_a_crop_where_that_is_asked_for():
    image = torch.from_numpy(picture()).permute(2, 0, 1).contiguous()
    masks = torch.zeros(4, 50, 70, dtype=torch.bool)
    masks[0, 3:20, 4:30] = masks[2, 3:20, 4:30] = masks[3, 30:, 40:] = True
    masks[2, 3, 4] = False  # 1 stays empty
    exact, shared = (cut_regions(image, masks, CropFormat(16, 4), share_above_iou=iou) for iou in (1.0, 0.9))
    assert exact.crop_of_mask.tolist() == [0, -1, 1, 2]
    assert shared.crop_of_mask.tolist() == [0, -1, 0, 1]
    assert torch.equal(shared.crops, exact.crops[[0, 2]])
    assert torch.equal(shared.patch_mask, exact.patch_mask[[0, 2]])


@pytest.mark.parametrize(("equal", "waits"), [(False, 1), (True, 2)])
def test_a_picture_waits_for_its_device_once_and_again_for_equal_masks(equal, waits):
    clip = build_mask_adapted_clip(CLIP, prompt_depth=3, seed=0)
    image = torch.from_numpy(picture()).permute(2, 0, 1).contiguous()
    masks = torch.zeros(40, 50, 70, dtype=torch.bool)
    for row in range(40):
        masks[row, row : row + 10, 5 + row : 60] = True
    if equal:
        masks[7] = masks[3]
    with CountedOperations() as counted:
        embeddings, valid = embed_regions(clip, image, masks, at_once=64)
    assert len(embeddings) == valid.sum() == 40
    assert counted.synchronisations == waits, counted.waits


@pytest.mark.parametrize("count", [0, 1, 3])
def test_no_mask_and_empty_masks_give_no_embedding(count):
    clip = build_mask_adapted_clip(CLIP, prompt_depth=3, seed=0)
    image = torch.from_numpy(picture()).permute(2, 0, 1).contiguous()
    embeddings, valid = embed_regions(clip, image, torch.zeros(count, 50, 70, dtype=torch.bool), at_once=4)
    assert embeddings.shape == (0, 16)
    assert valid.tolist() == [False] * count


def compile_both():
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    net, clip = build_proposal_net(**PROPOSAL_NET).eval(), build_mask_adapted_clip(CLIP, prompt_depth=3, seed=0).eval()
    images = torch.randn(2, 3, 64, 96)
    found = torch.compile(net, fullgraph=True, backend="eager")(images)
    torch.testing.assert_close(found.mask_logits, net(images).mask_logits)
    crops = torch.randn(3, 3, clip.crop_px, clip.crop_px)
    patches = torch.rand(3, (clip.crop_px // clip.patch_px) ** 2) < 0.5
    compiled = torch.compile(clip.encode_image, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(crops, patches), clip.encode_image(crops, patches))


def test_both_nets_compile_to_one_graph_each():
    """In a process without shape checks, through which nothing can be traced.

    What lies between the nets follows boxes that are known when masks are, and is no part of a graph.
    """
    forked.run(compile_both)


@pytest.mark.parametrize("share_above_iou", [1.0, 0.5])
def test_several_pictures_give_the_crops_of_each_alone(share_above_iou):
    generator = torch.Generator().manual_seed(3)
    pictures, frames, boxes, alone = [], torch.zeros(9, 40, 60, dtype=torch.bool), [], []
    for index, (height, width) in enumerate([(40, 33), (21, 60), (30, 30)]):
        picture = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
        masks = torch.zeros(3, height, width, dtype=torch.bool)
        masks[0, 2:15, 3:20] = masks[1, 2:15, 4 + index : 20] = True
        if index:
            masks[2, 5:, 7] = True
        kept, known = mask_boxes(masks)
        of_all = np.zeros((3, 4), np.int32)
        of_all[kept.numpy()] = known.numpy()
        pictures.append(picture)
        boxes.append(of_all)
        frames[3 * index : 3 * index + 3, :height, :width] = masks
        alone.append(cut_regions(picture, masks, CropFormat(24, 8), share_above_iou=share_above_iou))
    sides = {"crop": CropFormat(24, 8), "share_above_iou": share_above_iou}
    together = cut_regions_of_pictures(pictures, frames, boxes, **sides)
    for found, expected in zip(together, alone, strict=True):
        for part, expected_part in zip(found, expected, strict=True):
            assert np.array_equal(part, expected_part)
    assert together[0].crop_of_mask.tolist() == ([0, 1, -1] if share_above_iou == 1 else [0, 0, -1])
    boxes[1][0, 2] = 61
    with pytest.raises(ValueError, match=r"picture of 60 x 21 px in a frame of 60 x 40 px has boxes up to \[61, 21\]"):
        cut_regions_of_pictures(pictures, frames, boxes, **sides)
