"""Which stuff a scene shows, which things it holds and where they stand: the contexts of the drawn world.

All positions are in world units (a scene is 96 x 96), so they hold for any picture size.

**Balance.** Every thing noun is as frequent as every other, although sky is common and carpet is rare. Think of a
table of all pairs (thing, ground) where the ground holds a home of the thing. Each thing has the same mass, spread
evenly over its grounds. A scene draws its ground by the column sums, and each thing at home by that column: summed over
grounds, every thing noun comes out with its own mass, the same for all. Things that are not at home are drawn evenly
from all. The noun comes first, then a place for it; never a place and then a noun that suits it.
"""

import bisect
import itertools
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from pipeline.drawn_world.stuff import STUFF_NOUNS, WORLD_UNITS
from pipeline.drawn_world.things import THING_NOUNS, THINGS

ENVIRONMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sea": (("sky", "water"), ("sky", "water", "sand"), ("rock", "water")),
    "beach": (("sky", "sand"), ("rock", "sand"), ("water", "sand")),
    "meadow": (("sky", "field"), ("rock", "grass"), ("rock", "field"), ("sky", "grass", "field"), ("grass", "field")),
    "street": (("sky", "road"), ("grass", "road"), ("brick", "road")),
    "room": (("wall", "floor"), ("wall", "carpet"), ("wall", "floor", "carpet"), ("brick", "floor", "carpet")),
    "snowland": (("sky", "snow"), ("sky", "rock", "snow"), ("rock", "snow")),
}
"""Per environment its grounds: bands of stuff from top to bottom."""

GROUNDS = tuple(ground for grounds in ENVIRONMENTS.values() for ground in grounds)

_FOREIGN_BAND_SHARE = 0.12
_MARGIN = 9.0
_MIN_BAND = 9.0
_CENTRE = WORLD_UNITS / 2.0


class Placing(NamedTuple):
    """A thing that is going to be drawn.

    Attributes:
        noun: What it is.
        at_home: Whether it was placed on its home stuff on purpose.
        x: Centre [world units].
        y: Centre [world units].
        stuff: The noun of the stuff under its centre.
    """

    noun: str
    at_home: bool
    x: float
    y: float
    stuff: str


class _GroundTable(NamedTuple):
    """The table of things and grounds, as cumulated shares.

    Attributes:
        grounds: Cumulated probability of each ground.
        homely: Per ground the things that can be at home there.
        things: Per ground the cumulated probability of each of those.
    """

    grounds: list[float]
    homely: list[tuple[str, ...]]
    things: list[list[float]]


def _ground_table() -> _GroundTable:
    """Spread each thing's mass of 1 over its grounds and sum up."""
    hosts = {noun: sum(not set(THINGS[noun].home).isdisjoint(ground) for ground in GROUNDS) for noun in THING_NOUNS}
    homely = [
        tuple(noun for noun in THING_NOUNS if not set(THINGS[noun].home).isdisjoint(ground)) for ground in GROUNDS
    ]
    masses = [[1.0 / hosts[noun] for noun in nouns] for nouns in homely]
    ground_masses = [sum(mass) for mass in masses]
    return _GroundTable(_cumulated(ground_masses), homely, [_cumulated(mass) if mass else [] for mass in masses])


def _cumulated(masses: list[float]) -> list[float]:
    total = sum(masses)
    return [mass / total for mass in itertools.accumulate(masses)]


_TABLE = _ground_table()


def _pick(rng: np.random.Generator, cumulated: list[float]) -> int:
    """Draw an index by cumulated probabilities."""
    return min(bisect.bisect_right(cumulated, rng.random()), len(cumulated) - 1)


@dataclass(frozen=True, slots=True)
class Layout:
    """Bands of stuff, one above the other, with wavy edges between them.

    Attributes:
        bands: Stuff nouns from top to bottom, without repeats.
        heights: Height of each edge in the middle of the picture [world units].
        slopes: Fall of each edge per world unit to the right.
        waves: Amplitude [world units], angular frequency [1 / world units] and phase of each edge.
    """

    bands: tuple[str, ...]
    heights: tuple[float, ...]
    slopes: tuple[float, ...]
    waves: tuple[tuple[float, float, float], ...]

    def edges(self, x: Float64[np.ndarray, " place"]) -> Float64[np.ndarray, "edge place"]:
        """Return how far down each edge lies at each x; edges never come closer than a minimum [world units]."""
        edges = np.empty((len(self.heights), len(x)))
        for row, (height, slope, (amplitude, frequency, phase)) in enumerate(
            zip(self.heights, self.slopes, self.waves, strict=True)
        ):
            edges[row] = height + slope * (x - _CENTRE) + amplitude * np.sin(frequency * x + phase)
            if row:
                np.maximum(edges[row], edges[row - 1] + _MIN_BAND, out=edges[row])
        return edges

    def band_at(self, x: float, y: float) -> int:
        """Return the index of the band in which a point lies."""
        return int((self.edges(np.array([x]))[:, 0] < y).sum())

    def point_in(self, band: int, rng: np.random.Generator) -> tuple[float, float]:
        """Draw a point of a band, away from the picture's border [world units]."""
        x = rng.uniform(_MARGIN, WORLD_UNITS - _MARGIN)
        limits = [0.0, *self.edges(np.array([x]))[:, 0].tolist(), float(WORLD_UNITS)]
        upper, lower = limits[band], limits[band + 1]
        # Evenly over what is left of the band between the margins, at least a point at its border.
        top, bottom = max(upper, min(_MARGIN, lower)), min(lower, max(WORLD_UNITS - _MARGIN, upper))
        return x, rng.uniform(top, bottom)


