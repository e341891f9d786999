"""Zero-shot accuracies against their plain definition."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from ovseg_models.zero_shot import ZeroShotCounts

CLASSES, CROPS, DIM = 9, 200, 8


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    texts = functional.normalize(torch.randn(CLASSES, DIM, generator=generator), dim=1)
    class_ids = torch.randint(0, CLASSES - 2, (CROPS,), generator=generator)  # the last two classes have no crop
    images = functional.normalize(texts[class_ids] + 0.5 * torch.randn(CROPS, DIM, generator=generator), dim=1)
    return images, texts, class_ids


def plain(images, texts, class_ids, members):
    """Compute the figures crop by crop."""
    right, among_five, per_class = [], [], {}
    for image, truth in zip(images.numpy(), class_ids.tolist(), strict=True):
        order = np.argsort(-(texts.numpy() @ image)).tolist()
        right.append(order[0] == truth)
        among_five.append(truth in order[:5])
        per_class.setdefault(truth, []).append(order[0] == truth)
    means = [np.mean(per_class[index]) for index in members if index in per_class]
    return np.mean(right), np.mean(among_five), np.mean(means)


def test_figures_are_those_of_their_definitions(case):
    counts = ZeroShotCounts.none(CLASSES)
    counts.add(*case)
    values = counts.accuracies({"seen": [0, 2, 8], "unseen": [1, 7]})
    top1, top5, macro = plain(*case, range(CLASSES))
    assert values == pytest.approx(
        {
            "top1": top1,
            "top5": top5,
            "macro": macro,
            "macro_seen": plain(*case, [0, 2, 8])[2],
            "macro_unseen": plain(*case, [1, 7])[2],
        }
    )
    assert 0.3 < top1 < 0.95 < top5 < 1


def test_counts_of_parts_add_up(case):
    images, texts, class_ids = case
    whole, added = ZeroShotCounts.none(CLASSES), torch.zeros(3, CLASSES, dtype=torch.float64)
    whole.add(images, texts, class_ids)
    for rows in (slice(0, 0), slice(0, 77), slice(77, CROPS)):
        part = ZeroShotCounts.none(CLASSES)
        part.add(images[rows], texts, class_ids[rows])
        added += part.stacked()
    assert torch.equal(whole.stacked(), added)
    assert ZeroShotCounts.from_stacked(added).accuracies({}) == whole.accuracies({})


def test_no_crop_and_fewer_than_five_classes_are_no_fault():
    counts = ZeroShotCounts.none(2)
    assert counts.accuracies({"seen": [0]}) == {"top1": 0, "top5": 0, "macro": 0, "macro_seen": 0}
    counts.add(torch.eye(2), torch.eye(2), torch.tensor([0, 0]))
    assert counts.accuracies({}) == {"top1": 0.5, "top5": 1, "macro": 0.5}
