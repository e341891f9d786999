"""The twelve stuff nouns: endless textures that fill a region, each a pattern between two colours.

Patterns are functions of world units, so a larger picture shows the same texture drawn finer, not more of it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Float64, UInt8

from pipeline.drawn_world.colours import Hsv

WORLD_UNITS = 96
"""Side of every scene in world units; at the default size one unit is one pixel."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Some rows of a square picture's pixels and where they lie in the world.

    Attributes:
        units: Position of each pixel along a side of the picture [world units].
        rows: The rows that are meant; all columns are.
    """

    units: Float64[np.ndarray, " pixel"]
    rows: slice

    @classmethod
    def of_size(cls, size_px: int) -> "Grid":
        """Return the grid of all pixels of a picture."""
        return cls(np.arange(size_px, dtype=np.float64) * (WORLD_UNITS / size_px), slice(0, size_px))

    @property
    def size_px(self) -> int:
        """Side of the picture [px]."""
        return len(self.units)

    @property
    def px_per_unit(self) -> float:
        """Pixels per world unit, 1 at the default size."""
        return self.size_px / WORLD_UNITS


class StuffTexture(NamedTuple):
    """A pattern and the two colours that it lies between.

    Attributes:
        levels: 0 where the ground colour shows, 1 where the mark colour does.
        ground: Colour of level 0.
        mark: Colour of level 1.
    """

    levels: Float64[np.ndarray, "height width"]
    ground: Hsv
    mark: Hsv


def fraction(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return what is left of each value above the next lower integer; faster than ``values % 1``."""
    return values - np.floor(values)


def value_noise(
    rng: np.random.Generator, grid: Grid, pitch: float, pitch_y: float | None = None
) -> Float64[np.ndarray, "height width"]:
    """Interpolate between random values in 0..1 at the knots of a lattice.

    Args:
        rng: How many numbers are drawn depends on the pitches alone, not on the grid.
        grid: The pixels.
        pitch: Distance between knots [world units].
        pitch_y: The same downwards, if it differs.
    """
    columns, right = _knots_and_weights(grid.units, pitch)
    all_rows, all_below = _knots_and_weights(grid.units, pitch_y or pitch)
    knots = rng.random((int(all_rows[-1]) + 2, int(columns[-1]) + 2))
    rows, below = all_rows[grid.rows], all_below[grid.rows]
    if not (right.any() or below.any()):
        on_the_knots: Float64[np.ndarray, "height width"] = knots[rows][:, columns]
        return on_the_knots
    # Rows of the picture first, while there are few columns: most of the work is in the last step.
    upright = knots[rows] + (knots[rows + 1] - knots[rows]) * below[:, None]
    noise: Float64[np.ndarray, "height width"] = upright[:, columns]
    noise += (upright[:, columns + 1] - noise) * right
    return noise


def _knots_and_weights(
    units: Float64[np.ndarray, " pixel"], pitch: float
) -> tuple[np.ndarray, Float64[np.ndarray, " pixel"]]:
    """Find each pixel's lower knot and how far it lies towards the next one."""
    positions = units / pitch
    knots = np.floor(positions)
    return knots.astype(np.intp), positions - knots


def _grains(rng: np.random.Generator, grid: Grid) -> Float64[np.ndarray, "height width"]:
    """Draw noise as fine as a pixel of the default size."""
    return value_noise(rng, grid, 1.0)


class _Plane(NamedTuple):
    """Coordinates of the pixels [world units], from a random origin: no pattern begins at the picture's corner."""

    x: Float64[np.ndarray, "1 width"]
    y: Float64[np.ndarray, "height 1"]

    @classmethod
    def of(cls, rng: np.random.Generator, grid: Grid) -> "_Plane":
        """Lay the picture somewhere on the plane."""
        left, top = rng.uniform(0.0, 64.0, 2)
        return cls(grid.units[None, :] + left, grid.units[grid.rows, None] + top)


def _levels(pattern: Bool[np.ndarray, "height width"], strength: float = 1.0) -> Float64[np.ndarray, "height width"]:
    """Turn a yes-or-no pattern into levels."""
    levels: Float64[np.ndarray, "height width"] = pattern * strength
    return levels


