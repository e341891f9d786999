"""Charts as inline SVG: bars with intervals, and curves; each with axes, ticks and units.

Charts are drawn 360 units wide, which is about the width of a phone, and scale up: their letters stay readable on both.
The XML is built by the standard library, which escapes all text.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

WIDTH = 360
_FONT, _ROW, _RIGHT, _MARK = 11, 17, 34, 14
_LETTER, _WIDE_LETTER, _LABEL_RANGE = 6.9, 10.8, (60.0, 170.0)
_SCALES = (5, 10, 20, 50, 100)
_INK, _FAINT, _GRID = "#222", "#666", "#dcdfe4"
COLOURS = {"seen": "#2f6db5", "unseen": "#d9731a", "uncertain": "#7d7d7d", "plain": "#3b7d5c", "paper": "#b0307a"}


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        label: What it stands for.
        value: Its length, 0..1; None where there is nothing to show.
        interval: Where 95 % of resamplings lie, or None.
        colour: A key of ``COLOURS``.
        paper: The paper's value, 0..1, shown as a mark; None for none.
    """

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    colour: str = "plain"
    paper: float | None = None


@dataclass(frozen=True)
class Curve:
    """One curve.

    Attributes:
        label: What it stands for.
        points: x and y of each point, ascending in x.
        colour: A key of ``COLOURS``.
    """

    label: str
    points: Sequence[tuple[float, float]]
    colour: str = "plain"


def bar_chart(bars: Sequence[Bar], *, title: str, unit: str = "IoU [%]", whole_scale: bool = True) -> str:
    """Draw horizontal bars, one below the other.

    Args:
        bars: From top to bottom.
        title: Above the chart.
        unit: Below the axis.
        whole_scale: Let the axis end at 100 %; else at a round number that the longest bar stays below.
    """
    top, bottom = 22, 34
    height = top + _ROW * len(bars) + bottom
    svg = _svg(height, title)
    _text(svg, 0, 12, title, weight="600")
    expected = 8 + max(width_of(bar.label) for bar in bars)
    left, right = min(max(expected, _LABEL_RANGE[0]), _LABEL_RANGE[1]), WIDTH - _RIGHT
    greatest = 100 * max(end for bar in bars for end in (bar.value or 0, bar.paper or 0, *(bar.interval or ())))
    end_percent = 100 if whole_scale else next(scale for scale in _SCALES if scale >= min(greatest, 100))
    steps = 5 if end_percent == 5 else 4
    for step in range(steps + 1):
        percent = end_percent * step / steps
        x = left + (right - left) * percent / end_percent
        _line(svg, x, top, x, height - bottom, colour=_GRID)
        _text(svg, x, height - bottom + 13, _written(percent), anchor="middle", colour=_FAINT)
    for row, bar in enumerate(bars):
        _draw_bar(svg, bar, top + _ROW * row, left, (right - left) * 100 / end_percent)
    _line(svg, left, top, left, height - bottom)
    _line(svg, left, height - bottom, right, height - bottom)
    _text(svg, (left + right) / 2, height - 6, unit, anchor="middle", colour=_FAINT)
    return ElementTree.tostring(svg, encoding="unicode")


def curve_chart(
    curves: Sequence[Curve], *, title: str, x_label: str, y_label: str, marks: Sequence[tuple[float, str]] = ()
) -> str:
    """Draw curves over a common axis.

    Args:
        curves: At least one, each with at least one point.
        title: Above the chart.
        x_label: With its unit.
        y_label: With its unit; values of y are shown in percent.
        marks: Values of x to be marked, each with a word above the curves.
    """
    above, room, bottom, left, right = 38 if len(curves) == 1 else 54, _MARK * len(marks), 46, 40, WIDTH - 12
    height, top = 250 + room, above + room
    svg = _svg(height, title)
    _text(svg, 0, 12, title, weight="600")
    xs = [x for curve in curves for x, _ in curve.points]
    ys = [y for curve in curves for _, y in curve.points]
    x_ticks, y_ticks = ticks(min(xs), max(xs)), ticks(min(ys) * 100, max(ys) * 100)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + (right - left) * (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]),
            height - bottom - (height - bottom - top) * (100 * y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]),
        )

    for tick in y_ticks:
        y = place(0, tick / 100)[1]
        _line(svg, left, y, right, y, colour=_GRID)
        _text(svg, left - 5, y + 4, _written(tick), anchor="end", colour=_FAINT)
    for tick in x_ticks:
        x = place(tick, 0)[0]
        _line(svg, x, height - bottom, x, height - bottom + 4)
        _text(svg, x, height - bottom + 16, _written(tick), anchor="middle", colour=_FAINT)
    for number, (value, word) in enumerate(marks):
        x, y = place(value, 0)[0], above + _MARK * number
        _line(svg, x, y + 3, x, height - bottom, colour=_FAINT, dashes="3 3")
        beyond = x > (left + right) / 2
        _text(svg, x + (-4 if beyond else 4), y + 11, word, anchor="end" if beyond else "start", halo=True)
    for curve in curves:
        _draw_curve(svg, [place(x, y) for x, y in curve.points], COLOURS[curve.colour])
    _legend(svg, curves, 44)
    _line(svg, left, top, left, height - bottom)
    _line(svg, left, height - bottom, right, height - bottom)
    _text(svg, (left + right) / 2, height - 10, x_label, anchor="middle", colour=_FAINT)
    _text(svg, 0, 28, y_label, colour=_FAINT)
    return ElementTree.tostring(svg, encoding="unicode")


