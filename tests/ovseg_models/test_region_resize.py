"""Resizing ragged regions equals torch's own resize of each region alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_models.region_resize import line_blocks, resize_boxes, resize_boxes_nearest, resize_nearest, resize_regions

SIDES = st.integers(1, 40)


def naive_bicubic(region: torch.Tensor, side: int, mode: str = "bicubic") -> torch.Tensor:
    return functional.interpolate(region.permute(1, 0, 2)[None], (side, side), mode=mode, align_corners=False)[0]


@pytest.mark.parametrize("mode", ["bicubic", "bilinear"])
@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.tuples(SIDES, SIDES), max_size=5), side=st.integers(1, 32), seed=st.integers(0, 2**31))
def test_resizing_equals_interpolating_each_region_alone(mode, sizes, side, seed):
    generator = torch.Generator().manual_seed(seed)
    regions = [torch.randn(height, 3, width, generator=generator) for height, width in sizes]
    resized = resize_regions(regions, side, mode)
    assert resized.shape == (len(sizes), 3, side, side)
    for region, found in zip(regions, resized, strict=True):
        torch.testing.assert_close(found, naive_bicubic(region, side, mode), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1280, 2), (1, 853), (640, 1), (480, 640), (640, 853), (224, 224)]
)
def test_bicubic_at_true_sizes(height, width):
    region = torch.randn(height, 3, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resize_regions([region], 224)[0], naive_bicubic(region, 224), atol=2e-5, rtol=0)


def test_bicubic_takes_windows_of_a_larger_image():
    image = torch.randn(50, 3, 60, generator=torch.Generator().manual_seed(1))
    window = image[7:31, :, 11:52]
    torch.testing.assert_close(resize_regions([window], 16), resize_regions([window.contiguous()], 16), atol=0, rtol=0)


@settings(max_examples=40, deadline=None)
@given(
    height=SIDES,
    width=st.integers(1, 100),
    corners=st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=5),
    side=st.integers(1, 32),
    seed=st.integers(0, 2**31),
)
def test_all_boxes_at_once_equal_each_box_alone(height, width, corners, side, seed):
    generator = torch.Generator().manual_seed(seed)
    lines = torch.randn(2, height, 3, width, generator=generator)
    masks = torch.rand(2 * len(corners), height, width, generator=generator) < 0.7
    rows = np.arange(len(corners)) * (1 + seed % 2)  # in a row, or every other one
    lows = [(int(x * (width - 1)), int(y * (height - 1))) for x, y, _, _ in corners]
    boxes = np.array(
        [
            (left, top, left + 1 + int(w * (width - left - 1)), top + 1 + int(h * (height - top - 1)))
            for (left, top), (_, _, w, h) in zip(lows, corners, strict=True)
        ]
    )
    pictures = torch.randint(2, (len(corners),), generator=generator).numpy()
    masked = resize_boxes(line_blocks(lines), masks.view(torch.uint8), pictures, rows, boxes, side)
    plain = resize_boxes(line_blocks(lines), None, pictures, rows, boxes, side)
    nearest = resize_boxes_nearest(masks, rows, boxes, side)
    for number, (row, (left, top, right, bottom)) in enumerate(zip(rows, boxes, strict=True)):
        region = lines[pictures[number], top:bottom, :, left:right]
        mask = masks[row, top:bottom, left:right]
        torch.testing.assert_close(plain[number], naive_bicubic(region, side), atol=1e-5, rtol=0)
        torch.testing.assert_close(masked[number], naive_bicubic(region * mask[:, None], side), atol=1e-5, rtol=0)
        assert torch.equal(nearest[number], resize_nearest(mask, side))


def test_bicubic_at_the_same_size_changes_nothing():
    region = torch.randn(24, 3, 24, generator=torch.Generator().manual_seed(2))
    assert torch.equal(resize_regions([region], 24)[0], region.permute(1, 0, 2))


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(1, 64), seed=st.integers(0, 2**31))
def test_nearest_shows_the_pixel_at_the_floored_position(height, width, side, seed):
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) > 0.5
    lines = (torch.arange(side) * torch.tensor(height / side, dtype=torch.float32)).long().clamp(max=height - 1)
    columns = (torch.arange(side) * torch.tensor(width / side, dtype=torch.float32)).long().clamp(max=width - 1)
    assert torch.equal(resize_nearest(mask, side), mask[lines[:, None], columns])
