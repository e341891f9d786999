"""Masked crops against a naive twin that follows the reference's order of operations, and their edge cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_models import masked_crops as module
from ovseg_models.masked_crops import (
    crops_of_regions,
    mask_boxes,
    masked_crops,
    masked_crops_of_pictures,
    normalised,
    patch_mask,
    without_normalisation,
)
from ovseg_models.preprocessing import Preprocessing
from ovseg_models.region_resize import box_chunks
from tests.fake_cuda import CUDA, FakeCuda
from tests.operations import CountedOperations

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
SIGLIP = Preprocessing((0.5,) * 3, (0.5,) * 3)
MOBILE_CLIP = Preprocessing((0.0,) * 3, (1.0,) * 3, "bilinear")  # its fill is black
FILLS = {
    "mean": 255 * MEAN,
    "zero": torch.zeros(3, 1, 1),
    (124.0, 116.0, 103.0): torch.tensor([124.0, 116, 103])[:, None, None],
}


def naive_crop(image, mask, crop_px, fill="mean", soft_mask=None):
    """One crop, in the reference's order: fill the raw pixels, cut, normalise, resize."""
    lines, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    box = slice(lines[0], lines[-1] + 1), slice(columns[0], columns[-1] + 1)
    keep = mask.float() if soft_mask is None else soft_mask
    region = image.float() if fill == "unmasked" else image * keep + (1 - keep) * FILLS[fill]
    normalised = ((region - 255 * MEAN) / (255 * STD))[:, *box]
    size = (crop_px, crop_px)
    crop = functional.interpolate(normalised[None], size, mode="bicubic", align_corners=False)[0]
    return crop, functional.interpolate(mask[box].float()[None, None], size, mode="nearest")[0, 0].bool()


def scene(seed=0, count=6, height=37, width=53, density=0.02):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return image, torch.rand(count, height, width, generator=generator) < density


def ellipse(height, width, seed):
    """A mask like a proposal's: one ellipse anywhere in the image."""
    across = torch.rand(4, generator=torch.Generator().manual_seed(seed))
    lines, columns = torch.arange(height)[:, None] / height, torch.arange(width) / width
    radii = 0.05 + 0.5 * across[2:]
    return ((lines - across[0]) / radii[0]) ** 2 + ((columns - across[1]) / radii[1]) ** 2 <= 1


@pytest.mark.parametrize("fill", ["mean", "zero", "unmasked", (124.0, 116.0, 103.0)])
def test_crops_equal_the_reference_order_of_operations(fill):
    image, _ = scene(height=240, width=320)
    masks = torch.stack([ellipse(240, 320, seed) for seed in range(8)])
    made = masked_crops(image, masks, crop_px=224, fill=fill)
    assert made.kept_rows.tolist() == list(range(8))
    for crop, crop_mask, mask in zip(made.crops, made.crop_masks, masks, strict=True):
        expected, expected_mask = naive_crop(image, mask, 224, fill)
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)
        assert torch.equal(crop_mask, expected_mask)