def ticks(low: float, high: float, expected: int = 5) -> list[float]:
    """Choose round numbers, about as many as expected, of which the first and the last enclose both values."""
    size = max(abs(low), abs(high), 1.0)
    span = high - low if high - low > 1e-6 * size else 0.1 * size  # what is all but equal gets some room
    raw = span / expected
    unit = 10 ** math.floor(math.log10(raw))
    step = unit * next(factor for factor in (1, 2, 5, 10) if factor * unit >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _svg(height: float, title: str) -> ElementTree.Element:
    """Begin a chart."""
    size = {"viewBox": f"0 0 {WIDTH} {height:g}", "role": "img", "aria-label": title, "font-size": str(_FONT)}
    return ElementTree.Element("svg", {"xmlns": "http://www.w3.org/2000/svg", "class": "chart", **size})


def _draw_bar(svg: ElementTree.Element, bar: Bar, top: float, left: float, scale: float) -> None:
    """Draw one bar with its label, value and interval; ``scale`` is the length of 100 %."""
    middle = top + _ROW / 2
    label = _text(svg, left - 6, middle + 4, shortened(bar.label, left - 6), anchor="end")
    ElementTree.SubElement(label, "title").text = bar.label
    if bar.value is None:
        _text(svg, left + 4, middle + 4, "not predicted, not in the labels", colour=_FAINT)
        return
    box = {"x": f"{left:g}", "y": f"{top + 3:g}", "width": f"{scale * bar.value:.2f}", "height": f"{_ROW - 6:g}"}
    ElementTree.SubElement(svg, "rect", {**box, "fill": COLOURS[bar.colour]})
    if bar.interval is not None:
        low, high = (left + scale * end for end in bar.interval)
        _line(svg, low, middle, high, middle, colour=_INK)
        for x in (low, high):
            _line(svg, x, middle - 3, x, middle + 3, colour=_INK)
    if bar.paper is not None:
        x = left + scale * bar.paper
        _line(svg, x, top + 1, x, top + _ROW - 1, colour=COLOURS["paper"], width=2.5)
    _text(svg, WIDTH, middle + 4, f"{100 * bar.value:.1f}", anchor="end")


def _draw_curve(svg: ElementTree.Element, points: Sequence[tuple[float, float]], colour: str) -> None:
    """Draw a line and its points."""
    path = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
    ElementTree.SubElement(svg, "polyline", {"points": path, "fill": "none", "stroke": colour, "stroke-width": "2"})
    for x, y in points:
        ElementTree.SubElement(svg, "circle", {"cx": f"{x:.2f}", "cy": f"{y:.2f}", "r": "2.8", "fill": colour})


def _legend(svg: ElementTree.Element, curves: Sequence[Curve], y: float) -> None:
    """Name the curves by their colours, where there are several."""
    x = 40.0
    for curve in curves if len(curves) > 1 else ():
        _line(svg, x, y - 4, x + 14, y - 4, colour=COLOURS[curve.colour], width=2.5)
        _text(svg, x + 18, y, curve.label)
        x += 30 + 6.2 * len(curve.label)


def _line(
    svg: ElementTree.Element,
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    *,
    colour: str = _INK,
    width: float = 1.0,
    dashes: str = "",
) -> None:
    """Draw a straight line."""
    ends = {"x1": f"{x1:.2f}", "y1": f"{y1:.2f}", "x2": f"{x2:.2f}", "y2": f"{y2:.2f}"}
    style = {"stroke": colour, "stroke-width": f"{width:g}"} | ({"stroke-dasharray": dashes} if dashes else {})
    ElementTree.SubElement(svg, "line", ends | style)


def _text(
    svg: ElementTree.Element,
    x: float,
    y: float,
    words: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    weight: str = "400",
    halo: bool = False,
) -> ElementTree.Element:
    """Write a line of text, with white around it where it may lie on lines."""
    place = {"x": f"{x:.2f}", "y": f"{y:.2f}", "text-anchor": anchor, "fill": colour, "font-weight": weight}
    if halo:
        place |= {"stroke": "#fff", "stroke-width": "4", "stroke-linejoin": "round", "paint-order": "stroke"}
    element = ElementTree.SubElement(svg, "text", place)
    element.text = words
    return element


def width_of(text: str) -> float:
    """Estimate the width of a line of text, in a broad typeface."""
    return sum(_WIDE_LETTER if letter in "mwMW@%" else _LETTER for letter in text)


def shortened(name: str, width: float) -> str:
    """Cut a name that is wider than there is room."""
    if width_of(name) <= width:
        return name
    kept = name
    while kept and width_of(kept) > width - width_of("…"):
        kept = kept[:-1]
    return kept.rstrip(" ,") + "…"


def _written(value: float) -> str:
    """Write a tick's number."""
    return f"{value:g}"
