"""The tiled fusion against the plain form, and its memory, operations and synchronisations."""

import math
import resource
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_models import fusion
from ovseg_models.fusion import classify, ensemble_scores, fused_labels, fused_mask_labels, fused_scores
from ovseg_models.proposal_masks import upsampled_mask_probs
from tests import forked
from tests.fake_cuda import CUDA, FakeCuda
from tests.operations import CountedOperations
from tests.proposal_shapes import ellipse_logits


def naive_scores(scores, mask_logits, net_size, size):
    """Section 2, step 13, in two lines."""
    fused = torch.einsum("qc,qhw->chw", scores, upsampled_mask_probs(mask_logits, net_size))
    return functional.interpolate(fused[None], size=size, mode="bilinear", align_corners=False)[0]


def padded(net_size):
    return [8 * math.ceil(px / 32) for px in net_size]


def realistic(queries, classes, net_size, seed=0):
    """Peaked class probabilities, and masks of noise, which exclude far fewer classes than a trained net's do."""
    generator = torch.Generator().manual_seed(seed)
    probs = (8 * torch.randn(queries, classes + 1, generator=generator)).softmax(dim=1)[:, :classes]
    clip_probs = (4 * torch.randn(queries, classes, generator=generator)).softmax(dim=1)
    valid = torch.rand(queries, generator=generator) > 0.3
    height, width = padded(net_size)
    coarse = 6 * torch.randn(1, queries, height // 4 + 1, width // 4 + 1, generator=generator) - 4
    logits = functional.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    return ensemble_scores(probs, clip_probs[valid], valid, 0.7), logits


@pytest.mark.parametrize("size", [(96, 150), (50, 60), (72, 120), (211, 350), (1, 1)])
@pytest.mark.parametrize("classes", [1, 2, 9, 19, 150, 847])
def test_every_pixel_gets_the_class_of_the_plain_form(classes, size, monkeypatch):
    monkeypatch.setattr(fusion, "_CPU_WORK_BYTES", 10**6)  # many steps
    scores, logits = realistic(100, classes, (96, 150))
    expected = naive_scores(scores, logits, (96, 150), size)
    assert torch.equal(fused_labels(scores, logits, net_size=(96, 150), size=size), expected.argmax(dim=0))
    torch.testing.assert_close(fused_scores(scores, logits, net_size=(96, 150), size=size), expected)


def with_edges(logits):
    """Repeat the edges, as at the edges of the picture."""
    return functional.pad(logits[None], (1, 1, 1, 1), mode="replicate")[0]


def test_masks_like_a_trained_nets_leave_few_classes():
    scores, _ = realistic(60, 847, (160, 240))
    _, kept = fusion._windows_and_classes(scores, with_edges(ellipse_logits(60, 640, 960)))
    assert kept.any(dim=1).all()
    assert kept.double().mean() < 0.02
    logits = ellipse_logits(60, 160, 240)
    expected = naive_scores(scores, logits, (160, 240), (107, 160)).argmax(dim=0)
    assert torch.equal(fused_labels(scores, logits, net_size=(160, 240), size=(107, 160)), expected)


def flat(queries, classes, seed=0):
    """Class scores as of a net that hardly names: the highest is a few times the mean."""
    logits = torch.randn(queries, classes, generator=torch.Generator().manual_seed(seed)) / 2
    return ensemble_scores(logits.softmax(dim=1), logits.roll(1, 0).softmax(dim=1), torch.ones(queries).bool(), 0.7)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("net_size", [(160, 240), (97, 131)])
def test_flat_scores_leave_few_of_1000_classes_too_and_no_winner_is_lost(net_size, seed, monkeypatch):
    scores = flat(60, 1000, seed)
    logits = ellipse_logits(60, *net_size, seed=seed)
    kept = fusion._windows_and_classes(scores, with_edges(ellipse_logits(60, 640, 960, seed=seed)))[1].sum(dim=1)
    sums = naive_scores(scores, logits, net_size, (107, 160))
    assert torch.equal(fused_labels(scores, logits, net_size=net_size, size=(107, 160)), sums.argmax(dim=0))
    monkeypatch.setattr(fusion, "_TIGHTENED_ON", ())
    loosely = fusion._windows_and_classes(scores, with_edges(ellipse_logits(60, 640, 960, seed=seed)))[1].sum(dim=1)
    assert kept.double().mean() < 20 < 130 < loosely.double().mean()
    assert torch.equal(fused_labels(scores, logits, net_size=net_size, size=(107, 160)), sums.argmax(dim=0))


def test_equal_and_nearly_equal_classes_are_left_to_the_sums():
    """Ten copies of each class, of which all but the first are lower by less than the bounds' rounding."""
    first = flat(30, 40)
    scores = torch.cat([first, *(first * (1 - factor) for factor in (0, 0, 1e-7, 3e-7, 1e-6, 1e-5))], dim=1)
    logits = ellipse_logits(30, 160, 240)
    expected = naive_scores(scores, logits, (160, 240), (107, 160)).argmax(dim=0)
    found = fused_labels(scores, logits, net_size=(160, 240), size=(107, 160))
    assert torch.equal(found % 40, expected % 40)
    assert found.max() < 40


def test_bounds_are_of_use_nowhere_and_no_class_is_lost():
    generator = torch.Generator().manual_seed(1)
    scores, logits = torch.rand(100, 847, generator=generator), torch.randn(100, 16, 24, generator=generator)
    assert fusion._windows_and_classes(scores, with_edges(logits))[1].double().mean() > 0.9
    for size in ((64, 96), (51, 77)):
        expected = naive_scores(scores, logits, (64, 96), size).argmax(dim=0)
        assert torch.equal(fused_labels(scores, logits, net_size=(64, 96), size=size), expected)


@settings(max_examples=60, deadline=None)
@given(
    queries=st.integers(1, 7),
    classes=st.integers(1, 40),
    net_size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    contrast=st.sampled_from([0.1, 3.0, 30.0]),
    seed=st.integers(0, 1000),
)
def test_any_shape_agrees_with_the_plain_form(queries, classes, net_size, size, contrast, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(queries, classes, generator=generator)
    logits = contrast * torch.randn(queries, *padded(net_size), generator=generator)
    expected = naive_scores(scores, logits, net_size, size)
    torch.testing.assert_close(fused_scores(scores, logits, net_size=net_size, size=size), expected)
    labels = fused_labels(scores, logits, net_size=net_size, size=size)
    reached = expected.gather(0, labels[None])[0]
    torch.testing.assert_close(reached, expected.amax(dim=0), atol=1e-6, rtol=1e-5)  # equal but for rounding


@pytest.mark.parametrize("size", [(64, 64), (40, 90)])
def test_of_equal_classes_the_first_wins(size):
    scores = torch.rand(4, 5, generator=torch.Generator().manual_seed(0))[:, torch.arange(100) % 5]
    scores[:, 3:5] = 0
    logits = 4 * torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(1))
    labels = fused_labels(scores, logits, net_size=(64, 64), size=size)
    assert set(labels.unique().tolist()) <= {0, 1, 2, 8, 9}  # of 95 equal ones the first five, 3 and 4 are nothing
    assert torch.equal(labels, naive_scores(scores, logits, (64, 64), size).argmax(dim=0))


def test_scores_of_nothing_give_the_first_class():
    labels = fused_labels(torch.zeros(3, 7), torch.randn(3, 8, 8), net_size=(30, 30), size=(20, 20))
    assert not labels.any()


def test_permuted_masks_give_the_same_scores():
    scores, logits = realistic(20, 30, (32, 32))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        fused_scores(scores[order], logits[order], net_size=(32, 32), size=(40, 40)),
        fused_scores(scores, logits, net_size=(32, 32), size=(40, 40)),
    )


