"""Outlines of masks along pixel edges, and all outlines of a mask as one polygon, for formats that know no holes."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Loop = npt.NDArray[np.float64]
"""Corners (x, y) of a closed outline, at pixel edges; px, the first corner is not repeated [corner 2]."""


def outlines(mask: npt.NDArray[np.bool_]) -> list[list[Loop]]:
    """Trace a mask exactly: per part its outer outline, then those of its holes.

    Args:
        mask: True inside [height width].
    """
    from contourpy import FillType, contour_generator

    padded = np.pad(mask, 1).astype(np.float64)
    generator = contour_generator(z=padded, fill_type=FillType.OuterOffset)
    found: Any = generator.filled(0.5, np.inf)  # one of several forms, by the type of fill
    points, offsets = found
    parts = []
    for of_part, starts in zip(points, offsets, strict=True):
        loops = [of_part[start:end] for start, end in pairwise(starts.tolist())]
        parts.append([_corners(loop) for loop in loops])
    return parts


def _corners(loop: npt.NDArray[np.float64]) -> Loop:
    """Turn a line through the middles of pixel edges, whose last point is its first, into the corners between edges.

    Of two edges that follow each other, one upright and one level, the corner has the x of the first and the y of the
    other; between two edges of a kind is no corner.
    """
    middles = loop[:-1]
    after = np.roll(middles, -1, axis=0)
    upright = middles[:, 0] % 1 == 0.5  # between a pixel and its neighbour at the side
    turns = upright != (after[:, 0] % 1 == 0.5)
    x = np.where(upright, middles[:, 0], after[:, 0])
    y = np.where(upright, after[:, 1], middles[:, 1])
    # pixel 0 of the mask is 1 of the padded one, and its left edge half a pixel before its middle
    corners: Loop = np.stack([x, y], axis=1)[turns] - 0.5
    return corners


def joined(loops: Sequence[Loop]) -> Loop:
    """Join outlines into one polygon by bridges of no width, each from the nearest corner of those joined before.

    An outline is entered and left at the same corner, and the bridge crossed twice: it has no inside.

    Args:
        loops: At least one.
    """
    whole, *others = loops
    for loop in others:
        distances, at = map(np.asarray, cKDTree(whole).query(loop))
        entry = int(distances.argmin())
        around = np.concatenate([loop[entry:], loop[: entry + 1]])
        whole = np.concatenate([whole[: at[entry] + 1], around, whole[at[entry] :]])
    return whole