@pytest.mark.parametrize("preprocessing", [SIGLIP, MOBILE_CLIP])
def test_crops_of_another_clip_equal_the_naive_order_of_operations(preprocessing):
    image, _ = scene(height=60, width=80)
    masks = torch.stack([ellipse(60, 80, seed) for seed in range(5)])
    mean, std = (255 * torch.tensor(part)[:, None, None] for part in (preprocessing.mean_rgb, preprocessing.std_rgb))
    made = masked_crops(image, masks, crop_px=32, preprocessing=preprocessing)
    cut = []
    for crop, mask in zip(made.crops, masks, strict=True):
        lines, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = slice(lines[0], lines[-1] + 1), slice(columns[0], columns[-1] + 1)
        filled = torch.where(mask, image.float(), mean)[:, *box]
        mode = preprocessing.interpolation
        expected = functional.interpolate((filled[None] - mean) / std, (32, 32), mode=mode, align_corners=False)[0]
        torch.testing.assert_close(crop, expected, atol=1e-5, rtol=0)
        cut.append((image[:, *box], mask[box]))
    regions, _ = crops_of_regions(cut, crop_px=32, preprocessing=preprocessing)
    torch.testing.assert_close(regions, made.crops, atol=1e-5, rtol=0)
    pixels = without_normalisation(made.crops, preprocessing)
    rounding = 0.51 / 255 / min(preprocessing.std_rgb)
    inside = (made.crops * std + mean).clamp(0, 255)  # bicubic overshoot has no place in 8 bits
    torch.testing.assert_close(normalised(pixels, preprocessing), (inside - mean) / std, atol=rounding, rtol=0)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    count=st.integers(0, 4),
    density=st.sampled_from([0.0, 0.01, 0.1, 0.6, 1.0]),
    crop_px=st.integers(1, 17),
    chunk=st.integers(1, 5),
    seed=st.integers(0, 2**31),
)
def test_any_masks_equal_the_naive_twin(height, width, count, density, crop_px, chunk, seed):
    image, masks = scene(seed, count, height, width, density)
    made = masked_crops(image, masks, crop_px=crop_px, chunk=chunk)
    assert made.kept_rows.tolist() == [row for row in range(count) if masks[row].any()]
    for position, row in enumerate(made.kept_rows.tolist()):
        expected, expected_mask = naive_crop(image, masks[row], crop_px)
        torch.testing.assert_close(made.crops[position], expected, atol=1e-4, rtol=0)
        assert torch.equal(made.crop_masks[position], expected_mask)
        left, top, right, bottom = made.boxes_xyxy[position].tolist()
        assert masks[row, top:bottom, left:right].sum() == masks[row].sum()
        assert masks[row, top].any()
        assert masks[row, bottom - 1].any()
        assert masks[row, :, left].any()
        assert masks[row, :, right - 1].any()


def test_soft_masks_mix_image_and_fill():
    image, masks = scene(seed=3, density=0.3)
    soft = torch.rand(masks.shape, generator=torch.Generator().manual_seed(4))
    made = masked_crops(image, masks, crop_px=32, fill="zero", soft_masks=soft)
    for row, crop in enumerate(made.crops):
        expected, expected_mask = naive_crop(image, masks[row], 32, "zero", soft_mask=soft[row])
        torch.testing.assert_close(crop, expected, atol=1e-4, rtol=0)
        assert torch.equal(made.crop_masks[row], expected_mask)


def test_fill_shows_as_zero_outside_the_mask():
    image, _ = scene(height=64, width=64)
    mask = torch.zeros(1, 64, 64, dtype=torch.bool)
    mask[0, :8, :8] = mask[0, 56:, 56:] = True
    crop = masked_crops(image, mask, crop_px=64).crops[0]
    assert crop[:, 12:52, 12:52].abs().max() < 1e-6


