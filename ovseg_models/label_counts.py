"""What evaluation counts in one image: pixels per true and predicted class, and how well the borders of classes agree.

All is counted in whole pixels, so that sums over images are the same in any order, and no array has an axis over all
classes and all pixels.
"""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Int64, UInt16

BOUNDARY_SHARE = 0.02
_LENGTH_BITS = 30  # of a run; two classes and two marks take 34

LabelMap: TypeAlias = UInt16[np.ndarray, "height width"]
Counts: TypeAlias = Int64[np.ndarray, "occurring"]


@dataclass(frozen=True, kw_only=True)
class LabelCounts:
    """Counts of one image [px]. Ignored pixels are left out of all of them.

    Attributes:
        true_classes: Classes in the label map, ascending.
        predicted_classes: Classes in the prediction, ascending.
        confusion: Pixels of each of the former that were predicted as each of the latter.
        classes: Classes that occur in either map, ascending; the rows of what follows.
        true_px: Pixels of the class in the label map.
        predicted_px: Pixels of the class in the prediction.
        intersection_px: Pixels of the class in both.
        boundary_true_px: Pixels of the class's boundary in the label map; see `boundary_map`.
        boundary_predicted_px: Pixels of its boundary in the prediction.
        boundary_intersection_px: Pixels in both of these.
    """

    true_classes: Int64[np.ndarray, "true"]
    predicted_classes: Int64[np.ndarray, "predicted"]
    confusion: Int64[np.ndarray, "true predicted"]
    classes: Counts
    true_px: Counts
    predicted_px: Counts
    intersection_px: Counts
    boundary_true_px: Counts
    boundary_predicted_px: Counts
    boundary_intersection_px: Counts

    @property
    def labelled_px(self) -> int:
        """Pixels with a class."""
        return int(self.true_px.sum())

    @property
    def correct_px(self) -> int:
        """Those predicted rightly."""
        return int(self.intersection_px.sum())


