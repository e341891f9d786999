"""Metrics against their plain definitions, and their sums in any order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.label_counts import LabelCounts, count_labels
from ovseg_models.segmentation_metrics import (
    METRICS,
    ClassCounts,
    class_accuracy,
    class_boundary_iou,
    class_iou,
    metrics_of,
    top_confusions,
)
from tests.ovseg_models.naive_metrics import naive_metrics
from tests.ovseg_models.test_label_counts import IGNORE, random_maps

FIELDS = tuple(ClassCounts.__dataclass_fields__)


def dense(counts: list[LabelCounts], classes: int) -> ClassCounts:
    """Put the counts of images into arrays [image class]."""
    arrays = {name: np.zeros((len(counts), classes), np.int64) for name in FIELDS}
    for row, one in enumerate(counts):
        for name in FIELDS:
            arrays[name][row, one.classes] = getattr(one, name)
    return ClassCounts(**arrays)


def marks_of(classes: int) -> list[str]:
    return [("seen", "unseen", "uncertain")[index % 3] for index in range(classes)]


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([1, 3, 19, 847]), st.integers(1, 6))
def test_metrics_equal_naive_definitions_however_the_images_are_split_and_ordered(data, classes, images):
    pairs = [random_maps(data.draw(st.integers(0, 9999)), classes, (7, 5), flat=2) for _ in range(images)]
    order = data.draw(st.permutations(range(images)))
    cut = data.draw(st.integers(0, images))
    counts = [
        count_labels(true, predicted, class_count=classes, ignore_label=IGNORE, radius_px=1)
        for true, predicted in pairs
    ]
    parts = [[counts[index] for index in order[:cut]], [counts[index] for index in order[cut:]]]
    sums = [dense(part, classes).summed() for part in parts]
    merged = ClassCounts(**{name: getattr(sums[0], name) + getattr(sums[1], name) for name in FIELDS})
    found = metrics_of(merged, marks_of(classes))
    assert tuple(found) == METRICS
    for name, expected in naive_metrics(pairs, classes, IGNORE, marks_of(classes)).items():
        assert float(found[name]) == pytest.approx(expected, abs=1e-9, nan_ok=True), name
    once = metrics_of(dense(counts, classes).summed(), marks_of(classes))
    assert all(np.array_equal(found[name], once[name], equal_nan=True) for name in METRICS)


def test_a_class_predicted_but_absent_costs_only_the_reference_denominator():
    true_map = np.array([[0, 0, 1, 1]], np.uint16)
    predicted = np.array([[0, 0, 1, 2]], np.uint16)
    counts = dense([count_labels(true_map, predicted, class_count=4, ignore_label=255)], 4).summed()
    found = metrics_of(counts, ["seen", "seen", "unseen", "unseen"])
    assert class_iou(counts).tolist() == pytest.approx([1, 0.5, 0, math.nan], nan_ok=True)
    assert class_accuracy(counts).tolist() == pytest.approx([1, 0.5, math.nan, math.nan], nan_ok=True)
    assert float(found["miou"]) == pytest.approx(1.5 / 3)
    assert float(found["miou_present"]) == pytest.approx(1.5 / 2)
    assert math.isnan(found["unseen_miou_present"])
    assert float(found["unseen_miou"]) == 0 == float(found["harmonic_miou"])
    assert class_boundary_iou(counts).tolist() == pytest.approx([1, 0.5, 0, math.nan], nan_ok=True)


def test_leading_axes_are_rounds():
    pairs = [random_maps(seed, 19, (6, 6)) for seed in range(3)]
    each = dense([count_labels(*pair, class_count=19, ignore_label=IGNORE) for pair in pairs], 19)
    together = metrics_of(each, marks_of(19))
    for row in range(3):
        alone = metrics_of(ClassCounts(**{name: getattr(each, name)[row] for name in FIELDS}), marks_of(19))
        for name in METRICS:
            assert together[name][row] == pytest.approx(alone[name], abs=1e-12, nan_ok=True)


def test_confusions_are_listed_by_size():
    confusion = np.array([[9, 2, 0], [5, 9, 2], [0, 1, 0]])
    assert top_confusions(confusion, 3) == [(1, 0, 5), (0, 1, 2), (1, 2, 2)]
    assert top_confusions(confusion, 9)[-1] == (2, 1, 1)


def test_marks_must_fit():
    counts = dense([count_labels(*random_maps(0, 5, (3, 3)), class_count=5, ignore_label=IGNORE)], 5).summed()
    with pytest.raises(ValueError, match="2 marks for 5 classes; give one mark per class"):
        metrics_of(counts, ["seen", "seen"])
