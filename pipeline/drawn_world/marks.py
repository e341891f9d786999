"""The nine textures of things: which points of a part carry its second colour.

They are functions of the thing's own coordinates, so they turn and grow with it.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.drawn_world.shapes import Coordinate
from pipeline.drawn_world.stuff import fraction

Marked = npt.NDArray[np.bool_]
"""Whether each pixel shows the second colour: [height width]."""

_GRAINS_PER_UNIT = 14.0
_GRAIN_TILE = 64
# Drawn once and repeated in both directions: a thing shows far less than the tile, at a place of its own.
_GRAINS: Marked = np.random.Generator(np.random.PCG64(0)).random((_GRAIN_TILE, _GRAIN_TILE)) < 0.38


class MarkStyle(NamedTuple):
    """What differs between two things with the same texture.

    Attributes:
        frequency: Stripes, dots or checks per unit of the thing's coordinates.
        first_grain: Row and column of the grain at the centre of speckles.
    """

    frequency: float
    first_grain: tuple[int, int]

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "MarkStyle":
        """Draw a style."""
        row, column = rng.integers(_GRAIN_TILE, size=2).tolist()
        return cls(rng.uniform(1.6, 2.6), (row, column))


def _stripes(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    """Lying stripes."""
    return fraction(v * style.frequency + 0.25) < 0.5


def _bars(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    """Upright stripes."""
    return fraction(u * style.frequency + 0.25) < 0.5


def _slants(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    return fraction((u + v) * (0.8 * style.frequency)) < 0.5


def _checks(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    frequency = 0.55 * style.frequency
    return (fraction(u * frequency) < 0.5) ^ (fraction(v * frequency) < 0.5)


def _dots(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    across, down = fraction(u * style.frequency) - 0.5, fraction(v * style.frequency) - 0.5
    return across * across + down * down < 0.09


def _rings(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    return fraction(np.sqrt(u * u + v * v) * (1.2 * style.frequency)) < 0.5


def _speckle(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    row = np.floor(v * _GRAINS_PER_UNIT).astype(np.intp) + style.first_grain[0]
    column = np.floor(u * _GRAINS_PER_UNIT).astype(np.intp) + style.first_grain[1]
    return _GRAINS[row % _GRAIN_TILE, column % _GRAIN_TILE]


def _bricks(u: Coordinate, v: Coordinate, style: MarkStyle) -> Marked:
    """The joints between bricks."""
    rows = v * (1.2 * style.frequency)
    return (fraction(rows) < 0.25) | (fraction(u * style.frequency + 0.5 * np.floor(rows)) < 0.2)


MARKS: dict[str, Callable[[Coordinate, Coordinate, MarkStyle], Marked]] = {
    "stripes": _stripes,
    "bars": _bars,
    "slants": _slants,
    "checks": _checks,
    "dots": _dots,
    "rings": _rings,
    "speckle": _speckle,
    "bricks": _bricks,
}
"""The ninth texture, plain, has no marks: a part without a second colour."""
