"""The 42 things: what each is made of, in which colours, and on which stuff it is at home.

A thing is drawn in its own coordinates, u to the right and v downwards, with the body inside about -1..1. Parts are
painted in order, later ones over earlier ones. Two pairs are ambiguous on purpose, as names are in photographs: ship
and boat, tree and pine. Two are alike on purpose: sled and table, balloon and buoy.
"""

import enum
from dataclasses import dataclass
from functools import cached_property

from pipeline.drawn_world.colours import Hsv

WHITE = Hsv(0.0, 0.03, 0.95)
BLACK = Hsv(0.0, 0.1, 0.15)
GREY = Hsv(0.0, 0.03, 0.5)
WOOL = Hsv(0.0, 0.03, 0.75)
BROWN = Hsv(0.07, 0.6, 0.45)
YELLOW = Hsv(0.15, 0.75, 0.95)
ORANGE = Hsv(0.06, 0.85, 0.95)
RED = Hsv(0.0, 0.8, 0.8)
GREEN = Hsv(0.3, 0.6, 0.5)
LEAF = Hsv(0.28, 0.6, 0.75)
FIR = Hsv(0.35, 0.6, 0.3)
GLASS = Hsv(0.55, 0.3, 0.85)
ICE = Hsv(0.6, 0.3, 0.6)
PEACH = Hsv(0.05, 0.4, 0.95)


class InstanceColour(enum.Enum):
    """Colours that each instance draws anew, beside the fixed ones."""

    OWN = "one colour for all parts that ask for it; captions may name its hue"
    CONTRAST = "a hue well away from the own one"


Colour = Hsv | InstanceColour
OWN, CONTRAST = InstanceColour.OWN, InstanceColour.CONTRAST


@dataclass(frozen=True, slots=True)
class Part:
    """One shape of a thing.

    Attributes:
        shape: Name in ``SHAPES``.
        at: Centre (u, v).
        reach: Half width and half height; a negative height turns the shape upside down.
        colour: The part's first colour.
        marks: Name in ``MARKS``, drawn in the second colour; empty for a plain part.
        second: The second colour.
    """

    shape: str
    at: tuple[float, float]
    reach: tuple[float, float]
    colour: Colour
    marks: str = ""
    second: Colour = WHITE


