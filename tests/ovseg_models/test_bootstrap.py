"""Resampling images against a plain loop, and what the paired form can and cannot tell."""

import math

import numpy as np
import pytest

from ovseg_models.bootstrap import Difference, Interval, bootstrap, compare, compare_classes, interval_of
from ovseg_models.segmentation_metrics import METRICS, ClassCounts, class_iou, metrics_of
from tests.ovseg_models.test_segmentation_metrics import FIELDS, marks_of

CLASSES, IMAGES = 6, 12


def image_counts(seed: int, share: float = 0.5) -> ClassCounts:
    """Draw counts [image class] of a model that finds about a share of each class's pixels."""
    generator = np.random.default_rng(seed)
    true = generator.integers(0, 50, (IMAGES, CLASSES)) * (generator.random((IMAGES, CLASSES)) < 0.6)
    ease = generator.uniform(0.4, 1.2, (IMAGES, 1))  # some images are harder than others
    intersection = np.floor(true * share * ease).astype(np.int64)
    predicted = intersection + generator.integers(0, 9, true.shape)
    return ClassCounts(**dict(zip(FIELDS, (true, predicted, intersection) * 2, strict=True)))


def taken(counts: ClassCounts, rows: np.ndarray) -> ClassCounts:
    return ClassCounts(**{name: array[rows] for name, array in vars(counts).items()}).summed()


def test_intervals_are_those_of_a_plain_loop():
    counts, rounds = image_counts(0), 150
    generator = np.random.default_rng(7)
    draws = np.concatenate([generator.integers(IMAGES, size=(n, IMAGES)) for n in (100, 50)])
    resampled = [taken(counts, rows) for rows in draws]
    metrics = [metrics_of(one, marks_of(CLASSES)) for one in resampled]
    found = bootstrap(counts, marks_of(CLASSES), rounds=rounds, seed=7)
    for name in METRICS:
        values = [float(one[name]) for one in metrics]
        low, high = np.percentile(values, (2.5, 97.5))
        assert (found.metrics[name].low, found.metrics[name].high) == pytest.approx((low, high), abs=1e-9)
    ious = np.stack([class_iou(one) for one in resampled])
    assert np.allclose(found.class_iou, np.nanpercentile(ious, (2.5, 97.5), axis=0))


def test_an_interval_covers_the_value_and_is_the_same_each_time():
    counts = image_counts(1)
    first, again = (bootstrap(counts, marks_of(CLASSES), rounds=200) for _ in range(2))
    assert first.metrics == again.metrics
    whole = metrics_of(counts.summed(), marks_of(CLASSES))
    assert first.metrics["miou"].low < whole["miou"] < first.metrics["miou"].high


def test_more_images_give_a_narrower_interval():
    few = image_counts(2)
    many = ClassCounts(**{name: np.tile(array, (9, 1)) for name, array in vars(few).items()})
    widths = [
        interval.high - interval.low
        for interval in (bootstrap(c, marks_of(CLASSES), rounds=300).metrics["miou"] for c in (few, many))
    ]
    assert widths[1] < 0.6 * widths[0]


def test_differences_of_classes_are_those_of_a_plain_loop():
    """A class that no image shows has no difference; one that is often left out has that of the other resamplings."""
    one, other = image_counts(4, 0.4), image_counts(4, 0.6)
    for counts in (one, other):
        for array in vars(counts).values():
            array[:, 5] = 0
            array[1:, 4] = 0
    generator = np.random.default_rng(7)
    draws = np.concatenate([generator.integers(IMAGES, size=(n, IMAGES)) for n in (100, 50)])
    changes = np.stack([class_iou(taken(other, rows)) - class_iou(taken(one, rows)) for rows in draws])
    found = compare_classes(one, other, rounds=150, seed=7)
    low, high = np.nanpercentile(changes[:, :5], (2.5, 97.5), axis=0)
    assert [difference.interval.low for difference in found[:5]] == pytest.approx(low.tolist(), abs=1e-9)
    assert [difference.interval.high for difference in found[:5]] == pytest.approx(high.tolist(), abs=1e-9)
    assert [difference.second for difference in found[:5]] == pytest.approx(class_iou(other.summed())[:5].tolist())
    assert math.isnan(found[5].first)
    assert found[5].verdict == "cannot tell"
    with pytest.raises(ValueError, match="the same images and classes are expected"):
        compare_classes(one, taken(other, np.arange(IMAGES)), rounds=1)


@pytest.mark.parametrize(("share", "verdict"), [(0.8, "better"), (0.2, "worse"), (0.5, "cannot tell")])
def test_verdicts_of_a_paired_comparison(share, verdict):
    first, second = image_counts(3), image_counts(3, share)
    difference = compare(first, second, marks_of(CLASSES), rounds=200)["miou"]
    assert difference.verdict == verdict
    back = compare(second, first, marks_of(CLASSES), rounds=200)["miou"]
    assert (back.interval.low, back.interval.high) == pytest.approx(
        (-difference.interval.high, -difference.interval.low)
    )


def test_pairing_sees_a_small_but_steady_gain_that_the_two_intervals_do_not():
    first, second = image_counts(4, 0.50), image_counts(4, 0.54)
    alone = [bootstrap(counts, marks_of(CLASSES), rounds=300).metrics["pacc"] for counts in (first, second)]
    steady = compare(first, second, marks_of(CLASSES), rounds=300)["pacc"]
    assert steady.interval.high - steady.interval.low < alone[0].high - alone[0].low
    assert steady.verdict == "better"


def test_nothing_can_be_told_of_what_does_not_exist():
    assert math.isnan(interval_of(np.array([math.nan])).low)
    assert Difference(math.nan, math.nan, Interval(math.nan, math.nan)).verdict == "cannot tell"


def test_wrong_arguments_are_refused():
    counts = image_counts(5)
    with pytest.raises(ValueError, match="0 images and 10 rounds, at least one of each is expected"):
        bootstrap(ClassCounts(**{name: array[:0] for name, array in vars(counts).items()}), marks_of(6), rounds=10)
    fewer = ClassCounts(**{name: array[1:] for name, array in vars(counts).items()})
    with pytest.raises(ValueError, match=r"counts are \(12, 6\) and \(11, 6\) .* the same images and classes"):
        compare(counts, fewer, marks_of(6), rounds=10)