def test_a_result_is_made_under_autograd_too():
    scores = torch.rand(3, 4, requires_grad=True)
    assert not fused_scores(scores, torch.rand(3, 8, 8), net_size=(32, 32), size=(4, 4)).requires_grad


@pytest.mark.parametrize("classes", [150, 847])
def test_a_gpu_gets_few_operations_and_two_synchronisations(monkeypatch, classes):
    monkeypatch.setattr(fusion, "_CPU_WORK_BYTES", fusion._GPU_WORK_BYTES)
    monkeypatch.setattr(fusion, "_TIGHTENED_ON", ())
    logits = ellipse_logits(100, 640, 961)
    scores, _ = realistic(100, classes, (32, 32))
    with CountedOperations() as counted:
        fused_labels(scores, logits, net_size=(640, 961), size=(426, 640))
    assert 20 < counted.kernels <= 60, counted.names
    assert counted.synchronisations <= 2, counted.waits


def test_fusion_waits_for_a_fake_device_as_often():
    with FakeCuda() as device:
        scores, logits = torch.zeros(100, 150, device=CUDA), torch.zeros(100, 160, 248, device=CUDA)
        labels = fused_labels(scores, logits, net_size=(640, 961), size=(426, 640))
    assert (labels.device, labels.shape) == (CUDA, (426, 640))
    assert device.waits == {"to the host": 1, "nonzero": 1}


