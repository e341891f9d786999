"""Painting a scene by numbers.

Every pixel gets one number that says which part of which thing (or which band of stuff) it shows and how far it lies
between that part's two colours. The picture, the label map and the instance map are three look-ups of the same numbers,
so they cannot disagree.
"""

import math
from dataclasses import dataclass, field, replace
from functools import reduce
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int, Int16, UInt8, UInt16

from pipeline.drawn_world.captions import DrawnCaption
from pipeline.drawn_world.colours import Hsv, draw_hue
from pipeline.drawn_world.layout import Layout, Placing
from pipeline.drawn_world.shapes import MARKS, SHAPES, Coordinate, MarkStyle
from pipeline.drawn_world.stuff import WORLD_UNITS, Grid, draw_stuff
from pipeline.drawn_world.things import CONTRAST, OWN, THINGS, Colour, Part, Thing
from pipeline.drawn_world.words import LABELS

MIN_VISIBLE_SHARE = 0.005
"""A thing of which less than this share of the picture would be visible is not drawn (46 px at the default size)."""

_LEVELS = 256  # a byte of each number
_PLAIN = np.zeros((1, 1), dtype=np.uint16)
_NOISE = NormalDist(0.0, 5.0)  # of the camera [grey levels]
# Its quantiles at the middles of 256 equal steps of probability.
_NOISE_OF_BYTE = np.array([round(_NOISE.inv_cdf((step + 0.5) / 256)) for step in range(256)], dtype=np.int16)
_STEPS = (np.arange(_LEVELS) / (_LEVELS - 1))[:, None]


@dataclass(frozen=True, slots=True)
class DrawnThing:
    """A thing in a scene.

    Attributes:
        noun: What it is.
        hue: Name of its own colour's hue; None if its colours are fixed.
        instance: Its number in the instance map, from 1 in order of depth, 1 in front.
        box_xyxy: Half-open box around its visible pixels [px].
        visible_px: Number of visible pixels.
        at_home: Whether it was placed on its home stuff on purpose.
        stuff: Noun of the stuff on which its centre lies.
    """

    noun: str
    hue: str | None
    instance: int
    box_xyxy: tuple[int, int, int, int]
    visible_px: int
    at_home: bool
    stuff: str


@dataclass(frozen=True, slots=True)
class DrawnScene:
    """A picture and the whole truth about it.

    Attributes:
        image: RGB.
        label_map: Index into ``words.NOUNS`` of each pixel; the ignore label 255 never occurs.
        instance_map: Number of the thing at each pixel, 0 on stuff.
        things: In order of their instance numbers.
        captions: Up to five, in the order in which they were drawn, all different.
    """

    image: UInt8[np.ndarray, "height width 3"]
    label_map: UInt8[np.ndarray, "height width"]
    instance_map: UInt8[np.ndarray, "height width"]
    things: tuple[DrawnThing, ...]
    captions: tuple[DrawnCaption, ...]


class Painting(NamedTuple):
    """A scene without its captions; the fields are those of ``DrawnScene``."""

    image: UInt8[np.ndarray, "height width 3"]
    label_map: UInt8[np.ndarray, "height width"]
    instance_map: UInt8[np.ndarray, "height width"]
    things: tuple[DrawnThing, ...]


def paint(layout: Layout, placings: list[Placing], rng: np.random.Generator, size_px: int) -> Painting:
    """Paint a planned scene; the first placing is the nearest thing."""
    canvas = _Canvas.of_size(Grid.of_size(size_px))
    _paint_stuff(canvas, layout, rng)
    things = [thing for placing in placings if (thing := _paint_thing(canvas, placing, rng)) is not None]
    entries = canvas.numbers >> 8
    return Painting(
        image=_picture(canvas, rng),
        label_map=np.array(canvas.labels, dtype=np.uint8).take(entries),
        instance_map=np.array(canvas.instances, dtype=np.uint8).take(entries),
        things=tuple(things),
    )


