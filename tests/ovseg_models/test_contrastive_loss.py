"""The losses against loops over pairs, and their gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.loss import SigLipLoss
from torch.nn import functional

from ovseg_models.contrastive_loss import HardNegatives, contrastive_loss, noun_contrastive_loss, sigmoid_loss


def features(pairs, seed=0, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    image, text = torch.randn(2, pairs, dim, generator=generator, dtype=dtype)
    return functional.normalize(image, dim=1), functional.normalize(text, dim=1), torch.tensor(14.0, dtype=dtype)


def naive_clip_loss(image, text, scale):
    total = 0.0
    for i in range(len(image)):
        to_texts = torch.stack([scale * image[i] @ one for one in text])
        to_images = torch.stack([scale * one @ text[i] for one in image])
        total = total - to_texts.log_softmax(dim=0)[i] - to_images.log_softmax(dim=0)[i]
    return total / (2 * len(image))


def naive_noun_loss(image, text, scale, nouns):
    """The stated formula, term by term."""
    total = 0.0
    for i, noun in enumerate(nouns):
        to_texts = torch.stack([scale * image[i] @ one for one in text])
        to_images = torch.stack([scale * one @ text[i] for one in image])
        positives = [j for j in range(len(nouns)) if nouns[j] == noun]
        others = [j for j in range(len(nouns)) if nouns[j] != noun]
        for logits in (to_texts, to_images):
            for p in positives:
                total = total - logits[[p, *others]].log_softmax(dim=0)[0] / len(positives)
    return total / (2 * len(image))


@pytest.mark.parametrize("pairs", [1, 2, 7])
def test_clips_loss_equals_the_naive_twin(pairs):
    image, text, scale = features(pairs)
    torch.testing.assert_close(contrastive_loss(image, text, scale), naive_clip_loss(image, text, scale))


@settings(max_examples=30, deadline=None)
@given(nouns=st.lists(st.integers(-3, 3), min_size=1, max_size=7), seed=st.integers(0, 2**31))
def test_noun_loss_equals_the_naive_twin(nouns, seed):
    image, text, scale = features(len(nouns), seed)
    found = noun_contrastive_loss(image, text, scale, torch.tensor(nouns))
    torch.testing.assert_close(found, naive_noun_loss(image, text, scale, nouns), atol=1e-7, rtol=1e-7)


def naive_sigmoid_loss(image, text, scale, bias, nouns):
    total = 0.0
    for i, noun in enumerate(nouns):
        for j, other in enumerate(nouns):
            probability = torch.sigmoid(scale * image[i] @ text[j] + bias)
            total = total - (probability if noun == other else 1 - probability).log()
    return total / len(nouns)


@settings(max_examples=30, deadline=None)
@given(nouns=st.lists(st.integers(-3, 3), min_size=1, max_size=7), seed=st.integers(0, 2**31))
def test_sigmoid_loss_equals_the_naive_twin(nouns, seed):
    image, text, scale = features(len(nouns), seed)
    bias = torch.tensor(-2.0, dtype=torch.float64)
    found = sigmoid_loss(image, text, scale, bias, torch.tensor(nouns))
    torch.testing.assert_close(found, naive_sigmoid_loss(image, text, scale, bias, nouns), atol=1e-7, rtol=1e-7)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_sigmoid_loss_is_open_clips(shape):
    image, text, scale = features(6, dtype=torch.float32)
    bias = torch.full(shape, -10.0)
    expected = SigLipLoss()(image, text, scale.expand(shape), bias)
    torch.testing.assert_close(sigmoid_loss(image, text, scale.expand(shape), bias), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_agree_when_all_nouns_differ(dtype):
    image, text, scale = features(9, dtype=dtype)
    nouns = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    expected = contrastive_loss(image, text, scale)
    torch.testing.assert_close(noun_contrastive_loss(image, text, scale, nouns), expected, atol=1e-7, rtol=0)


def test_gradients_by_finite_differences():
    inputs = tuple(value.requires_grad_() for value in features(4))
    nouns = torch.tensor([1, 2, 1, 3])
    assert torch.autograd.gradcheck(contrastive_loss, inputs)
    assert torch.autograd.gradcheck(lambda *given: noun_contrastive_loss(*given, nouns), inputs)
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *given: sigmoid_loss(*given, nouns), (*inputs, bias))


def numpy_loss(form, image, text, scale, bias, nouns, negatives):
    """The stated formulas with NumPy, pair by pair; ``negatives`` are each image's own texts."""
    image, text, scale = image.numpy(), text.numpy(), scale.item()
    total = 0.0
    for i in range(len(nouns)):
        hard = [scale * image[i] @ one for one in negatives[i]]
        to_texts, to_images = [scale * image[i] @ one for one in text], [scale * one @ text[i] for one in image]
        if form == "sigmoid":
            signs = [1 if noun == nouns[i] else -1 for noun in nouns] + [-1] * len(hard)
            total += sum(
                np.log1p(np.exp(-sign * (logit + bias))) for sign, logit in zip(signs, to_texts + hard, strict=True)
            )
            continue
        same = [j for j in range(len(nouns)) if (nouns[j] == nouns[i] if form == "noun-aware" else j == i)]
        for logits, more in ((to_texts, hard), (to_images, [])):
            others = [logits[j] for j in range(len(nouns)) if j not in same] + more
            for p in same:
                total -= (logits[p] - np.log(np.exp([logits[p], *others]).sum())) / len(same) / 2
    return total / len(nouns)


