"""How far a metric would move with other images: the bootstrap over images, and its paired form for two models.

A resampling draws as many images as there are, with replacement. It is a weight per image, so the counts of resamplings
are one matrix product, which is exact for whole numbers below 2^53.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from ovseg_models.segmentation_metrics import METRICS, ClassCounts, class_iou, metrics_of

_ROUNDS_AT_ONCE = 100

Verdict = Literal["better", "worse", "cannot tell"]


@dataclass(frozen=True)
class Interval:
    """Where 95 % of the resamplings lie; NaN where the metric is.

    Attributes:
        low: 2.5th percentile.
        high: 97.5th percentile.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Bootstrapped:
    """The intervals of one model.

    Attributes:
        metrics: Per name in `METRICS`.
        class_iou: Low and high of each class [2 class]; of the resamplings in which it occurs, NaN if there are none.
    """

    metrics: dict[str, Interval]
    class_iou: Float64[np.ndarray, "2 class"]


@dataclass(frozen=True)
class Difference:
    """How the second of two models compares with the first in one metric.

    Attributes:
        first: The first model's value on all images.
        second: The second's.
        interval: Of second minus first, over resamplings that both models share.
    """

    first: float
    second: float
    interval: Interval

    @property
    def verdict(self) -> Verdict:
        """Whether the second is better: only if the whole interval says so."""
        if self.interval.low > 0:
            return "better"
        return "worse" if self.interval.high < 0 else "cannot tell"


def bootstrap(counts: ClassCounts, marks: Sequence[str], *, rounds: int, seed: int = 0) -> Bootstrapped:
    """Compute 95 % intervals.

    Args:
        counts: Per image and class [image class].
        marks: As `metrics_of` takes them.
        seed: Decides which; the result doesn't depend on anything else.

    Raises:
        ValueError: If there is no image, or no round.
    """
    resampled = [(metrics_of(some, marks), class_iou(some)) for some in _resampled(counts, rounds, seed)]
    metrics = {name: interval_of(np.concatenate([found[name] for found, _ in resampled])) for name in METRICS}
    return Bootstrapped(metrics=metrics, class_iou=_percentiles(np.concatenate([iou for _, iou in resampled])))


def compare(
    first: ClassCounts, second: ClassCounts, marks: Sequence[str], *, rounds: int, seed: int = 0
) -> dict[str, Difference]:
    """Compare two models on the same images: each resampling is given to both.

    Args:
        first: Per image and class [image class].
        second: Of the same images in the same order.
        marks: As `metrics_of` takes them.
        seed: Decides which.

    Returns:
        Per name in `METRICS`.

    Raises:
        ValueError: If there is no image or no round, or the models' counts differ in shape.
    """
    _check_shapes(first, second)
    whole_first, whole_second = (metrics_of(counts.summed(), marks) for counts in (first, second))
    differences: dict[str, list[npt.NDArray[np.float64]]] = {name: [] for name in METRICS}
    for one, other in zip(_resampled(first, rounds, seed), _resampled(second, rounds, seed), strict=True):
        found_one, found_other = metrics_of(one, marks), metrics_of(other, marks)
        for name, parts in differences.items():
            parts.append(found_other[name] - found_one[name])
    return {
        name: Difference(
            float(whole_first[name]), float(whole_second[name]), interval_of(np.concatenate(differences[name]))
        )
        for name in METRICS
    }


def compare_classes(first: ClassCounts, second: ClassCounts, *, rounds: int, seed: int = 0) -> list[Difference]:
    """Compare the IoU of each class, with the resamplings that `compare` draws for the same seed.

    Args:
        first: Per image and class [image class].
        second: Of the same images in the same order.
        seed: Decides which.

    Returns:
        By class index. A class that occurs in one model's counts alone, or in none, has a value or none; its interval
        is over the resamplings in which both models have a value, NaN if there are none.

    Raises:
        ValueError: If there is no image or no round, or the models' counts differ in shape.
    """
    _check_shapes(first, second)
    changes = [
        class_iou(other) - class_iou(one)
        for one, other in zip(_resampled(first, rounds, seed), _resampled(second, rounds, seed), strict=True)
    ]
    low, high = _percentiles(np.concatenate(changes))
    values = zip(class_iou(first.summed()), class_iou(second.summed()), low, high, strict=True)
    return [Difference(float(a), float(b), Interval(float(low), float(high))) for a, b, low, high in values]


def interval_of(values: Float64[np.ndarray, "round"]) -> Interval:
    """Return where the middle 95 % of the values lie; NaN values are left out."""
    low, high = _percentiles(values[:, None])[:, 0]
    return Interval(float(low), float(high))


def _check_shapes(first: ClassCounts, second: ClassCounts) -> None:
    """Raise an error unless two models were counted on as many images and classes."""
    if first.true_px.shape != second.true_px.shape:
        raise ValueError(
            f"compare: counts are {first.true_px.shape} and {second.true_px.shape} [image class]; "
            "the same images and classes are expected for both models"
        )


def _resampled(counts: ClassCounts, rounds: int, seed: int) -> Iterator[ClassCounts]:
    """Yield the counts of resamplings [round class], some rounds at a time."""
    images = len(counts.true_px)
    if images == 0 or rounds < 1:
        raise ValueError(
            f"bootstrap: {images} images and {rounds} rounds, at least one of each is expected; score an image first"
        )
    parts = {name: np.asarray(array, np.float64) for name, array in vars(counts).items()}
    generator = np.random.default_rng(seed)
    for start in range(0, rounds, _ROUNDS_AT_ONCE):
        drawn = generator.integers(images, size=(min(_ROUNDS_AT_ONCE, rounds - start), images))
        weights = np.stack([np.bincount(row, minlength=images) for row in drawn]).astype(np.float64)
        yield ClassCounts(**{name: weights @ array for name, array in parts.items()})


def _percentiles(values: Float64[np.ndarray, "round column"]) -> Float64[np.ndarray, "2 column"]:
    """Return the 2.5th and 97.5th percentile of each column, NaN left out and given where nothing is left."""
    known = ~np.isnan(values)
    result = np.full((2, values.shape[1]), np.nan)
    whole = known.all(axis=0)
    if whole.any():
        result[:, whole] = np.percentile(values[:, whole], (2.5, 97.5), axis=0)
    for column in np.flatnonzero(known.any(axis=0) & ~whole):
        result[:, column] = np.percentile(values[known[:, column], column], (2.5, 97.5))
    return result