def draw_layout(rng: np.random.Generator, bands: tuple[str, ...]) -> Layout:
    """Draw the edges between given bands; each band is visible at every x."""
    relative = (rng.uniform(0.3, 0.7),) if len(bands) == 2 else (rng.uniform(0.22, 0.4), rng.uniform(0.58, 0.78))
    edges = range(len(bands) - 1)
    return Layout(
        bands,
        heights=tuple(WORLD_UNITS * height for height in relative),
        slopes=tuple(rng.uniform(-0.12, 0.12) for _ in edges),
        waves=tuple((rng.uniform(0.0, 4.5), 1.0 / rng.uniform(6.0, 20.0), rng.uniform(0.0, 6.28)) for _ in edges),
    )


def draw_scene_plan(rng: np.random.Generator, context: float) -> tuple[Layout, list[Placing]]:
    """Draw the bands of a scene and the things in it, 1 to 5, most of them at home.

    Args:
        rng: Where chance comes from.
        context: Share of things placed on their home stuff; the others stand anywhere.
    """
    number = _pick(rng, _TABLE.grounds)
    ground = GROUNDS[number]
    nouns_and_homes: list[tuple[str, str | None]] = []
    for _ in range(1 + min(4, int(rng.poisson(1.6)))):
        if rng.random() < context:
            noun = _TABLE.homely[number][_pick(rng, _TABLE.things[number])]
            nouns_and_homes.append((noun, _home_in(ground, noun, rng)))
        else:
            nouns_and_homes.append((THING_NOUNS[rng.integers(len(THING_NOUNS))], None))
    needed = {home for _, home in nouns_and_homes if home is not None}
    layout = draw_layout(rng, _with_foreign_band(ground, needed, rng))
    return layout, [_place(noun, home, layout, rng) for noun, home in nouns_and_homes]


def draw_single_plan(rng: np.random.Generator, noun: str, *, at_home: bool) -> tuple[Layout, list[Placing]]:
    """Draw the bands of a picture of one thing, which stands on its home stuff, or where none of it is in sight."""
    hosts = [ground for ground in GROUNDS if set(THINGS[noun].home).isdisjoint(ground) != at_home]
    ground = hosts[rng.integers(len(hosts))]
    home = _home_in(ground, noun, rng) if at_home else None
    layout = draw_layout(rng, ground)
    return layout, [_place(noun, home, layout, rng)]


def _home_in(ground: tuple[str, ...], noun: str, rng: np.random.Generator) -> str:
    """Choose one of a thing's home stuffs that a ground has."""
    homes = [stuff for stuff in THINGS[noun].home if stuff in ground]
    return homes[rng.integers(len(homes))]


def _with_foreign_band(ground: tuple[str, ...], needed: set[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Now and then put any other stuff in place of a band on which no thing is to be at home."""
    free = [band for band, stuff in enumerate(ground) if stuff not in needed]
    if not free or rng.random() >= _FOREIGN_BAND_SHARE:
        return ground
    band = free[rng.integers(len(free))]
    others = [stuff for stuff in STUFF_NOUNS if stuff not in ground]
    return (*ground[:band], others[rng.integers(len(others))], *ground[band + 1 :])


def _place(noun: str, home: str | None, layout: Layout, rng: np.random.Generator) -> Placing:
    """Find a place for a thing: on a band of its home stuff, or anywhere."""
    if home is not None:
        x, y = layout.point_in(layout.bands.index(home), rng)
        return Placing(noun, at_home=True, x=x, y=y, stuff=home)
    x, y = (float(place) for place in rng.uniform(_MARGIN, WORLD_UNITS - _MARGIN, 2))
    return Placing(noun, at_home=False, x=x, y=y, stuff=layout.bands[layout.band_at(x, y)])
