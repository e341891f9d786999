"""Which masks share an embedding: beside a greedy twin that goes through them one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ovseg_models import segmentation_metrics
from ovseg_models.mask_sharing import mask_ious, shared_masks
from tests.operations import CountedOperations


def iou(one, other):
    union = int((one | other).sum())
    return int((one & other).sum()) / union if union else 0.0


def one_by_one(masks, above_iou):
    kept, of_mask = [], []
    for mask in masks:
        ious = [iou(mask, masks[row]) for row in kept]
        if max(ious, default=0.0) > above_iou:
            of_mask.append(ious.index(max(ious)))
        else:
            of_mask.append(len(kept))
            kept.append(len(of_mask) - 1)
    return kept, of_mask


def stripes(*spans, width=100):
    """Masks of one line, each from its first column to before its second."""
    masks = torch.zeros(len(spans), 1, width, dtype=torch.bool)
    for mask, (first, end) in zip(masks, spans, strict=True):
        mask[0, first:end] = True
    return masks


@given(
    spans=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=9),
    above_iou=st.sampled_from([0.0, 0.3, 0.5, 0.75, 0.9]),
)
def test_the_choice_equals_that_of_one_mask_after_another(spans, above_iou):
    masks = stripes(*spans, width=12)
    kept, of_mask = shared_masks(masks, above_iou)
    assert (kept.tolist(), of_mask.tolist()) == one_by_one(masks, above_iou)


def test_a_chain_of_overlaps_is_kept_at_every_second_mask():
    masks = stripes(
        *[(first, first + 40) for first in range(0, 60, 10)]
    )  # IoU 0.6 with the next, 1/3 with the one after
    kept, of_mask = shared_masks(masks, 0.5)
    assert kept.tolist() == [0, 2, 4]
    assert of_mask.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_kept_mask_that_overlaps_most_represents():
    masks = stripes((0, 80), (10, 100), (8, 96))
    assert iou(masks[0], masks[1]) < 0.72 < iou(masks[0], masks[2]) < iou(masks[1], masks[2])
    kept, of_mask = shared_masks(masks, 0.72)
    assert (kept.tolist(), of_mask.tolist()) == ([0, 1], [0, 1, 1])


def test_equal_masks_share_and_empty_ones_do_not():
    masks = stripes((0, 0), (5, 9), (0, 0), (5, 9))
    assert [part.tolist() for part in shared_masks(masks, 0.99)] == [[0, 1, 2], [0, 1, 2, 1]]
    assert [part.tolist() for part in shared_masks(masks[:0], 0.99)] == [[], []]


def test_ious_are_exact_where_pixels_come_in_parts(monkeypatch):
    monkeypatch.setattr(segmentation_metrics, "_PIXELS_AT_ONCE", 7)
    masks = torch.rand(6, 5, 9, generator=torch.Generator().manual_seed(0)) < torch.linspace(0.1, 0.9, 6)[:, None, None]
    expected = np.array([[iou(one, other) for other in masks] for one in masks])
    assert np.array_equal(mask_ious(masks), expected)


@pytest.mark.parametrize("count", [10, 100])
def test_the_host_waits_once_however_many_masks_there_are(count):
    masks = torch.rand(count, 20, 20, generator=torch.Generator().manual_seed(1)) < 0.5
    with CountedOperations() as counted:
        shared_masks(masks, 0.9)
    assert dict(counted.waits) == {"cpu": 1}
    assert counted.kernels < 12