def count_labels(
    true_map: LabelMap, predicted_map: LabelMap, *, class_count: int, ignore_label: int, radius_px: int | None = None
) -> LabelCounts:
    """Compare a prediction with the label map.

    Args:
        true_map: Class indices, or ``ignore_label``.
        predicted_map: Class indices, or ``ignore_label`` for no class: such pixels are missed. What it says of pixels
            that are ignored doesn't matter.
        class_count: Number of classes, at most 65,535.
        ignore_label: Value of pixels without a class.
        radius_px: Width of boundaries; by default that of `boundary_radius_px`. 0 leaves boundaries uncounted.

    Raises:
        ValueError: If the maps differ in size, or hold a value that is no class.
    """
    if true_map.shape != predicted_map.shape:
        raise ValueError(
            f"count_labels: the prediction is {predicted_map.shape} [height width], the label map {true_map.shape}; "
            "equal sizes are expected; predict at the image's own size"
        )
    predicted_map = np.where(true_map == ignore_label, np.uint16(ignore_label), predicted_map)
    radius = boundary_radius_px(*true_map.shape) if radius_px is None else radius_px
    kinds = _count_kinds(true_map, predicted_map, boundary_map(true_map, radius), boundary_map(predicted_map, radius))
    kinds = kinds.without(ignore_label)
    named = kinds.predicted != ignore_label
    _check("label map", kinds.true, class_count, ignore_label)
    _check("prediction", kinds.predicted[named], class_count, ignore_label)
    true_classes, rows = np.unique(kinds.true, return_inverse=True)
    predicted_classes, columns = np.unique(kinds.predicted[named], return_inverse=True)
    confusion = np.zeros((len(true_classes), len(predicted_classes)), np.int64)
    np.add.at(confusion, (rows[named], columns), kinds.pixels[named])
    classes = np.union1d(true_classes, predicted_classes)
    # Pixels without a predicted class are put in row 0, with a weight of none.
    true_row = np.searchsorted(classes, kinds.true)
    predicted_row = np.where(named, np.searchsorted(classes, kinds.predicted), 0)
    agreed = kinds.true == kinds.predicted

    def counted(row: npt.NDArray[np.int64], kept: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        counts = np.zeros(len(classes), np.int64)
        np.add.at(counts, row, kinds.pixels if kept is None else kinds.pixels * kept)
        return counts

    return LabelCounts(
        true_classes=true_classes,
        predicted_classes=predicted_classes,
        confusion=confusion,
        classes=classes,
        true_px=counted(true_row),
        predicted_px=counted(predicted_row, named),
        intersection_px=counted(true_row, agreed),
        boundary_true_px=counted(true_row, kinds.on_true_edge),
        boundary_predicted_px=counted(predicted_row, named & kinds.on_predicted_edge),
        boundary_intersection_px=counted(true_row, agreed & kinds.on_true_edge & kinds.on_predicted_edge),
    )


def boundary_radius_px(height_px: int, width_px: int) -> int:
    """Return the width of boundaries: 2 % of the image's diagonal, at least one pixel.

    References:
        Cheng et al., Boundary IoU, CVPR 2021.
    """
    return max(1, round(BOUNDARY_SHARE * float(np.hypot(height_px, width_px))))


def boundary_map(labels: LabelMap, radius_px: int) -> Bool[np.ndarray, "height width"]:
    """Find the pixels that lie on the boundary of their own class, for all classes at once.

    A pixel is inside if the square around it, ``radius_px`` to each side, lies in the image and holds one class only:
    if the square's least and greatest label are the same. That is what eroding each class's mask ``radius_px`` times
    by a 3 x 3 square gives, without a mask per class.

    Args:
        labels: Class indices; the ignore label counts as one more class.
        radius_px: Width of boundaries; at 0 there are none.
    """
    height, width = labels.shape
    if radius_px == 0:
        return np.zeros(labels.shape, np.bool_)
    boundary = np.ones(labels.shape, np.bool_)
    side = 2 * radius_px + 1
    if min(height, width) >= side:
        least, greatest = (
            _of_windows(_of_windows(labels, side, extreme).T, side, extreme).T for extreme in (np.minimum, np.maximum)
        )
        boundary[radius_px : height - radius_px, radius_px : width - radius_px] = least != greatest
    return boundary


def _of_windows(values: npt.NDArray[np.uint16], length: int, extreme: np.ufunc) -> npt.NDArray[np.uint16]:
    """Reduce each run of ``length`` rows to its extreme, doubling the rows that are covered in each step."""
    covered, found = 1, values
    while covered < length:
        step = min(covered, length - covered)
        found = extreme(found[:-step], found[step:])
        covered += step
    return np.ascontiguousarray(found)


@dataclass(frozen=True)
class _Kinds:
    """How many pixels there are of each kind [kind]: true class, predicted class, on the boundary of either or not."""

    true: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    on_true_edge: npt.NDArray[np.bool_]
    on_predicted_edge: npt.NDArray[np.bool_]
    pixels: npt.NDArray[np.int64]

    def without(self, ignore_label: int) -> "_Kinds":
        """Leave out the ignored pixels."""
        kept = self.true != ignore_label
        return _Kinds(**{name: values[kept] for name, values in vars(self).items()})


def _count_kinds(
    true_map: LabelMap,
    predicted_map: LabelMap,
    true_edge: Bool[np.ndarray, "height width"],
    predicted_edge: Bool[np.ndarray, "height width"],
) -> _Kinds:
    """Count the pixels of each kind.

    Label maps are flat: a line of pixels is a few runs of one kind each. Finding where the kind changes is one
    comparison per pixel; what is sorted after that are runs, each one number: its kind above its length.
    """
    codes = true_map.astype(np.uint64)
    for more, bits in ((predicted_map, 16), (true_edge, 1), (predicted_edge, 1)):
        codes <<= np.uint64(bits)
        codes |= more
    codes = codes.ravel()
    starts = np.concatenate(([0], np.flatnonzero(codes[1:] != codes[:-1]) + 1))[: len(codes)]
    lengths = np.diff(starts, append=len(codes)).astype(np.uint64)
    runs = np.sort((codes[starts] << np.uint64(_LENGTH_BITS)) | lengths)
    of_runs = runs >> np.uint64(_LENGTH_BITS)
    first = np.concatenate(([0], np.flatnonzero(of_runs[1:] != of_runs[:-1]) + 1))[: len(runs)]
    pixels = np.add.reduceat(runs & np.uint64(2**_LENGTH_BITS - 1), first) if len(runs) else runs
    kinds = of_runs[first]
    return _Kinds(
        true=(kinds >> np.uint64(18)).astype(np.int64),
        predicted=((kinds >> np.uint64(2)) & np.uint64(0xFFFF)).astype(np.int64),
        on_true_edge=(kinds & np.uint64(2)) > 0,
        on_predicted_edge=(kinds & np.uint64(1)) > 0,
        pixels=pixels.astype(np.int64),
    )


def _check(name: str, values: npt.NDArray[np.int64], class_count: int, ignore_label: int) -> None:
    """Refuse a value that is no class."""
    odd = values[values >= class_count]
    if len(odd):
        raise ValueError(
            f"count_labels: the {name} holds {odd[0]}, expected 0 to {class_count - 1} or {ignore_label} (ignored); "
            "use the vocabulary that it was made with"
        )
