"""What the parts of things are drawn with: thirteen shapes, and nine textures that carry a part's second colour.

Both are functions of the thing's own coordinates, u to the right and v downwards, a shape within -1..1, so they turn
and grow with it. Shapes use additions, products, quotients and square roots alone, which IEEE 754 rounds alike:
a pixel is inside on one machine if it is on another.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.drawn_world.stuff import fraction

Coordinate = npt.NDArray[np.float64]
"""Of each pixel: [height width]."""

Inside = npt.NDArray[np.bool_]
"""Whether each pixel lies in the shape: [height width]."""

_TINY = 1e-9

Marked = npt.NDArray[np.bool_]
"""Whether each pixel shows the second colour: [height width]."""

_GRAINS_PER_UNIT = 14.0
_GRAIN_TILE = 64
# Drawn once and repeated in both directions: a thing shows far less than the tile, at a place of its own.
_GRAINS: Marked = np.random.Generator(np.random.PCG64(0)).random((_GRAIN_TILE, _GRAIN_TILE)) < 0.38


def _disc(u: Coordinate, v: Coordinate) -> Inside:
    return u * u + v * v < 1.0


def _box(u: Coordinate, v: Coordinate) -> Inside:
    return (np.abs(u) < 1.0) & (np.abs(v) < 1.0)


def _triangle(u: Coordinate, v: Coordinate) -> Inside:
    """Point up."""
    return (np.abs(v) < 1.0) & (np.abs(u) < 0.5 * (v + 1.0))


def _hull(u: Coordinate, v: Coordinate) -> Inside:
    """Wide at the top, half as wide at the bottom."""
    return (np.abs(v) < 1.0) & (np.abs(u) < 0.74 - 0.26 * v)


def _ring(u: Coordinate, v: Coordinate) -> Inside:
    squared_radius = u * u + v * v
    return (squared_radius < 1.0) & (squared_radius > 0.42)


def _radius_and_cosine(u: Coordinate, v: Coordinate) -> tuple[Coordinate, Coordinate]:
    """Return the polar radius and the cosine of the angle from straight up."""
    radius = np.sqrt(u * u + v * v)
    return radius, -v / np.maximum(radius, _TINY)


def _star(u: Coordinate, v: Coordinate) -> Inside:
    """Five arms, one straight up."""
    radius, c = _radius_and_cosine(u, v)
    cosine_5 = c * (5.0 + c * c * (16.0 * c * c - 20.0))
    return radius < 0.62 + 0.38 * cosine_5


def _petals(u: Coordinate, v: Coordinate) -> Inside:
    """Six lobes."""
    radius, c = _radius_and_cosine(u, v)
    cosine_2 = 2.0 * c * c - 1.0
    return radius < 0.78 + 0.22 * cosine_2 * (4.0 * cosine_2 * cosine_2 - 3.0)


def _rays(u: Coordinate, v: Coordinate) -> Inside:
    """Ten spikes."""
    radius, c = _radius_and_cosine(u, v)
    cosine_5 = c * (5.0 + c * c * (16.0 * c * c - 20.0))
    return radius < 0.72 + 0.28 * (2.0 * cosine_5 * cosine_5 - 1.0)


def _cross(u: Coordinate, v: Coordinate) -> Inside:
    return _box(u, v) & ((np.abs(u) < 0.3) | (np.abs(v) < 0.3))


def _diamond(u: Coordinate, v: Coordinate) -> Inside:
    return np.abs(u) + np.abs(v) < 1.0


def _dome(u: Coordinate, v: Coordinate) -> Inside:
    """The upper half of an ellipse."""
    return (u * u + 0.25 * (v - 1.0) * (v - 1.0) < 1.0) & (v < 1.0)


def _moon(u: Coordinate, v: Coordinate) -> Inside:
    """A crescent, open to the right."""
    return (u * u + v * v < 1.0) & ((u - 0.55) * (u - 0.55) + v * v > 0.8)


def _wings(u: Coordinate, v: Coordinate) -> Inside:
    """A gull seen from afar: two arches that meet in the middle and taper outwards."""
    span = np.abs(u)
    arch = 0.55 - 4.4 * span * (1.0 - span)
    return (span < 1.0) & (np.abs(v - arch) < 0.45 - 0.3 * span)


SHAPES: dict[str, Callable[[Coordinate, Coordinate], Inside]] = {
    "disc": _disc,
    "box": _box,
    "triangle": _triangle,
    "hull": _hull,
    "ring": _ring,
    "star": _star,
    "petals": _petals,
    "rays": _rays,
    "cross": _cross,
    "diamond": _diamond,
    "dome": _dome,
    "moon": _moon,
    "wings": _wings,
}


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