def frames_of(scenes):
    """Lay images and masks of different sizes into frames of one size; what is beyond them is noise."""
    height, width = (max(image.shape[axis] for image, _ in scenes) for axis in (1, 2))
    generator = torch.Generator().manual_seed(11)
    images = torch.randint(0, 256, (len(scenes), 3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.zeros(sum(len(own) for _, own in scenes), height, width, dtype=torch.bool)
    pictures = np.repeat(np.arange(len(scenes)), [len(own) for _, own in scenes])
    start = 0
    for frame, (image, own) in zip(images, scenes, strict=True):
        frame[:, : image.shape[1], : image.shape[2]] = image
        masks[start : start + len(own), : image.shape[1], : image.shape[2]] = own
        start += len(own)
    return images, masks, pictures


@pytest.mark.parametrize("fill", ["mean", "unmasked"])
@pytest.mark.parametrize("known", [False, True])
def test_pictures_of_different_sizes_go_together(fill, known):
    sizes = [(37, 53, 0.02), (64, 20, 0.3), (10, 70, 0.0), (64, 70, 0.01)]
    scenes = [scene(seed, 5, height, width, density) for seed, (height, width, density) in enumerate(sizes)]
    scenes[0][1][2] = False
    images, masks, pictures = frames_of(scenes)
    boxes = np.zeros((len(masks), 4), np.int32)
    kept, boxes_of_kept = mask_boxes(masks)
    boxes[kept.numpy()] = boxes_of_kept.numpy()
    made = masked_crops_of_pictures(images, masks, pictures, crop_px=24, fill=fill, boxes_xyxy=boxes if known else None)
    alone = [masked_crops(*of_one, crop_px=24, fill=fill) for of_one in scenes]
    assert made.kept_rows.tolist() == [5 * of + row for of, one in enumerate(alone) for row in one.kept_rows.tolist()]
    assert torch.equal(made.boxes_xyxy, torch.cat([one.boxes_xyxy for one in alone]))
    assert torch.equal(made.crop_masks, torch.cat([one.crop_masks for one in alone]))
    assert torch.equal(made.crops, torch.cat([one.crops for one in alone]))


@pytest.mark.parametrize("count", [1, 4])
def test_a_gpu_gets_few_operations_and_two_synchronisations_a_batch(monkeypatch, count):
    monkeypatch.setattr(module, "CPU_WORK_BYTES", module.GPU_WORK_BYTES)
    scenes = [
        (scene(height=240, width=321 + index)[0], torch.stack([ellipse(240, 321 + index, seed) for seed in range(50)]))
        for index in range(count)
    ]
    images, masks, pictures = frames_of(scenes)
    masked_crops_of_pictures(images, masks, pictures, crop_px=32)  # makes the tables that are kept
    with CountedOperations() as counted:
        made = masked_crops_of_pictures(images, masks, pictures, crop_px=32)
    assert 20 < counted.kernels <= 60, counted.names
    assert counted.synchronisations <= 2, counted.waits
    boxes = made.boxes_xyxy.numpy()
    with CountedOperations() as counted:
        masked_crops_of_pictures(images, masks, pictures, crop_px=32, boxes_xyxy=boxes)
    assert counted.synchronisations == 0, counted.waits


@pytest.mark.parametrize("known", [False, True])
def test_crops_wait_for_a_fake_device_as_often(known):
    """Constants included, which are sent when they are first used."""
    masks, boxes = torch.ones(100, 240, 320, dtype=torch.bool), np.tile(np.array([0, 0, 320, 240]), (100, 1))
    pictures = np.arange(100) // 50
    with FakeCuda() as device:
        images = torch.zeros(2, 3, 240, 320, dtype=torch.uint8, device=CUDA)
        made = masked_crops_of_pictures(
            images, masks.new_ones(masks.shape, device=CUDA), pictures, crop_px=32, boxes_xyxy=boxes if known else None
        )
        assert normalised(images).device == without_normalisation(made.crops).device == CUDA
    assert made.crops.shape == (100, 3, 32, 32)
    assert device.waits == ({} if known else {"nonzero": 1, "to the host": 1})


@pytest.mark.parametrize("chunk", [1, 2, 5, 100])
def test_chunk_size_changes_no_bit(chunk):
    image, masks = scene(seed=5, count=7)
    expected = masked_crops(image, masks, crop_px=24)
    made = masked_crops(image, masks, crop_px=24, chunk=chunk)
    assert torch.equal(made.crops, expected.crops)
    assert torch.equal(made.crop_masks, expected.crop_masks)


def test_permuted_masks_permute_the_crops():
    image, masks = scene(seed=6, count=7)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    made, permuted = (masked_crops(image, some, crop_px=24) for some in (masks, masks[order]))
    assert torch.equal(permuted.crops, made.crops[order])
    assert torch.equal(permuted.boxes_xyxy, made.boxes_xyxy[order])


@pytest.mark.parametrize("count", [0, 3])
def test_no_mask_and_empty_masks_make_no_crop(count):
    image, _ = scene()
    made = masked_crops(image, torch.zeros(count, 37, 53, dtype=torch.bool), crop_px=16)
    assert made.crops.shape == (0, 3, 16, 16)
    assert made.crop_masks.shape == (0, 16, 16)
    assert made.boxes_xyxy.shape == (0, 4)
    assert made.kept_rows.shape == (0,)


def test_a_single_pixel_fills_its_crop():
    image, masks = scene(count=1, density=0)
    masks[0, 36, 52] = True
    made = masked_crops(image, masks, crop_px=8)
    colour = ((image[:, 36:, 52:] - 255 * MEAN) / (255 * STD)).expand(3, 8, 8)
    torch.testing.assert_close(made.crops[0], colour, atol=1e-5, rtol=0)
    assert made.boxes_xyxy.tolist() == [[52, 36, 53, 37]]
    assert made.crop_masks.all()


def test_boxes_of_lines_one_pixel_thick():
    masks = torch.zeros(3, 10, 12, dtype=torch.bool)
    masks[0, :, 4] = True
    masks[2, 9, 3:7] = True
    kept_rows, boxes_xyxy = mask_boxes(masks)
    assert kept_rows.tolist() == [0, 2]
    assert boxes_xyxy.tolist() == [[4, 0, 5, 10], [3, 9, 7, 10]]


def test_regions_cut_beforehand_give_the_same_crops():
    image, masks = scene(seed=7)
    for fill in ("mean", "zero", "unmasked"):
        made = masked_crops(image, masks, crop_px=24, fill=fill)
        regions = [
            (image[:, top:bottom, left:right].clone(), masks[row, top:bottom, left:right].clone())
            for row, (left, top, right, bottom) in zip(made.kept_rows.tolist(), made.boxes_xyxy.tolist(), strict=True)
        ]
        crops, crop_masks = crops_of_regions(regions, crop_px=24, fill=fill)
        torch.testing.assert_close(crops, made.crops, atol=1e-6, rtol=0)
        assert torch.equal(crop_masks, made.crop_masks)


def test_no_regions_make_no_crop():
    crops, crop_masks = crops_of_regions([], crop_px=24)
    assert crops.shape == (0, 3, 24, 24)
    assert crop_masks.shape == (0, 24, 24)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(0, 3), side=st.integers(1, 24), patch_px=st.integers(1, 9), seed=st.integers(0, 2**31))
def test_patch_mask_is_the_ceiling_of_the_average(count, side, patch_px, seed):
    masks = torch.rand(count, side, side, generator=torch.Generator().manual_seed(seed)) < 0.05
    if patch_px > side:
        with pytest.raises(ValueError, match=rf"patch_mask: patch_px is {patch_px}, 1 to {side}"):
            patch_mask(masks, patch_px)
        return
    found = patch_mask(masks, patch_px)
    assert found.shape == (count, (side // patch_px) ** 2)
    if count:
        ceiling = functional.avg_pool2d(masks.double()[:, None], patch_px).ceil().flatten(1)
        assert torch.equal(found, ceiling.bool())


@pytest.mark.usefixtures("without_shape_checks")
def test_options_out_of_bounds_are_refused():
    image, masks = scene()
    with pytest.raises(ValueError, match=r"masks are 52 x 37 px, the image is 53 x 37 px; resize the masks"):
        masked_crops(image, masks[:, :, 1:], crop_px=8)
    with pytest.raises(ValueError, match=r"soft_masks are 53 x 36 px, the image is 53 x 37 px"):
        masked_crops(image, masks, crop_px=8, soft_masks=torch.ones(6, 36, 53))
    with pytest.raises(ValueError, match=r"masked_crops: crop_px is 0, at least 1 is expected"):
        masked_crops(image, masks, crop_px=0)
    with pytest.raises(ValueError, match=r"masked_crops: chunk is -1, at least 1 is expected"):
        masked_crops(image, masks, crop_px=8, chunk=-1)
    with pytest.raises(ValueError, match=r"fill is \(300.0, 0.0, 0.0\); 'mean', 'zero', 'unmasked' or three numbers"):
        masked_crops(image, masks, crop_px=8, fill=(300.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"fill is 'blur'; 'mean', 'zero', 'unmasked' or three numbers"):
        masked_crops(image, masks, crop_px=8, fill="blur")


@pytest.mark.usefixtures("without_shape_checks")
def test_a_region_without_a_pixel_is_refused():
    pixels = torch.zeros(3, 4, 5, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"region 0 \(5 x 4 px\) has an empty mask, at least one pixel is expected"):
        crops_of_regions([(pixels, torch.zeros(4, 5, dtype=torch.bool))], crop_px=8)


def test_boxes_are_cut_into_runs_that_fit():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 400, 300], [0, 0, 1, 1], [5, 5, 6, 6], [9, 9, 10, 10]])
    assert box_chunks(boxes, 8, 2**30) == [slice(0, 5)]
    assert box_chunks(boxes, 8, 2**16) == [slice(0, 1), slice(1, 2), slice(2, 5)]
    assert box_chunks(boxes, 8, 2**30, at_most=2) == [slice(0, 2), slice(2, 4), slice(4, 5)]
    assert box_chunks(boxes, 8, 1) == [slice(row, row + 1) for row in range(5)]
    assert box_chunks(boxes[:0], 8, 1) == []