@dataclass(slots=True)
class _Canvas:
    """The numbers of a scene in the making and what they mean.

    Attributes:
        grid: The pixels.
        numbers: Per pixel 256 x entry + level; the three lists have one item per entry.
        free: Where no thing has been painted yet; things are painted front to back.
        colours: RGB at level 0 and at level 255.
        labels: Label of the noun.
        instances: Instance number, 0 for stuff.
    """

    grid: Grid
    numbers: UInt16[np.ndarray, "height width"]
    free: Bool[np.ndarray, "height width"]
    colours: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    instances: list[int] = field(default_factory=list)

    @classmethod
    def of_size(cls, grid: Grid) -> "_Canvas":
        """Return an empty canvas."""
        shape = (grid.size_px, grid.size_px)
        return cls(grid, np.zeros(shape, dtype=np.uint16), np.ones(shape, dtype=bool))

    def add_entry(self, noun: str, instance: int, colours: tuple[np.ndarray, np.ndarray]) -> int:
        """Register a part or a band; return the number of its level 0."""
        self.colours.append(colours)
        self.labels.append(LABELS[noun])
        self.instances.append(instance)
        return (len(self.labels) - 1) * _LEVELS


def _paint_stuff(canvas: _Canvas, layout: Layout, rng: np.random.Generator) -> None:
    """Fill the canvas with the bands, each painted below its upper edge, over the one before."""
    units = canvas.grid.units
    uppers = np.vstack([np.full((1, len(units)), -1.0), layout.edges(units)])
    lowest = [*uppers[1:].max(axis=1).tolist(), float(WORLD_UNITS)]
    for noun, upper, lower in zip(layout.bands, uppers, lowest, strict=True):
        rows = slice(int(np.searchsorted(units, upper.min())), int(np.searchsorted(units, lower, side="right")))
        stuff = draw_stuff(noun, rng, replace(canvas.grid, rows=rows))
        first = canvas.add_entry(noun, 0, (stuff.ground, stuff.mark))
        np.copyto(canvas.numbers[rows], stuff.levels + np.uint16(first), where=units[rows, None] > upper)


class _Pose(NamedTuple):
    """How a thing stands: radius [world units], turn [rad], stretch (1 = none), mirrored (-1) or not (1)."""

    radius: float
    turn: float
    stretch: float
    mirror: int

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "_Pose":
        """Draw a pose; one thing in seven is large."""
        radius = rng.uniform(12.0, 24.0) * (1.4 if rng.random() < 0.15 else 1.0)
        turn = min(max(rng.normal(0.0, 0.22), -0.6), 0.6)
        return cls(radius, turn, rng.uniform(0.85, 1.18), -1 if rng.random() < 0.5 else 1)


class _Window(NamedTuple):
    """The part of the picture around a thing, and the thing's own coordinates there.

    Coordinates are linear in the place, so they are kept as what a pixel's column and its row add to them.
    """

    rows: slice
    columns: slice
    u: tuple[Float64[np.ndarray, "1 width"], Float64[np.ndarray, "height 1"]]
    v: tuple[Float64[np.ndarray, "1 width"], Float64[np.ndarray, "height 1"]]

    def around(self, at: tuple[float, float], reach: tuple[float, float]) -> tuple[Coordinate, Coordinate]:
        """Return u and v as seen from a point, in units of a reach."""
        u = self.u[0] / reach[0] + (self.u[1] - at[0]) / reach[0]
        v = self.v[0] / reach[1] + (self.v[1] - at[1]) / reach[1]
        return u, v


def _window(grid: Grid, thing: Thing, placing: Placing, pose: _Pose) -> _Window:
    """Find the pixels that a thing in a pose can reach."""
    cosine, sine = math.cos(pose.turn), math.sin(pose.turn)
    half_u, half_v = thing.reach[0] / pose.stretch, thing.reach[1] * pose.stretch
    half_width = pose.radius * (cosine * half_u + abs(sine) * half_v)
    half_height = pose.radius * (abs(sine) * half_u + cosine * half_v)
    columns = _pixels_within(grid, placing.x - half_width, placing.x + half_width)
    rows = _pixels_within(grid, placing.y - half_height, placing.y + half_height)
    right = ((grid.units[columns] - placing.x) / pose.radius)[None, :]
    down = ((grid.units[rows] - placing.y) / pose.radius)[:, None]
    u_scale, v_scale = pose.stretch * pose.mirror, 1.0 / pose.stretch
    u = (right * (cosine * u_scale), down * (sine * u_scale))
    v = (right * (-sine * v_scale), down * (cosine * v_scale))
    return _Window(rows, columns, u, v)


def _pixels_within(grid: Grid, low: float, high: float) -> slice:
    """Return the pixels between two places along a side [world units]."""
    first = max(0, math.floor(low * grid.px_per_unit))
    return slice(first, max(first, min(grid.size_px, math.ceil(high * grid.px_per_unit) + 1)))