@pytest.mark.parametrize("form", ["contrastive", "noun-aware", "sigmoid"])
def test_hard_negatives_equal_the_numpy_twin(form):
    image, text, scale = features(6)
    nouns = torch.tensor([0, 1, 0, 2, 1, 3])
    more = features(6 * 4, seed=3)[1].reshape(6, 4, -1)
    present = torch.arange(4) < torch.tensor([4, 0, 1, 2, 3, 4])[:, None]
    negatives = [more[i][present[i]].numpy() for i in range(6)]
    bias = torch.tensor(-3.0, dtype=torch.float64, requires_grad=True)

    def loss(image, scale):
        hard = HardNegatives(more, present)
        if form == "contrastive":
            return contrastive_loss(image, text, scale, hard_negatives=hard)
        if form == "noun-aware":
            return noun_contrastive_loss(image, text, scale, nouns, hard_negatives=hard)
        return sigmoid_loss(image, text, scale, bias, nouns, hard_negatives=hard)

    expected = numpy_loss(form, image, text, scale, bias.item(), nouns.tolist(), negatives)
    assert loss(image, scale).item() == pytest.approx(expected, abs=1e-6, rel=1e-6)
    assert torch.autograd.gradcheck(loss, (image.requires_grad_(), scale.requires_grad_()))


@pytest.mark.parametrize("form", [contrastive_loss, noun_contrastive_loss])
def test_places_without_a_hard_negative_change_no_bit(form):
    image, text, scale = features(5, dtype=torch.float32)
    nouns = (torch.tensor([0, 1, 0, 2, 3]),) if form is noun_contrastive_loss else ()
    nothing = HardNegatives(torch.ones(5, 3, image.shape[1]), torch.zeros(5, 3, dtype=torch.bool))
    assert torch.equal(form(image, text, scale, *nouns, hard_negatives=nothing), form(image, text, scale, *nouns))


def test_a_permuted_batch_has_the_same_loss():
    image, text, scale = features(6)
    nouns = torch.tensor([0, 1, 0, 2, 1, 3])
    order = torch.tensor([5, 3, 0, 1, 4, 2])
    torch.testing.assert_close(
        noun_contrastive_loss(image[order], text[order], scale, nouns[order]),
        noun_contrastive_loss(image, text, scale, nouns),
    )


def test_pairs_of_one_noun_do_not_repel_each_other():
    first, second, neither = torch.eye(3, dtype=torch.float64)
    text = torch.stack([first, first, second])
    image = torch.stack([first, (first + neither) / 2**0.5, second]).requires_grad_()
    scale = torch.tensor(14.0, dtype=torch.float64)
    (clip_gradient,) = torch.autograd.grad(contrastive_loss(image, text, scale), image)
    (noun_gradient,) = torch.autograd.grad(noun_contrastive_loss(image, text, scale, torch.tensor([0, 0, 1])), image)
    assert clip_gradient[0] @ text[0] > 0.1  # pushed away from its own noun, for the sake of image 1
    assert noun_gradient[0] @ text[0] <= 0


def test_least_value_is_zero_whatever_repeats():
    nouns = torch.tensor([0, 0, 1, 1, 1, 2])
    directions = torch.eye(4, dtype=torch.float64)[nouns]
    scale = torch.tensor(1e3, dtype=torch.float64)
    assert noun_contrastive_loss(directions, directions, scale, nouns) == 0
    assert contrastive_loss(directions, directions, scale) > 0.5


def test_a_batch_of_one_noun_has_nothing_to_learn():
    image, text, scale = (value.requires_grad_() for value in features(3))
    loss = noun_contrastive_loss(image, text, scale, torch.tensor([7, 7, 7]))
    assert loss == 0
    for gradient in torch.autograd.grad(loss, (image, text, scale)):
        assert not gradient.any()


def test_half_precision_features_are_multiplied_in_single():
    image, text, scale = features(5, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = contrastive_loss(image.bfloat16(), text.bfloat16(), scale)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, contrastive_loss(image.bfloat16().float(), text.bfloat16().float(), scale))


@pytest.mark.usefixtures("without_shape_checks")
def test_counts_that_differ_are_refused():
    image, text, scale = features(3)
    with pytest.raises(ValueError, match="contrastive loss: 3 images and 2 texts, equally many are expected"):
        contrastive_loss(image, text[:2], scale)
    with pytest.raises(ValueError, match="contrastive loss: 0 images and 0 texts"):
        contrastive_loss(image[:0], text[:0], scale)
    with pytest.raises(ValueError, match="noun_contrastive_loss: 2 nouns, 3 are expected"):
        noun_contrastive_loss(image, text, scale, torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="sigmoid_loss: 4 nouns, 3 are expected"):
        sigmoid_loss(image, text, scale, scale, torch.arange(4))
