"""Counts of an image against one mask per class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.label_counts import boundary_map, boundary_radius_px, count_labels
from tests.ovseg_models.naive_metrics import edge_of, naive_counts

IGNORE = 65535


def random_maps(seed: int, classes: int, size: tuple[int, int], flat: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Draw a label map with ignored pixels and a prediction that is right here and there; blocks of ``flat`` pixels."""
    generator = np.random.default_rng(seed)
    some = generator.integers(0, classes, 6)
    true_map = generator.choice(some, size).repeat(flat, 0).repeat(flat, 1).astype(np.uint16)
    other = generator.choice([*some, *generator.integers(0, classes, 3)], true_map.shape)
    predicted = np.where(generator.random(true_map.shape) < 0.5, true_map, other).astype(np.uint16)
    true_map[generator.random(true_map.shape) < 0.1] = IGNORE
    return true_map, predicted


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([1, 2, 19, 150, 847]),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(1, 4),
    st.integers(1, 3),
)
def test_counts_equal_those_of_a_mask_per_class(seed, classes, size, flat, radius):
    true_map, predicted = random_maps(seed, classes, size, flat)
    counts = count_labels(true_map, predicted, class_count=classes, ignore_label=IGNORE, radius_px=radius)
    expected = naive_counts([(true_map, predicted)], classes, IGNORE, radius)
    occurring = np.flatnonzero(expected["true_px"] + expected["predicted_px"])
    assert np.array_equal(counts.classes, occurring)
    for name, values in expected.items():
        assert np.array_equal(getattr(counts, name), values[occurring]), name
    labelled = true_map != IGNORE
    assert (counts.labelled_px, counts.correct_px) == (labelled.sum(), (labelled & (true_map == predicted)).sum())
    assert counts.confusion.sum() == labelled.sum()
    for row, true in enumerate(counts.true_classes):
        for column, other in enumerate(counts.predicted_classes):
            assert counts.confusion[row, column] == ((true_map == true) & (predicted == other)).sum()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 40), st.integers(1, 9))
def test_the_boundary_of_all_classes_at_once_is_that_of_each_mask(seed, height, width, radius):
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, (-(-height // 6), -(-width // 6))).repeat(6, 0).repeat(6, 1)[:height, :width]
    found = boundary_map(labels.astype(np.uint16), radius)
    for index in range(3):
        assert np.array_equal(found & (labels == index), edge_of(labels == index, radius))


def test_the_boundary_is_two_percent_of_the_diagonal_wide():
    assert [boundary_radius_px(*size) for size in ((300, 400), (512, 683), (1, 1), (10, 10))] == [10, 17, 1, 1]


def test_a_right_prediction_beside_ignored_pixels_has_the_right_boundary():
    true_map = np.zeros((20, 20), np.uint16)
    true_map[5:12, 5:12] = IGNORE
    counts = count_labels(true_map, np.zeros_like(true_map), class_count=2, ignore_label=IGNORE)
    assert counts.boundary_true_px == counts.boundary_predicted_px == counts.boundary_intersection_px
    assert counts.boundary_true_px[0] == 20 * 20 - 18 * 18 + 9 * 9 - 7 * 7


def test_boundaries_may_be_left_uncounted():
    true_map, predicted = random_maps(1, 19, (6, 7))
    counts = count_labels(true_map, predicted, class_count=19, ignore_label=IGNORE, radius_px=0)
    assert counts.boundary_true_px.sum() == counts.boundary_predicted_px.sum() == 0
    assert counts.labelled_px > 0


def test_an_image_without_a_labelled_pixel_counts_nothing():
    ignored = np.full((3, 4), 255, np.uint16)
    counts = count_labels(ignored, np.zeros_like(ignored), class_count=5, ignore_label=255)
    assert (counts.labelled_px, len(counts.classes), counts.confusion.shape) == (0, 0, (0, 0))


@pytest.mark.usefixtures("without_shape_checks")
def test_values_that_stand_for_no_class_and_maps_of_two_sizes_are_refused():
    good, odd = np.zeros((2, 3), np.uint16), np.full((2, 3), 7, np.uint16)
    with pytest.raises(ValueError, match=r"the label map holds 7, expected 0 to 4 or 255"):
        count_labels(odd, good, class_count=5, ignore_label=255)
    with pytest.raises(ValueError, match="the prediction holds 7"):
        count_labels(good, odd, class_count=5, ignore_label=255)
    with pytest.raises(ValueError, match=r"the prediction is \(3, 2\) .* predict at the image's own size"):
        count_labels(good, good.T.copy(), class_count=5, ignore_label=255)
