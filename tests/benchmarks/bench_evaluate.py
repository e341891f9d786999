"""Confusion and boundaries of a 512 x 683 px image at 150 and 847 classes, beside plain forms: time, peak memory.

Run alone: ``python -m tests.benchmarks.bench_evaluate``; about two minutes. Each line compares two ways of doing one
thing in one run, in turns; times are CPU times of one thread. Peak memory is the process's beyond what it held before,
from Linux's /proc. The plain forms: a confusion matrix of all classes counted by index pairs; one mask per class,
eroded, for boundaries. Fusion has a benchmark of its own, ``bench_fusion``.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from ovseg_models.bootstrap import bootstrap
from ovseg_models.label_counts import boundary_map, boundary_radius_px, count_labels
from ovseg_models.segmentation_metrics import ClassCounts
from tests.benchmarks.bench_fusion import Cost, cost_of

SIZE = (512, 683)
IGNORE = 65535
REPEATS = 5


def label_maps(classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a label map of 25 classes in blobs and a prediction of 60, half of it right; some pixels are ignored."""
    generator = np.random.default_rng(0)
    field = ndimage.gaussian_filter(generator.random(SIZE), 14)
    ranks = np.searchsorted(np.quantile(field, np.linspace(0, 1, 26)[1:-1]), field)
    true = generator.integers(0, classes, 25).astype(np.uint16)[ranks]
    other = generator.integers(0, classes, 60).astype(np.uint16)[(ranks * 7 + np.indices(SIZE)[1] // 40) % 60]
    predicted = np.where(ndimage.gaussian_filter(generator.random(SIZE), 9) > 0.5, true, other)
    true[:40] = IGNORE
    return true, predicted


def plain_confusion(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count index pairs over all classes, as evaluators do."""
    labelled = true != IGNORE
    codes = true[labelled].astype(np.int64) * classes + predicted[labelled]
    return np.bincount(codes, minlength=classes**2).reshape(classes, classes)


def our_confusion(true: np.ndarray, predicted: np.ndarray, classes: int, radius_px: int) -> np.ndarray:
    """Count runs, then add the few classes that occur to the matrix of all."""
    counts = count_labels(true, predicted, class_count=classes, ignore_label=IGNORE, radius_px=radius_px)
    total[classes][np.ix_(counts.true_classes, counts.predicted_classes)] += counts.confusion
    return total[classes]


def plain_counts(true: np.ndarray, predicted: np.ndarray, classes: int, radius_px: int) -> np.ndarray:
    """Add a confusion matrix to the whole one; with boundaries, erode each class's mask in both maps."""
    total[classes] += plain_confusion(true, predicted, classes)
    if radius_px:
        edges = [plain_boundaries(true), plain_boundaries(predicted)]
        np.bincount(true[edges[0] & edges[1] & (true == predicted)], minlength=classes)
    return total[classes]


def plain_boundaries(true: np.ndarray) -> np.ndarray:
    """Erode a mask per class that occurs."""
    found = np.zeros(SIZE, bool)
    for index in np.unique(true):
        mask = true == index
        found |= mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=boundary_radius_px(*SIZE))
    return found


total = {classes: np.zeros((classes, classes), np.int64) for classes in (150, 847)}


def in_turns(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> tuple[list[Cost], list[Cost], Any, Any]:
    """Run two jobs in turns and return their costs and last results; the first turn only warms up."""
    costs: tuple[list[Cost], list[Cost]] = ([], [])
    results: list[Any] = [None, None]
    for turn in range(repeats + 1):
        for place, job in enumerate((first, second)):
            cost, results[place] = cost_of(job)
            if turn:
                costs[place].append(cost)
    return *costs, *results


def printed(name: str, ours: list[Cost], plain: list[Cost]) -> None:
    """Print medians of times, peaks of memory and the ratio."""
    times = [1000 * median(cost.seconds for cost in costs) for costs in (ours, plain)]
    peaks = [max(cost.peak_mib for cost in costs) for costs in (ours, plain)]
    ratio = median(p.seconds / max(o.seconds, 1e-6) for o, p in zip(ours, plain, strict=True))
    for way, ms, peak_mib in zip(("ours", "plain"), times, peaks, strict=True):
        print(f"{name}, {way:5}: {ms:8.1f} ms, peak {peak_mib:7.1f} MiB")
    print(f"{name}: the plain form takes {ratio:.2f} times as long")


def main() -> None:
    torch.set_num_threads(1)
    print(f"label maps of {SIZE[1]} x {SIZE[0]} px, one thread")
    for classes in (150, 847):
        true, predicted = label_maps(classes)
        for radius_px, name in ((0, "confusion"), (boundary_radius_px(*SIZE), "confusion and boundaries")):
            counted = in_turns(
                lambda t=true, p=predicted, k=classes, r=radius_px: our_confusion(t, p, k, r),
                lambda t=true, p=predicted, k=classes, r=radius_px: plain_counts(t, p, k, r),
                REPEATS,
            )
            printed(f"{classes} classes, {name}", counted[0], counted[1])
    true, _ = label_maps(847)
    radius = boundary_radius_px(*SIZE)
    edges = in_turns(lambda: boundary_map(true, radius), lambda: plain_boundaries(true), REPEATS)
    printed("boundaries of 25 classes", edges[0], edges[1])
    print(f"boundaries: {int((edges[2] != edges[3]).sum())} pixels differ")
    generator = np.random.default_rng(0)
    array = generator.integers(0, 900, (2000, 150))
    counts = ClassCounts(**dict.fromkeys(ClassCounts.__dataclass_fields__, array))
    start = time.process_time()
    bootstrap(counts, ["seen", "unseen"] * 75, rounds=1000)
    print(f"bootstrap of 2,000 images, 150 classes, 1,000 rounds: {time.process_time() - start:.1f} s")


if __name__ == "__main__":
    main()
