"""Ground-truth masks and perfect classifiers against loops over pixels."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.oracle import ground_truth_masks, labels_of_regions, oracle_scores, resized_labels

IGNORE = 255


def labels_of(seed: int, height: int, width: int, classes: int = 5) -> np.ndarray:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, (height, width)).astype(np.uint16)
    labels[generator.random(labels.shape) < 0.2] = IGNORE
    return labels


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_each_class_has_a_mask_and_each_mask_a_pixel(seed, height, width, out_height, out_width):
    labels = labels_of(seed, height, width)
    classes, masks = ground_truth_masks(labels, (out_height, out_width), IGNORE)
    assert classes.tolist() == sorted(set(labels.ravel().tolist()) - {IGNORE})
    assert masks.shape == (len(classes), out_height, out_width)
    assert masks.flatten(1).any(dim=1).all() or len(classes) == 0
    rows = np.arange(out_height) * height // out_height
    columns = np.arange(out_width) * width // out_width
    nearest = labels[rows][:, columns]
    for class_index, mask in zip(classes, masks.numpy(), strict=True):
        if (nearest == class_index).any():
            assert np.array_equal(mask, nearest == class_index)
        else:
            assert mask.sum() == 1


def test_at_its_own_size_nothing_is_lost():
    labels = labels_of(3, 7, 9)
    assert np.array_equal(resized_labels(labels, (7, 9)).numpy(), labels)


def test_a_proposal_takes_the_class_that_most_of_its_labelled_pixels_have():
    labels = torch.tensor([[0, 0, 1, 1], [2, 2, 2, IGNORE]])
    masks = torch.zeros(4, 2, 4, dtype=torch.bool)
    masks[0, 0] = True
    masks[0, 1, 1:] = True  # 0 0 1 1 2 2 ignored: the first of the most frequent
    masks[1, 1] = True
    masks[2, 1, 3] = True  # ignored alone
    scores = oracle_scores(masks, labels, 3, IGNORE)
    assert scores.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]]


def test_regions_take_the_name_that_clip_finds_likeliest():
    labels = np.array([[4, 4, 7], [7, IGNORE, 4]], np.uint16)
    logits = torch.tensor([[0.1, 0.9, 0.0], [0.0, 0.1, 0.5]])
    predicted = labels_of_regions(labels, np.array([4, 7]), logits)
    assert predicted.tolist() == [[1, 1, 2], [2, 0, 1]]
