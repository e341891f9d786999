"""Run lengths by tensor operations against those of pycocotools."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from ovseg_models import run_lengths as module
from ovseg_models.run_lengths import RunLengths, masks_of_runs, run_lengths
from tests.operations import CountedOperations

CPU = torch.device("cpu")
side = st.integers(1, 20)


def coco_runs(mask: np.ndarray) -> list[int]:
    """Return the run lengths of one mask by numpy, checked against pycocotools."""
    columns = np.concatenate([[False], mask.T.reshape(-1)])
    bounds = np.flatnonzero(columns[1:] != columns[:-1])
    lengths = np.diff([0, *bounds, mask.size]).tolist()
    found = {"size": list(mask.shape), "counts": lengths}
    expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert coco_mask.frPyObjects(found, *mask.shape)["counts"] == expected["counts"]
    return lengths


def masks_of(seed: int, sizes: list[tuple[int, int]], density: float) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.random(size) < density for size in sizes]


@settings(max_examples=80, deadline=None)
@given(
    sizes=st.lists(st.tuples(side, side), min_size=0, max_size=19),
    density=st.sampled_from([0.0, 0.03, 0.5, 0.97, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_masks_of_any_sizes_have_pycocotools_runs_and_come_back(sizes, density, seed) -> None:
    masks = masks_of(seed, sizes, density)
    frame = tuple(max((size[axis] for size in sizes), default=3) for axis in (0, 1))
    stacked = torch.rand(len(sizes), *frame) < 0.5  # what lies beyond a mask is not read
    for row, mask in enumerate(masks):
        stacked[row, : mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
    found = run_lengths(stacked, sizes)
    expected = [coco_runs(mask) for mask in masks]
    assert found.runs.tolist() == [len(lengths) for lengths in expected]
    assert found.lengths.tolist() == [length for lengths in expected for length in lengths]
    back = masks_of_runs(found, frame, CPU, sizes)
    assert back.shape == stacked.shape
    for row, mask in enumerate(masks):
        whole = np.zeros(frame, bool)
        whole[: mask.shape[0], : mask.shape[1]] = mask
        np.testing.assert_array_equal(back[row].numpy(), whole)


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (300, 257)])
@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_masks_without_sizes(size: tuple[int, int], fill: bool) -> None:
    masks = torch.full((3, *size), fill)
    found = run_lengths(masks)
    assert found.lengths.tolist() == ([0] * fill + [size[0] * size[1]]) * 3
    assert torch.equal(masks_of_runs(found, size, CPU), masks)


def test_masks_that_are_a_view_of_others_are_read_in_place() -> None:
    masks = torch.rand(5, 14, 18) < 0.3
    found, expected = run_lengths(masks[1::2, 3:, :-5]), run_lengths(masks[1::2, 3:, :-5].contiguous())
    assert found.lengths.tolist() == expected.lengths.tolist()


def test_runs_without_a_pixel_change_nothing() -> None:
    found = RunLengths(np.array([2, 0, 1, 3, 0, 0, 0, 0]), np.array([8]))
    assert masks_of_runs(found, (2, 3), CPU)[0].T.flatten().tolist() == [False] * 3 + [True] * 3


def test_a_gpu_gets_few_operations_and_waits_for_no_mask(monkeypatch) -> None:
    monkeypatch.setattr(module, "_CPU_MASKS_AT_ONCE", 1000)  # as on a GPU
    masks = torch.rand(100, 24, 30) < 0.3
    sizes = [(24, 30), (20, 21)] * 50
    with CountedOperations() as counted:
        found = run_lengths(masks, sizes)
    assert 10 < counted.kernels <= 40, counted.names
    assert counted.synchronisations <= 1, counted.waits  # and one for the flips, which numpy finds on a CPU
    with CountedOperations() as counted:
        masks_of_runs(found, (24, 30), CPU, sizes)
    assert 10 < counted.kernels <= 40, counted.names
    assert counted.synchronisations == 0, counted.waits


@pytest.mark.usefixtures("without_shape_checks")
def test_what_does_not_fit_is_refused() -> None:
    found = RunLengths(np.array([5, 7, 6, 5]), np.array([2, 2]))
    with pytest.raises(ValueError, match=r"mask 1 add up to 11 px, expected are 4 x 3 px = 12"):
        masks_of_runs(found, (3, 4), CPU)
    with pytest.raises(ValueError, match=r"frames of 4 x 3 px have the sizes \[\[3, 5\], \[1, 1\]\]"):
        masks_of_runs(found, (3, 4), CPU, [(3, 5), (1, 1)])
    with pytest.raises(ValueError, match="one size per mask"):
        run_lengths(torch.zeros(2, 3, 4, dtype=torch.bool), [(3, 4)])
    with pytest.raises(ValueError, match="of 1 px at least"):
        run_lengths(torch.zeros(2, 0, 4, dtype=torch.bool))
