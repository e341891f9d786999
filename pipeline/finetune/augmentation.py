"""A random window of a crop, taken of picture and mask alike."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_TRIES = 10


class Window(NamedTuple):
    """A part of a crop: px, half-open.

    Attributes:
        left: First column.
        top: First line.
        right: One past the last column.
        bottom: One past the last line.
    """

    left: int
    top: int
    right: int
    bottom: int

    def of(self, pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """Cut the window out of an array [height width ...]."""
        return pixels[self.top : self.bottom, self.left : self.right]


@dataclass(frozen=True, slots=True)
class WindowAugmentation:
    """Draws windows as torchvision's RandomResizedCrop does of a crop that was squeezed to a square.

    The share of the crop's area is uniform, the logarithm of the window's aspect, in units of the crop's own, too. So a
    long crop stays whole as often as a square one, though its own aspect is far beyond ``max_aspect``.

    Attributes:
        min_scale: Smallest share of the area in the window, 0..1.
        max_aspect: Largest aspect in units of the crop's; the smallest is its inverse. At least 1.

    References:
        OVSeg's published script: scale 0.9 to 1 and aspect 3/4 to 4/3 of pictures that were saved as squares.
    """

    min_scale: float
    max_aspect: float

    def window(self, mask: npt.NDArray[np.bool_], rng: np.random.Generator) -> Window:
        """Draw a window that holds a pixel of the mask; the whole crop if ten tries find none that fits.

        Args:
            mask: True inside the region [height width].
            rng: Where chance comes from.
        """
        height, width = mask.shape
        for _ in range(_TRIES):
            area, log_aspect = rng.uniform(self.min_scale, 1), rng.uniform(-1, 1) * math.log(self.max_aspect)
            wide, high = math.sqrt(area * math.exp(log_aspect)), math.sqrt(area / math.exp(log_aspect))
            if wide > 1 or high > 1:
                continue
            columns, lines = max(1, round(wide * width)), max(1, round(high * height))
            left, top = int(rng.integers(width - columns + 1)), int(rng.integers(height - lines + 1))
            window = Window(left, top, left + columns, top + lines)
            if window.of(mask).any():
                return window
        return Window(0, 0, width, height)
