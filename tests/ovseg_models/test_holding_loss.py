"""The losses that hold CLIP to what it was, against NumPy and at equality."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg_models.holding_loss import embedding_holding_loss, similarity_holding_loss


def unit_vectors(count: int, seed: int, dim: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=generator), dim=1)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def test_similarities_equal_the_numpy_twin() -> None:
    tuned, original, texts = unit_vectors(5, 0), unit_vectors(5, 1), unit_vectors(7, 2)
    said, before = (softmax(100 * one.double().numpy() @ texts.double().numpy().T) for one in (tuned, original))
    expected = (0.5 * (said - before) ** 2).mean()
    assert expected > 1e-3
    assert similarity_holding_loss(tuned, original, texts).item() == pytest.approx(expected, abs=1e-6)


def test_embeddings_equal_the_numpy_twin() -> None:
    tuned, original = unit_vectors(5, 0), unit_vectors(5, 1)
    expected = np.mean([1 - one @ other for one, other in zip(tuned.numpy(), original.numpy(), strict=True)])
    assert embedding_holding_loss(tuned, original).item() == pytest.approx(expected, abs=1e-6)


def test_a_clip_that_has_not_moved_pays_nothing_and_is_not_pulled() -> None:
    tuned, texts = unit_vectors(4, 0).requires_grad_(), unit_vectors(3, 1)
    for loss in (similarity_holding_loss(tuned, tuned.detach(), texts), embedding_holding_loss(tuned, tuned.detach())):
        assert loss.item() == pytest.approx(0, abs=1e-6)
    (slope,) = torch.autograd.grad(similarity_holding_loss(tuned, tuned.detach(), texts), tuned)
    assert not slope.any()
