"""What things are made of: shapes in one or two colours, and the palette."""

import enum
from dataclasses import dataclass
from functools import cached_property

from pipeline.drawn_world.colours import Hsv


class InstanceColour(enum.Enum):
    """Colours that each instance draws anew, beside the fixed ones."""

    OWN = "one colour for all parts that ask for it; captions may name its hue"
    CONTRAST = "a hue well away from the own one"


Colour = Hsv | InstanceColour
OWN, CONTRAST = InstanceColour.OWN, InstanceColour.CONTRAST

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


@dataclass(frozen=True, slots=True)
class Part:
    """One shape of a thing.

    Attributes:
        shape: Name in ``shapes.SHAPES``.
        at: Centre (u, v).
        reach: Half width and half height; a negative height turns the shape upside down.
        colour: The part's first colour.
        marks: Name in ``marks.MARKS``, drawn in the second colour; empty for a plain part.
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
        """Whether a hue can be told of it."""
        return OWN in self.colours

    @cached_property
    def reach(self) -> tuple[float, float]:
        """Half width and half height of the smallest centred box around all parts."""
        return (
            max(abs(part.at[0]) + abs(part.reach[0]) for part in self.parts),
            max(abs(part.at[1]) + abs(part.reach[1]) for part in self.parts),
        )