@pytest.mark.usefixtures("without_shape_checks")
def test_sizes_that_do_not_fit_are_refused():
    for scores in (torch.rand(3, 0), torch.rand(2, 5)):
        with pytest.raises(ValueError, match=rf"scores are \({len(scores)}, .\) \[query class\] for 3 masks"):
            fused_labels(scores, torch.rand(3, 8, 8), net_size=(4, 4), size=(4, 4))


def peak_mib(size, noise):
    """Fuse in this process; return how far its memory rose."""
    torch.set_num_threads(1)
    logits = ellipse_logits(100, 640, 961)
    if noise:
        logits += 3 * torch.randn(logits.shape)
    scores = (8 * torch.randn(100, 847)).softmax(1)
    fused_labels(scores[:, :20], logits[:, :8, :8], net_size=(32, 32), size=(30, 40))  # what is loaded at first use
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    fused_labels(scores, logits, net_size=(640, 961), size=size)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return (peak - before) / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc, which Linux has")
@pytest.mark.parametrize(("size", "noise"), [((640, 961), False), ((426, 640), True)])
def test_peak_memory_stays_within_64_mib(size, noise):
    """Soft masks and result included."""
    (peak,) = forked.results_of_group(1, peak_mib, size, noise)
    assert 1 < peak <= 64


def ensemble_inputs():
    probs = torch.tensor([[0.5, 0.2], [0.1, 0.6], [0.3, 0.3]])
    return probs, torch.tensor([[0.9, 0.1], [0.4, 0.6]]), torch.tensor([True, False, True])


def naive_ensemble(probs, clip_probs, valid, weight):
    """Section 2, step 12, one number at a time."""
    expected, row = torch.empty_like(probs), 0
    for query in range(len(probs)):
        for c in range(probs.shape[1]):
            clip = float(clip_probs[row, c]) if valid[query] else 1.0
            expected[query, c] = float(probs[query, c]) ** (1 - weight) * clip**weight
        row += int(valid[query])
    return expected


@pytest.mark.parametrize("weight", [0.0, 0.3, 0.7])
def test_ensemble_equals_the_formula(weight):
    torch.testing.assert_close(ensemble_scores(*ensemble_inputs(), weight), naive_ensemble(*ensemble_inputs(), weight))


def test_weight_0_is_the_proposal_net_alone():
    probs, clip_probs, valid = ensemble_inputs()
    assert torch.equal(ensemble_scores(probs, clip_probs, valid, 0), probs)


