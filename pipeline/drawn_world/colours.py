"""Colours as hue, saturation and value, and the names of hues."""

import colorsys
from typing import NamedTuple

import numpy as np

HUES = ("red", "orange", "yellow", "green", "blue", "purple")
# Where each hue begins on a circle of length 1; it ends where the next one begins, purple where red does.
_HUE_STARTS = (-0.06, 0.04, 0.12, 0.20, 0.46, 0.71)
_HUE_END = 0.94


class Hsv(NamedTuple):
    """A colour: hue on a circle of length 1, saturation and value in 0..1."""

    hue: float
    saturation: float
    value: float

    def jittered(self, rng: np.random.Generator) -> "Hsv":
        """Return a colour nearby; greys stay grey."""
        hue, saturation, value = rng.standard_normal(3).tolist()
        saturation_spread = 0.08 if self.saturation > 0.05 else 0.0
        return Hsv(
            self.hue + 0.025 * hue,
            self.saturation + saturation_spread * saturation,
            self.value + 0.08 * value,
        )

    def rgb(self) -> tuple[float, float, float]:
        """Return red, green and blue in 0..255; hue wraps around, saturation and value are clipped."""
        saturation = min(max(self.saturation, 0.0), 1.0)
        value = min(max(self.value, 0.0), 1.0)
        red, green, blue = colorsys.hsv_to_rgb(self.hue % 1.0, saturation, value)
        return 255.0 * red, 255.0 * green, 255.0 * blue


def draw_hue(rng: np.random.Generator) -> tuple[str, float]:
    """Draw one of the six hues, each as often as the others, and a shade of it on the circle of length 1."""
    number = int(rng.integers(len(HUES)))
    end = (*_HUE_STARTS[1:], _HUE_END)[number]
    return HUES[number], rng.uniform(_HUE_STARTS[number], end)