@dataclass(frozen=True)
class Thing:
    """A thing noun.

    Attributes:
        home: Stuff nouns that it usually stands on.
        parts: In the order of painting.
    """

    home: tuple[str, ...]
    parts: tuple[Part, ...]

    @cached_property
    def colours(self) -> tuple[Colour, ...]:
        """All colours of its parts, each once."""
        seconds = (part.second for part in self.parts if part.marks)
        return tuple(dict.fromkeys([*(part.colour for part in self.parts), *seconds]))

    @property
    def has_own_colour(self) -> bool:
        """Whether captions may name its hue."""
        return OWN in self.colours

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Half width and half height of the smallest centred box around all parts."""
        return (
            max(abs(part.at[0]) + abs(part.reach[0]) for part in self.parts),
            max(abs(part.at[1]) + abs(part.reach[1]) for part in self.parts),
        )


def _thing(*home: str, parts: list[Part]) -> Thing:
    return Thing(home, tuple(parts))


def _mirrored(shape: str, at: tuple[float, float], reach: tuple[float, float], colour: Colour) -> list[Part]:
    """Return a plain part and its mirror image."""
    u, v = at
    half_width, half_height = reach
    return [Part(shape, at, reach, colour), Part(shape, (-u, v), (-half_width, half_height), colour)]


THINGS: dict[str, Thing] = {
    "boat": _thing(
        "water",
        parts=[
            Part("box", (0.0, -0.1), (0.05, 0.75), BROWN),
            Part("hull", (0.0, 0.6), (1.0, 0.3), OWN),
            Part("triangle", (0.4, -0.25), (0.5, 0.55), WHITE),
        ],
    ),
    "ship": _thing(
        "water",
        parts=[
            Part("hull", (0.0, 0.55), (1.1, 0.35), OWN, "stripes"),
            Part("box", (0.0, 0.0), (0.55, 0.25), WHITE, "bars", GREY),
            Part("box", (0.2, -0.5), (0.15, 0.35), RED),
        ],
    ),
    "fish": _thing(
        "water",
        parts=[
            Part("moon", (0.75, 0.0), (0.35, 0.5), OWN),
            Part("disc", (-0.2, 0.0), (0.75, 0.45), OWN, "bars", ORANGE),
            Part("disc", (-0.6, -0.1), (0.1, 0.1), BLACK),
        ],
    ),
    "duck": _thing(
        "water",
        parts=[
            Part("box", (-0.85, -0.2), (0.2, 0.1), ORANGE),
            Part("disc", (0.1, 0.35), (0.8, 0.42), YELLOW),
            Part("disc", (-0.5, -0.25), (0.32, 0.32), YELLOW),
            Part("disc", (-0.6, -0.3), (0.08, 0.08), BLACK),
        ],
    ),
    "buoy": _thing(
        "water",
        parts=[Part("box", (0.0, -0.6), (0.12, 0.4), GREY), Part("disc", (0.0, 0.3), (0.6, 0.6), RED, "stripes")],
    ),
    "umbrella": _thing(
        "sand",
        parts=[Part("box", (0.0, 0.4), (0.07, 0.6), BROWN), Part("dome", (0.0, -0.4), (1.0, 0.45), OWN, "bars")],
    ),
    "crab": _thing(
        "sand",
        parts=[
            *_mirrored("box", (0.6, 0.0), (0.08, 0.3), RED),
            *_mirrored("moon", (-0.62, -0.45), (0.32, 0.32), RED),
            Part("disc", (0.0, 0.3), (0.75, 0.42), RED, "dots"),
        ],
    ),
    "castle": _thing(
        "sand",
        parts=[
            Part("box", (0.0, 0.35), (0.7, 0.6), YELLOW, "bricks", BROWN),
            Part("box", (-0.7, 0.1), (0.24, 0.85), YELLOW, "bricks", BROWN),
            Part("box", (0.7, 0.1), (0.24, 0.85), YELLOW, "bricks", BROWN),
            *_mirrored("triangle", (0.7, -0.9), (0.32, 0.25), BROWN),
            Part("dome", (0.0, 0.7), (0.2, 0.25), BLACK),
        ],
    ),
    "shell": _thing(
        "sand",
        parts=[
            Part("box", (0.0, 0.8), (0.25, 0.15), BROWN),
            Part("dome", (0.0, 0.0), (0.85, 0.75), PEACH, "bars", BROWN),
        ],
    ),
    "starfish": _thing("sand", parts=[Part("star", (0.0, 0.0), (1.0, 1.0), ORANGE, "dots")]),
    "tree": _thing(
        "grass",
        parts=[
            Part("box", (0.0, 0.6), (0.14, 0.4), BROWN),
            Part("disc", (0.0, -0.2), (0.7, 0.7), GREEN, "speckle", LEAF),
        ],
    ),
    "pine": _thing(
        "grass",
        "snow",
        parts=[
            Part("box", (0.0, 0.8), (0.12, 0.2), BROWN),
            Part("triangle", (0.0, 0.3), (0.7, 0.45), GREEN, "stripes", FIR),
            Part("triangle", (0.0, -0.4), (0.5, 0.5), GREEN, "stripes", FIR),
        ],
    ),
    "cow": _thing(
        "grass",
        "field",
        parts=[
            Part("box", (-0.35, 0.6), (0.1, 0.3), BLACK),
            Part("box", (0.6, 0.6), (0.1, 0.3), BLACK),
            Part("box", (0.1, 0.0), (0.7, 0.38), WHITE, "dots", BLACK),
            Part("disc", (-0.75, -0.2), (0.25, 0.28), BLACK),
        ],
    ),
    "sheep": _thing(
        "grass",
        parts=[
            *_mirrored("box", (-0.35, 0.65), (0.08, 0.3), BLACK),
            Part("petals", (0.1, 0.0), (0.8, 0.65), WHITE, "speckle", WOOL),
            Part("disc", (0.1, 0.0), (0.65, 0.5), WHITE, "speckle", WOOL),
            Part("disc", (-0.7, -0.1), (0.22, 0.25), BLACK),
        ],
    ),
    "flower": _thing(
        "grass",
        parts=[
            Part("box", (0.0, 0.55), (0.07, 0.45), GREEN),
            Part("petals", (0.0, -0.3), (0.65, 0.65), OWN),
            Part("disc", (0.0, -0.3), (0.22, 0.22), YELLOW),
        ],
    ),
    "barn": _thing(
        "field",
        "grass",
        parts=[
            Part("box", (0.0, 0.35), (0.75, 0.6), RED, "bars", BROWN),
            Part("triangle", (0.0, -0.55), (1.0, 0.42), GREY),
            Part("box", (0.0, 0.6), (0.2, 0.35), WHITE),
        ],
    ),
    "tent": _thing(
        "grass",
        parts=[
            Part("triangle", (0.0, 0.1), (1.0, 0.8), OWN, "slants", CONTRAST),
            Part("triangle", (0.0, 0.5), (0.25, 0.4), BLACK),
        ],
    ),
    "mushroom": _thing(
        "grass",
        parts=[Part("box", (0.0, 0.5), (0.25, 0.45), WHITE), Part("dome", (0.0, -0.3), (0.85, 0.45), RED, "dots")],
    ),
    "car": _thing(
        "road",
        parts=[
            Part("hull", (0.0, -0.3), (0.63, -0.35), GLASS),
            Part("box", (0.0, 0.2), (1.0, 0.3), OWN),
            Part("disc", (-0.5, 0.55), (0.25, 0.25), BLACK),
            Part("disc", (0.5, 0.55), (0.25, 0.25), BLACK),
        ],
    ),
    "bus": _thing(
        "road",
        parts=[
            Part("box", (0.0, -0.05), (1.0, 0.6), OWN),
            Part("box", (0.0, -0.25), (0.9, 0.2), GLASS, "bars", BLACK),
            Part("disc", (-0.6, 0.6), (0.2, 0.2), BLACK),
            Part("disc", (0.6, 0.6), (0.2, 0.2), BLACK),
        ],
    ),
    "bicycle": _thing(
        "road",
        parts=[
            *_mirrored("ring", (-0.6, 0.35), (0.48, 0.48), BLACK),
            Part("box", (0.0, 0.0), (0.5, 0.09), OWN),
            Part("triangle", (-0.1, 0.2), (0.35, -0.28), OWN),
            Part("box", (0.5, -0.25), (0.09, 0.45), OWN),
            Part("box", (0.4, -0.65), (0.22, 0.09), BLACK),
        ],
    ),
    "cone": _thing(
        "road",
        parts=[
            Part("triangle", (0.0, -0.1), (0.55, 0.85), ORANGE, "stripes"),
            Part("box", (0.0, 0.8), (0.8, 0.14), ORANGE),
        ],
    ),
    "sign": _thing(
        "road",
        parts=[
            Part("box", (0.0, 0.5), (0.09, 0.5), GREY),
            Part("diamond", (0.0, -0.35), (0.7, 0.7), YELLOW),
            Part("cross", (0.0, -0.35), (0.25, 0.25), BLACK),
        ],
    ),
    "lamp": _thing(
        "road",
        "floor",
        parts=[
            Part("box", (0.0, 0.3), (0.08, 0.65), BLACK),
            Part("box", (0.0, 0.92), (0.35, 0.1), BLACK),
            Part("triangle", (0.0, -0.6), (0.6, 0.45), YELLOW),
        ],
    ),
    "hydrant": _thing(
        "road",
        parts=[
            Part("box", (0.0, 0.35), (0.4, 0.6), RED),
            Part("dome", (0.0, -0.5), (0.4, 0.3), RED),
            Part("box", (0.0, -0.2), (0.5, 0.08), YELLOW),
            Part("box", (0.0, 0.15), (0.7, 0.15), YELLOW),
            Part("box", (0.0, 0.92), (0.55, 0.08), RED),
        ],
    ),
    "balloon": _thing(
        "sky",
        parts=[
            Part("hull", (0.0, 0.5), (0.35, 0.25), GREY),
            Part("disc", (0.0, -0.25), (0.7, 0.75), OWN, "bars", CONTRAST),
            Part("box", (0.0, 0.8), (0.2, 0.17), BROWN),
        ],
    ),
    "kite": _thing(
        "sky",
        parts=[
            Part("box", (0.0, 0.75), (0.05, 0.4), BLACK),
            Part("triangle", (0.0, 1.0), (0.18, 0.14), CONTRAST),
            Part("diamond", (0.0, -0.2), (0.7, 0.8), OWN, "checks", CONTRAST),
        ],
    ),
    "plane": _thing(
        "sky",
        parts=[
            Part("box", (0.05, 0.0), (0.16, 0.85), GREY),
            Part("disc", (0.0, 0.0), (1.0, 0.22), WHITE),
            Part("box", (0.8, 0.0), (0.1, 0.35), OWN),
        ],
    ),
    "bird": _thing(
        "sky",
        parts=[Part("wings", (0.0, 0.0), (1.1, 0.6), BLACK), Part("disc", (0.0, 0.35), (0.2, 0.42), BLACK)],
    ),
    "sun": _thing(
        "sky", parts=[Part("rays", (0.0, 0.0), (1.0, 1.0), ORANGE), Part("disc", (0.0, 0.0), (0.55, 0.55), YELLOW)]
    ),
    "clock": _thing(
        "wall",
        "brick",
        parts=[
            Part("disc", (0.0, 0.0), (0.9, 0.9), OWN),
            Part("disc", (0.0, 0.0), (0.7, 0.7), WHITE),
            Part("box", (0.0, -0.25), (0.07, 0.32), BLACK),
            Part("box", (0.2, 0.0), (0.25, 0.07), BLACK),
        ],
    ),
    "chair": _thing(
        "floor",
        parts=[
            Part("box", (-0.5, 0.0), (0.12, 0.95), OWN),
            Part("box", (0.05, 0.15), (0.65, 0.15), OWN),
            Part("box", (0.55, 0.55), (0.12, 0.4), OWN),
        ],
    ),
    "table": _thing(
        "floor",
        "carpet",
        parts=[
            *_mirrored("box", (-0.7, 0.35), (0.1, 0.5), BROWN),
            Part("box", (0.0, -0.25), (1.0, 0.18), BROWN, "bars", ORANGE),
        ],
    ),
    "vase": _thing(
        "floor",
        "carpet",
        parts=[
            Part("hull", (0.0, -0.5), (0.42, 0.35), OWN),
            Part("box", (0.0, -0.85), (0.5, 0.08), OWN),
            Part("box", (0.0, 0.92), (0.4, 0.08), OWN),
            Part("disc", (0.0, 0.3), (0.62, 0.62), OWN, "rings"),
        ],
    ),
    "ball": _thing("carpet", "floor", "sand", parts=[Part("disc", (0.0, 0.0), (0.9, 0.9), OWN, "checks")]),
    "drum": _thing(
        "carpet",
        parts=[
            Part("disc", (0.0, 0.75), (0.75, 0.25), OWN),
            Part("box", (0.0, 0.2), (0.75, 0.55), OWN, "slants", YELLOW),
            Part("disc", (0.0, -0.4), (0.75, 0.25), WHITE),
        ],
    ),
    "gift": _thing(
        "carpet",
        "floor",
        parts=[
            Part("box", (0.0, 0.1), (0.8, 0.75), OWN, "dots"),
            Part("box", (0.0, 0.1), (0.14, 0.75), YELLOW),
            Part("box", (0.0, 0.1), (0.8, 0.14), YELLOW),
            Part("diamond", (0.0, -0.75), (0.4, 0.25), YELLOW),
        ],
    ),
    "picture": _thing(
        "wall",
        "brick",
        parts=[
            Part("box", (0.0, 0.0), (0.95, 0.75), BROWN),
            Part("box", (0.0, 0.0), (0.75, 0.55), GLASS),
            Part("triangle", (0.0, 0.2), (0.5, 0.35), GREEN),
        ],
    ),
    "snowman": _thing(
        "snow",
        parts=[
            Part("disc", (0.0, 0.45), (0.55, 0.52), WHITE),
            Part("disc", (0.0, -0.25), (0.38, 0.38), WHITE),
            Part("box", (0.0, -0.75), (0.32, 0.2), BLACK),
            Part("box", (0.0, -0.55), (0.5, 0.07), BLACK),
            Part("disc", (0.0, -0.2), (0.12, 0.1), ORANGE),
            Part("box", (0.0, 0.08), (0.4, 0.08), RED),
        ],
    ),
    "igloo": _thing(
        "snow",
        parts=[
            Part("dome", (0.0, 0.1), (1.0, 0.6), WHITE, "bricks", ICE),
            Part("dome", (0.0, 0.45), (0.28, 0.25), BLACK),
        ],
    ),
    "penguin": _thing(
        "snow",
        parts=[
            Part("disc", (0.0, 0.1), (0.5, 0.85), BLACK),
            Part("disc", (0.0, 0.3), (0.3, 0.55), WHITE),
            Part("diamond", (0.0, -0.4), (0.2, 0.14), ORANGE),
            *_mirrored("disc", (-0.22, 0.93), (0.2, 0.1), ORANGE),
        ],
    ),
    "sled": _thing(
        "snow",
        parts=[
            *_mirrored("box", (-0.6, 0.15), (0.07, 0.25), BLACK),
            Part("box", (0.0, -0.1), (0.9, 0.2), RED, "bars", BROWN),
            Part("box", (0.0, 0.4), (1.0, 0.09), BLACK),
        ],
    ),
}

THING_NOUNS = tuple(THINGS)
"""In label order: thing noun i has label ``len(STUFF_NOUNS) + i``."""