class _Appearance(NamedTuple):
    """An instance's own colours, as RGB, and the style of its marks."""

    hue_name: str
    rgb: dict[Colour, np.ndarray]
    style: MarkStyle

    @classmethod
    def drawn(cls, rng: np.random.Generator, thing: Thing) -> "_Appearance":
        """Draw an appearance; parts of one colour get the same shade of it."""
        name, hue = draw_hue(rng)
        hues = {OWN: hue, CONTRAST: hue + rng.uniform(0.25, 0.75)}
        rgb: dict[Colour, np.ndarray] = {}
        for colour in thing.colours:
            if isinstance(colour, Hsv):
                shade = colour.jittered(rng)
            else:
                shade = Hsv(hues[colour], rng.uniform(0.5, 0.95), rng.uniform(0.5, 0.95))
            rgb[colour] = np.array(shade.rgb())
        return cls(name, rgb, MarkStyle.drawn(rng))


def _paint_thing(canvas: _Canvas, placing: Placing, rng: np.random.Generator) -> DrawnThing | None:
    """Paint a thing where nothing stands before it; paint nothing and return None if too little would be visible."""
    thing = THINGS[placing.noun]
    pose, appearance = _Pose.drawn(rng), _Appearance.drawn(rng, thing)
    window = _window(canvas.grid, thing, placing, pose)
    regions = [_part_region(part, window, appearance.style) for part in thing.parts]
    body = reduce(np.logical_or, (region.inside for region in regions))
    free = canvas.free[window.rows, window.columns]
    visible = body & free
    visible_px = int(np.count_nonzero(visible))
    if visible_px < MIN_VISIBLE_SHARE * canvas.grid.size_px**2:
        return None
    instance = max(canvas.instances) + 1
    numbers = canvas.numbers[window.rows, window.columns]
    for part, region in zip(thing.parts, regions, strict=True):
        second = part.second if part.marks else part.colour
        first = canvas.add_entry(placing.noun, instance, (appearance.rgb[part.colour], appearance.rgb[second]))
        np.copyto(numbers, region.levels + np.uint16(first), where=region.inside & free)
    free &= ~body  # a view of the canvas: what is painted later stands behind this thing
    hue = appearance.hue_name if thing.has_own_colour else None
    columns: Int[np.ndarray, " column"] = np.flatnonzero(visible.any(axis=0)) + window.columns.start
    rows: Int[np.ndarray, " row"] = np.flatnonzero(visible.any(axis=1)) + window.rows.start
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)  # half-open
    return DrawnThing(placing.noun, hue, instance, box, visible_px, placing.at_home, placing.stuff)


class _PartRegion(NamedTuple):
    """Where a part lies in a window, and its levels: 0 in its first colour, 255 in its second."""

    inside: Bool[np.ndarray, "height width"]
    levels: UInt16[np.ndarray, "*height_width"]


def _part_region(part: Part, window: _Window, style: MarkStyle) -> _PartRegion:
    """Find where a part lies; its marks keep the thing's scale but are centred on the part."""
    inside = SHAPES[part.shape](*window.around(part.at, part.reach))
    if not part.marks:
        return _PartRegion(inside, _PLAIN)
    marked = MARKS[part.marks](*window.around(part.at, (1.0, 1.0)), style)
    return _PartRegion(inside, marked * np.uint16(_LEVELS - 1))


def _picture(canvas: _Canvas, rng: np.random.Generator) -> UInt8[np.ndarray, "height width 3"]:
    """Look the colours up, under one light for the whole scene, and add the noise of a camera."""
    brightness = rng.uniform(0.85, 1.1)
    ends = np.array(canvas.colours) * brightness
    palette = ends[:, None, 0] + _STEPS * (ends[:, None, 1] - ends[:, None, 0])
    picture: Int16[np.ndarray, "height width 3"] = (
        np.rint(palette).astype(np.int16).reshape(-1, 3).take(canvas.numbers, axis=0)
    )
    picture += camera_noise(rng, picture.size).reshape(picture.shape)
    return np.clip(picture, 0, 255, out=picture).astype(np.uint8)


def camera_noise(rng: np.random.Generator, count: int) -> Int16[np.ndarray, " value"]:
    """Draw noise of a standard deviation of 5 grey levels from one random byte per value, with integers alone."""
    return _NOISE_OF_BYTE.take(np.frombuffer(rng.bytes(count), dtype=np.uint8))
