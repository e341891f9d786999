"""The chunked fusion against the plain form, bit for bit, and its memory."""

import subprocess
import sys
import textwrap

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from ovseg_models import fusion
from ovseg_models.fusion import ensemble_scores, fused_labels, fused_scores


def naive_scores(scores, mask_probs, size):
    """Section 2, step 13, in two lines."""
    fused = torch.einsum("qc,qhw->chw", scores, mask_probs)
    return functional.interpolate(fused[None], size=size, mode="bilinear", align_corners=False)[0]


def realistic(queries, classes, height, width, seed=0):
    """Peaked class probabilities and smooth soft masks, as a trained net gives them."""
    generator = torch.Generator().manual_seed(seed)
    probs = (8 * torch.randn(queries, classes + 1, generator=generator)).softmax(dim=1)[:, :classes]
    clip_probs = (4 * torch.randn(queries, classes, generator=generator)).softmax(dim=1)
    valid = torch.rand(queries, generator=generator) > 0.3
    coarse = 6 * torch.randn(1, queries, height // 16 + 1, width // 16 + 1, generator=generator) - 4
    masks = functional.interpolate(coarse, size=(height, width), mode="bilinear")[0].sigmoid()
    return ensemble_scores(probs, clip_probs[valid], valid, 0.7), masks


@pytest.mark.parametrize("size", [(96, 160), (50, 60), (72, 120), (211, 350)])
@pytest.mark.parametrize("classes", [1, 2, 3, 9, 17, 19, 150, 847])
def test_every_pixel_gets_the_class_of_the_plain_form(classes, size, monkeypatch):
    monkeypatch.setattr(fusion, "_CHUNK_BYTES", 1)  # as many chunks as there ever are
    monkeypatch.setattr(fusion, "_RESIZE_BYTES", 4 * 16 * 65 * 65)
    scores, masks = realistic(100, classes, 96, 160)
    expected = naive_scores(scores, masks, size)
    assert torch.equal(fused_labels(scores, masks, size), expected.argmax(dim=0))
    assert torch.equal(fused_scores(scores, masks, size), expected)


def test_random_inputs_whose_classes_nearly_tie():
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(100, 847, generator=generator)
    masks = torch.rand(100, 64, 96, generator=generator)
    for size in ((64, 96), (51, 77)):
        assert torch.equal(fused_labels(scores, masks, size), naive_scores(scores, masks, size).argmax(dim=0))


@settings(max_examples=40, deadline=None)
@given(
    queries=st.integers(1, 7),
    classes=st.integers(1, 40),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    out=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    seed=st.integers(0, 1000),
)
def test_any_shape_is_close_to_the_plain_form(queries, classes, height, width, out, seed):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(queries, classes, generator=generator)
    masks = torch.rand(queries, height, width, generator=generator)
    fused = fused_scores(scores, masks, out)
    torch.testing.assert_close(fused, naive_scores(scores, masks, out))
    assert torch.equal(fused_labels(scores, masks, out), fused.argmax(dim=0))


def test_of_equal_classes_the_first_wins(monkeypatch):
    monkeypatch.setattr(fusion, "_CHUNK_BYTES", 1)
    scores = torch.full((4, 100), 0.25)
    scores[:, :3] = 0.1
    masks = torch.randint(0, 65, (4, 9, 9)) / 64  # sums are exact, whatever their order
    masks[0] = 1
    assert fused_labels(scores, masks, (9, 9)).unique().tolist() == [3]


def test_permuted_masks_give_the_same_labels():
    scores, masks = realistic(20, 30, 32, 32)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        fused_scores(scores[order], masks[order], (40, 40)), fused_scores(scores, masks, (40, 40))
    )


def test_a_result_is_made_under_autograd_too():
    scores = torch.rand(3, 4, requires_grad=True)
    assert not fused_scores(scores, torch.rand(3, 4, 4), (4, 4)).requires_grad


@pytest.mark.usefixtures("without_shape_checks")
def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"scores are \(3, 0\) \[query class\] for 3 masks"):
        fused_labels(torch.rand(3, 0), torch.rand(3, 4, 4), (4, 4))
    with pytest.raises(ValueError, match=r"scores are \(2, 5\) \[query class\] for 3 masks"):
        fused_labels(torch.rand(2, 5), torch.rand(3, 4, 4), (4, 4))


PEAK = textwrap.dedent("""
    import resource, torch
    from ovseg_models.fusion import fused_labels
    torch.set_num_threads(1)
    queries, out = 4, {out}
    scores, masks = torch.rand(queries, 847), torch.rand(queries, 640, 960)
    fused_labels(scores[:, :20], masks[:, :64, :96], (30, 40))  # whatever is loaded at first use is not the fusion's
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    labels = fused_labels(scores, masks, out)
    peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print((peak - before) / 2**20)
""")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads peak memory from /proc, which Linux has")
@pytest.mark.parametrize("out", [(640, 960), (512, 768)])
def test_peak_memory_stays_within_64_mib(out):
    """The result included; the number of queries plays no part, so few are used for speed."""
    ran = subprocess.run([sys.executable, "-c", PEAK.format(out=out)], capture_output=True, text=True, check=True)
    assert 1 < float(ran.stdout) <= 64


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