def _sky(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    clouds = np.clip(value_noise(rng, grid, 40.0) * 1.6 - 0.5, 0.0, 1.0)
    blue = Hsv(0.58 + rng.uniform(-0.04, 0.04), rng.uniform(0.3, 0.6), rng.uniform(0.8, 1.0))
    return StuffTexture(clouds, blue, Hsv(0.6, rng.uniform(0.0, 0.15), 1.0))


def _water(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    swell = 0.4 * np.sin(plane.x / rng.uniform(7.0, 12.0)) + 0.9 * value_noise(rng, grid, 27.0)
    crests = fraction(plane.y / rng.uniform(8.2, 13.8) + swell) < 0.31
    deep = Hsv(0.56 + rng.uniform(-0.06, 0.06), rng.uniform(0.5, 0.8), rng.uniform(0.45, 0.75))
    return StuffTexture(_levels(crests, 0.7), deep, Hsv(0.55, 0.25, 0.95))


def _grass(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    blades = value_noise(rng, grid, 1.0, pitch_y=4.0) * 0.75
    green = Hsv(0.29 + rng.uniform(-0.05, 0.05), rng.uniform(0.5, 0.8), rng.uniform(0.35, 0.6))
    return StuffTexture(blades, green, Hsv(0.24, 0.6, 0.85))


def _road(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    lines = fraction(plane.y / rng.uniform(34.0, 44.0)) < 0.1
    dashes = fraction(plane.x / 22.0) < 0.55
    return StuffTexture(
        0.4 * _grains(rng, grid) + 0.6 * (lines & dashes), Hsv(0.0, 0.0, rng.uniform(0.3, 0.42)), Hsv(0.0, 0.0, 0.62)
    )


def _sand(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    dots = _grains(rng, grid) > 0.85
    yellow = Hsv(0.12 + rng.uniform(-0.02, 0.02), rng.uniform(0.3, 0.5), rng.uniform(0.8, 0.95))
    return StuffTexture(_levels(dots, 0.8), yellow, Hsv(0.08, 0.55, 0.55))


def _snow(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    drifts = np.clip(value_noise(rng, grid, 18.0) * 1.4 - 0.5, 0.0, 1.0)
    return StuffTexture(drifts, Hsv(0.6, rng.uniform(0.0, 0.08), 1.0), Hsv(0.6, 0.3, 0.75))


def _brick(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    height, width = rng.uniform(6.0, 8.0), rng.uniform(12.0, 16.0)
    rows = plane.y / height
    shifted = plane.x / width + 0.5 * np.floor(rows)
    mortar = (fraction(rows) < 1.3 / height) | (fraction(shifted) < 1.3 / width)
    red = Hsv(0.03 + rng.uniform(-0.03, 0.03), rng.uniform(0.45, 0.75), rng.uniform(0.5, 0.75))
    return StuffTexture(_levels(mortar), red, Hsv(0.1, 0.1, 0.8))


def _wall(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    pitch, radius = rng.uniform(9.0, 13.0), rng.uniform(2.0, 2.9)
    across, down = fraction(plane.x / pitch) - 0.5, fraction(plane.y / pitch) - 0.5
    dots = across * across + down * down < (radius / pitch) ** 2
    paper = Hsv(rng.random(), rng.uniform(0.12, 0.35), rng.uniform(0.7, 0.95))
    return StuffTexture(_levels(dots), paper, Hsv(rng.random(), 0.45, 0.6))


def _floor(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    width = rng.uniform(8.0, 12.0)
    gaps = fraction(plane.x / width) < 1.2 / width
    wood_grain = 0.35 * value_noise(rng, grid, 1.0, pitch_y=6.0)
    brown = Hsv(0.08 + rng.uniform(-0.02, 0.02), rng.uniform(0.45, 0.7), rng.uniform(0.5, 0.75))
    return StuffTexture(np.where(gaps, 0.9, wood_grain), brown, Hsv(0.07, 0.7, 0.3))


def _rock(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    facets = np.floor(value_noise(rng, grid, 11.5) * 4.0) / 3.0
    return StuffTexture(facets, Hsv(0.07, rng.uniform(0.05, 0.2), rng.uniform(0.35, 0.5)), Hsv(0.1, 0.1, 0.8))


def _field(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    furrows = fraction((plane.x + plane.y * rng.uniform(0.4, 0.8)) / rng.uniform(6.0, 9.0)) < 0.5
    straw = Hsv(0.14 + rng.uniform(-0.02, 0.03), rng.uniform(0.5, 0.8), rng.uniform(0.7, 0.9))
    return StuffTexture(_levels(furrows), straw, Hsv(0.09, 0.6, 0.4))


def _carpet(rng: np.random.Generator, grid: Grid) -> StuffTexture:
    plane = _Plane.of(rng, grid)
    pitch = 2.0 * rng.uniform(6.0, 9.0)
    checks = (fraction(plane.x / pitch) < 0.5) ^ (fraction(plane.y / pitch) < 0.5)
    dark = Hsv(rng.random(), rng.uniform(0.4, 0.8), rng.uniform(0.4, 0.7))
    return StuffTexture(_levels(checks), dark, Hsv(rng.random(), rng.uniform(0.2, 0.6), rng.uniform(0.6, 0.9)))


_TEXTURES: dict[str, Callable[[np.random.Generator, Grid], StuffTexture]] = {
    "sky": _sky,
    "water": _water,
    "grass": _grass,
    "road": _road,
    "sand": _sand,
    "snow": _snow,
    "brick": _brick,
    "wall": _wall,
    "floor": _floor,
    "rock": _rock,
    "field": _field,
    "carpet": _carpet,
}

STUFF_NOUNS = tuple(_TEXTURES)
"""In label order: stuff noun i has label i."""


class PaintedStuff(NamedTuple):
    """A texture ready for painting.

    Attributes:
        levels: 0 for the ground colour, 255 for the mark colour.
        ground: RGB, about 0..255, not clipped.
        mark: Likewise.
    """

    levels: UInt8[np.ndarray, "height width"]
    ground: Float[np.ndarray, "3"]
    mark: Float[np.ndarray, "3"]


def draw_stuff(noun: str, rng: np.random.Generator, grid: Grid) -> PaintedStuff:
    """Draw a texture on some rows of the picture, in colours of its own and under a light of its own."""
    texture = _TEXTURES[noun](rng, grid)
    tint, offset = rng.uniform(0.85, 1.15, 3), rng.normal(0.0, 6.0)
    levels = np.rint(texture.levels * 255.0).astype(np.uint8)
    ground, mark = (np.array(colour.rgb()) * tint + offset for colour in (texture.ground, texture.mark))
    return PaintedStuff(levels, ground, mark)
