"""Curves of a training run as a picture, drawn with Pillow alone, so that equal runs give equal files."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

_WIDTH_PX, _HEIGHT_PX = 900, 300
_LEFT_PX, _RIGHT_PX, _TOP_PX, _BOTTOM_PX = 64, 200, 34, 34
_SCALE = 2  # drawn larger, then averaged down, for smooth lines
_PAPER, _INK, _GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
_COLOURS = ((31, 119, 180), (214, 90, 20), (44, 140, 60), (150, 60, 160), (120, 80, 60), (90, 90, 90))
_SMOOTHED_OVER = 50  # parts of the run

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """One diagram.

    Attributes:
        title: What the curves are of.
        curves: Points (step, value) by name; steps ascend.
        noisy: Draw the values pale, and their running mean over them.
    """

    title: str
    curves: Mapping[str, Points]
    noisy: bool = False


def curves_picture(panels: Sequence[Panel]) -> Image.Image:
    """Draw panels, one below the other; curves without points are left out.

    Args:
        panels: At least one.
    """
    canvas = Image.new("RGB", (_SCALE * _WIDTH_PX, _SCALE * _HEIGHT_PX * len(panels)), _PAPER)
    for place, panel in enumerate(panels):
        _Drawing(ImageDraw.Draw(canvas), panel, _SCALE * _HEIGHT_PX * place).draw()
    return canvas.resize((_WIDTH_PX, _HEIGHT_PX * len(panels)), Image.Resampling.BOX)


class _Drawing:
    """Draws one panel."""

    def __init__(self, draw: ImageDraw.ImageDraw, panel: Panel, top: int) -> None:
        self._draw, self._panel = draw, panel
        self._curves = {name: np.array(points, float) for name, points in panel.curves.items() if len(points)}
        self._font = ImageFont.load_default(13 * _SCALE)
        self._left, self._right = _SCALE * _LEFT_PX, _SCALE * (_WIDTH_PX - _RIGHT_PX)
        self._top, self._bottom = top + _SCALE * _TOP_PX, top + _SCALE * (_HEIGHT_PX - _BOTTOM_PX)
        every = np.concatenate([*self._curves.values(), np.zeros((1, 2))])
        self._steps = float(max(1.0, every[:, 0].max()))
        values = np.concatenate([self._trend(points)[:, 1] for points in self._curves.values()] or [np.zeros(1)])
        # a loss begins high: its first values may leave the panel, so that the rest is not flat
        highest = float(np.quantile(values, 0.95) * 1.3 if panel.noisy else values.max())
        self._ceiling = _round_up(highest) if highest > 0 else 1.0

    def draw(self) -> None:
        """Draw title, axes, curves and legend."""
        self._text((self._left, self._top - 8 * _SCALE), self._panel.title, "ls")
        for share in (0, 0.25, 0.5, 0.75, 1):
            y = self._bottom - share * (self._bottom - self._top)
            self._draw.line([(self._left, y), (self._right, y)], fill=_GRID, width=_SCALE)
            self._text((self._left - 6 * _SCALE, y), f"{share * self._ceiling:.3g}", "rm")
            x = self._left + share * (self._right - self._left)
            self._text((x, self._bottom + 6 * _SCALE), f"{share * self._steps:,.0f}", "ma")
        for place, (name, points) in enumerate(self._curves.items()):
            colour = _COLOURS[place % len(_COLOURS)]
            if self._panel.noisy:
                self._line(points, tuple(round(0.75 * 255 + 0.25 * level) for level in colour), 1)
            trend = self._trend(points)
            self._line(trend, colour, 2)
            y = self._top + 20 * _SCALE * place + 10 * _SCALE
            self._draw.line(
                [(self._right + 10 * _SCALE, y), (self._right + 26 * _SCALE, y)], fill=colour, width=2 * _SCALE
            )
            self._text((self._right + 32 * _SCALE, y), f"{name} {trend[-1, 1]:.3g}", "lm")

    def _trend(self, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Return the running mean of noisy values, over the part of the run before each."""
        if not self._panel.noisy:
            return points
        window = max(1, len(points) // _SMOOTHED_OVER)
        sums = np.concatenate([[0.0], np.cumsum(points[:, 1])])
        first = np.maximum(0, np.arange(len(points)) + 1 - window)
        means = (sums[1:] - sums[first]) / (np.arange(len(points)) + 1 - first)
        return np.stack([points[:, 0], means], axis=1)

    def _line(self, points: npt.NDArray[np.float64], colour: tuple[int, ...], width: int) -> None:
        """Draw a curve, cut off at the top of the panel."""
        x = self._left + points[:, 0] / self._steps * (self._right - self._left)
        y = self._bottom - np.clip(points[:, 1] / self._ceiling, 0, 1) * (self._bottom - self._top)
        corners = list(zip(x.tolist(), y.tolist(), strict=True))
        for start, end in pairwise(corners):
            self._draw.line([start, end], fill=colour, width=width * _SCALE)
        if len(corners) == 1:
            self._draw.circle(corners[0], 2 * _SCALE, fill=colour)

    def _text(self, place: tuple[float, float], text: str, anchor: str) -> None:
        self._draw.text(place, text, fill=_INK, font=self._font, anchor=anchor)


def _round_up(value: float) -> float:
    """Return the next number above that reads well on an axis."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(step * unit for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * unit >= value * (1 - 1e-9))