def test_weight_1_is_clip_alone_and_proposals_without_a_crop_say_nothing():
    probs, clip_probs, valid = ensemble_inputs()
    scores = ensemble_scores(probs, clip_probs, valid, 1)
    assert torch.equal(scores[valid], clip_probs)
    assert torch.equal(scores[~valid], torch.zeros(1, 2))


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_no_valid_proposal_leaves_the_proposal_nets_power(weight):
    probs = ensemble_inputs()[0]
    none = torch.zeros(3, dtype=torch.bool)
    torch.testing.assert_close(ensemble_scores(probs, torch.empty(0, 2), none, weight), probs ** (1 - weight))


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_out_of_range_is_refused(weight):
    with pytest.raises(ValueError, match=f"ensemble_weight is {weight}"):
        ensemble_scores(*ensemble_inputs(), weight)


def test_rows_that_do_not_fit_the_valid_proposals_are_refused():
    probs, clip_probs, _ = ensemble_inputs()
    with pytest.raises(ValueError, match=r"clip_probs has 2 rows, 3 \(one per valid proposal\)"):
        ensemble_scores(probs, clip_probs, torch.ones(3, dtype=torch.bool), 0.5)


@given(st.integers(0, 2**31), st.integers(0, 5), st.integers(1, 4))
@settings(max_examples=30)
def test_labels_of_hard_masks_equal_a_loop_over_pixels(seed, masks_count, classes):
    """The nearest pixel with a class is looked for one by one; where several are as near, any of them will do."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(masks_count, 6, 9, generator=generator) > 0.8
    scores = torch.rand(masks_count, classes, generator=generator)
    labels = fused_mask_labels(scores, masks, size=(6, 9))
    sums = torch.einsum("qc,qhw->chw", scores, masks.float())
    known = [(row, column) for row in range(6) for column in range(9) if sums[:, row, column].max() > 0]
    for row in range(6):
        for column in range(9):
            if not known:
                assert labels[row, column] == 0
                continue
            near = min((one - row) ** 2 + (other - column) ** 2 for one, other in known)
            nearest = [(one, other) for one, other in known if (one - row) ** 2 + (other - column) ** 2 == near]
            assert int(labels[row, column]) in {int(sums[:, one, other].argmax()) for one, other in nearest}
    larger = fused_mask_labels(scores, masks, size=(12, 18))
    torch.testing.assert_close(larger, labels.repeat_interleave(2, 0).repeat_interleave(2, 1))


@pytest.mark.usefixtures("without_shape_checks")
def test_labels_of_hard_masks_need_scores_of_each():
    with pytest.raises(ValueError, match="one row per mask and at least one class"):
        fused_mask_labels(torch.ones(2, 3), torch.ones(3, 4, 4, dtype=torch.bool), size=(4, 4))


def test_zegformers_ensemble_equals_the_numpy_twin():
    generator = torch.Generator().manual_seed(0)
    proposal_logits = 3 * torch.randn(5, 5, generator=generator)
    clip_logits, valid = 3 * torch.randn(3, 4, generator=generator), torch.tensor([True, False, True, True, False])
    seen, weight = torch.tensor([True, False, True, False]), 2 / 3
    found = classify(proposal_logits, clip_logits, valid, ensemble_weight=weight, seen=seen).scores.numpy()
    net = proposal_logits.double().softmax(dim=1)[:, :4].numpy()
    clip = clip_logits.double().softmax(dim=1).numpy()
    rows = iter(clip)
    for query in range(5):
        if not valid[query]:
            np.testing.assert_allclose(found[query], net[query], atol=1e-6)
            continue
        row = next(rows)
        mean = (row[0] + row[2]) / 2
        expected = [
            net[query, 0] ** weight * mean ** (1 - weight),
            net[query, 1] ** (1 - weight) * row[1] ** weight,
            net[query, 2] ** weight * mean ** (1 - weight),
            net[query, 3] ** (1 - weight) * row[3] ** weight,
        ]
        np.testing.assert_allclose(found[query], expected, atol=1e-6)
