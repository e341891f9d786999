"""Charts of reports, drawn by Matplotlib: bars with intervals and curves as SVG, panels of training curves as PNG.

The same numbers give the same bytes: fonts are those that Matplotlib brings, no file holds a date or a version, and
neither a user's ``matplotlibrc`` nor a display has a say. Matplotlib is imported when the first chart is drawn.
"""

import io
import logging
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

from pipeline.visible_text import visible_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 360
"""Of an SVG chart, in units that are the pixels of a phone; it scales up, so that its letters are readable on both."""

COLOURS = {"seen": "#2f6db5", "unseen": "#d9731a", "uncertain": "#7d7d7d", "plain": "#3b7d5c", "paper": "#b0307a"}

_INK, _FAINT, _GRID = "#222222", "#666666", "#dcdfe4"
_BAR_UNITS, _LABEL_UNITS = 18, 150
_PANEL_INCHES, _PANEL_DPI = (9, 3), 100
_SMOOTHED_OVER = 50  # parts of the run
_LOG_FROM_RATIO = 10.0  # values that span more than this are easier to read on a logarithmic axis
_STYLE: dict[Any, Any] = {
    "font.family": ["sans-serif"],
    "font.sans-serif": ["DejaVu Sans"],
    "text.parse_math": False,  # names of classes may hold a $
    "svg.fonttype": "none",  # text stays text: it can be searched, read aloud and copied
    "svg.hashsalt": "ovseg",  # else names of clip paths are random
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _FAINT,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "text.color": _INK,
    "xtick.labelcolor": _FAINT,
    "ytick.labelcolor": _FAINT,
}
_DIAMOND: dict[str, Any] = {
    "linestyle": "none",
    "marker": "D",
    "markersize": 5.5,
    "markerfacecolor": "white",
    "markeredgecolor": _INK,
    "markeredgewidth": 1.3,
    "zorder": 4,
}
_SVG = "http://www.w3.org/2000/svg"
_ONE_AT_A_TIME = threading.Lock()  # Matplotlib's settings belong to the whole process

Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """One bar.

    Attributes:
        value: 0..1; None where there is nothing to show.
        interval: Where 95 % of resamplings lie, 0..1.
        colour: A key of ``COLOURS``.
        paper: The paper's value, 0..1, shown as a mark.
        baseline: Value of what is compared with, 0..1, shown as a hollow diamond.
    """

    label: str
    value: float | None
    interval: tuple[float, float] | None = None
    colour: str = "plain"
    paper: float | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class Change:
    """How much one thing is better or worse than before.

    Attributes:
        value: -1..1.
        interval: Where 95 % of resamplings lie; None where there is none.
    """

    label: str
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Panel:
    """One diagram of a training run.

    Attributes:
        curves: Points (step, value) by name; steps ascend.
        y_label: What the values are, with their unit.
        noisy: Draw the values pale, and their running mean over them.
    """

    title: str
    curves: Mapping[str, Points]
    y_label: str
    noisy: bool = False


def bar_chart(
    bars: Sequence[Bar],
    *,
    title: str,
    x_label: str = "IoU [%]",
    end: float | None = 1.0,
    from_zero: bool = True,
    baseline_name: str = "baseline",
) -> str:
    """Draw horizontal bars, the first on top, as an SVG element.

    Args:
        bars: At least one.
        x_label: With its unit; values are shown in percent.
        end: Of the axis, 0..1; None for a little beyond what is longest.
        from_zero: Draw bars, whose lengths are true; else dots, on an axis that shows how they differ.
        baseline_name: What the diamonds are, where a bar has one.
    """
    shows_paper, shows_baseline = (any(getattr(bar, of) is not None for bar in bars) for of in ("paper", "baseline"))
    keys = shows_paper + shows_baseline
    with _figure(WIDTH / 72, (62 + 16 * keys + _BAR_UNITS * len(bars)) / 72) as figure:
        axes = _axes(figure, title, size=10)
        cut = _label_rows(axes, [bar.label for bar in bars])
        # all bars, and all intervals, by one call: one each takes seconds for a hundred classes
        rows = [row for row, bar in enumerate(bars) if bar.value is not None]
        colours = [COLOURS[bars[row].colour] for row in rows]
        lengths = [100 * (bars[row].value or 0.0) for row in rows]
        if from_zero:
            axes.barh(rows, lengths, height=0.66, color=colours or None)
        spans = [(row, *bar.interval) for row, bar in enumerate(bars) if bar.value is not None and bar.interval]
        if spans:
            places, lows, highs = np.array(spans).T
            middles, halves = 50 * (lows + highs), 50 * (highs - lows)
            axes.errorbar(middles, places, xerr=halves, fmt="none", ecolor=_INK, capsize=2.5, elinewidth=1)
        if not from_zero:
            axes.scatter(lengths, rows, s=42, color=colours or None, zorder=3)
        for row, bar in enumerate(bars):
            if bar.value is None:
                axes.text(0.5, row, "not predicted, not in the labels", color=_FAINT, size=9, va="center")
                continue
            if bar.paper is not None:
                axes.vlines(100 * bar.paper, row - 0.45, row + 0.45, colors=COLOURS["paper"], linewidth=2.5)
            # in a column of their own, so that they can be compared from row to row
            value = f"{100 * bar.value:.1f}"
            axes.text(1.015, row, value, transform=axes.get_yaxis_transform(), size=10, va="center")
        before = [(100 * bar.baseline, row) for row, bar in enumerate(bars) if bar.baseline is not None]
        if before:
            axes.plot(*np.array(before).T, **_DIAMOND)
        shown = [100 * one for bar in bars for one in (bar.value, bar.paper, bar.baseline, *(bar.interval or ()))
                 if one is not None]  # fmt: skip
        low, high = (min(shown), max(shown)) if shown else (0.0, 1.0)
        if from_zero:
            axes.set_xlim(0, 100 * end if end is not None else min(100, max(1.04 * high, 1)))
        else:
            room = max(0.06 * (high - low), 0.2)
            axes.set_xlim(max(0, low - room), min(100, high + room))
        axes.set_xlabel(x_label, size=10)
        if shows_paper:
            axes.vlines([], 0, 0, colors=COLOURS["paper"], linewidth=2.5, label="the paper's value")
        if shows_baseline:
            axes.plot([], [], label=visible_line(baseline_name), **_DIAMOND)
        if keys:
            figure.legend(loc="outside lower right", frameon=False, fontsize=9)
        return _svg(figure, title, cut)


def change_chart(
    changes: Sequence[Change], *, title: str, x_label: str, limits: tuple[float, float] | None = None
) -> str:
    """Draw differences as bars to the left and right of zero, the first on top, as an SVG element.

    Blue: better, the whole interval says so; orange: worse; grey: cannot tell.

    Args:
        changes: At least one.
        x_label: With its unit; values are shown in percentage points.
        limits: Of the axis, -1..1, such as those of a chart beside it; by default what holds all.
    """
    with _figure(WIDTH / 72, (62 + _BAR_UNITS * len(changes)) / 72) as figure:
        axes = _axes(figure, title, size=10)
        cut = _label_rows(axes, [change.label for change in changes])
        colours = [COLOURS[_colour_of(change)] for change in changes]
        axes.barh(range(len(changes)), [100 * change.value for change in changes], height=0.66, color=colours)
        spans = [(row, *change.interval) for row, change in enumerate(changes) if change.interval]
        if spans:
            places, lows, highs = np.array(spans).T
            middles, halves = 50 * (lows + highs), 50 * (highs - lows)
            axes.errorbar(middles, places, xerr=halves, fmt="none", ecolor=_INK, capsize=2.5, elinewidth=1)
        axes.axvline(0, color=_INK, linewidth=1)
        if limits is not None:
            axes.set_xlim(100 * limits[0], 100 * limits[1])
        for row, change in enumerate(changes):
            value = f"{100 * change.value:+.1f}"
            axes.text(1.015, row, value, transform=axes.get_yaxis_transform(), size=10, va="center")
        axes.set_xlabel(x_label, size=10)
        return _svg(figure, title, cut)


def _colour_of(change: Change) -> str:
    """Return the colour of a verdict; a difference without an interval has none."""
    if change.interval is None or change.interval[0] <= 0 <= change.interval[1]:
        return "uncertain"
    return "seen" if change.interval[0] > 0 else "unseen"


def _label_rows(axes: "Axes", labels: Sequence[str]) -> dict[str, str]:
    """Name the rows of horizontal bars; returns the whole names of those that are cut, by the ids of their labels."""
    names = [visible_line(label) for label in labels]
    short = [_shortened(name) for name in names]
    axes.set_yticks(range(len(names)), short, color=_INK)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for row, label in enumerate(axes.get_yticklabels()):
        label.set_gid(f"bar-{row}")
    return {f"bar-{row}": name for row, name in enumerate(names) if name != short[row]}


def curve_chart(
    points: Points,
    *,
    title: str,
    x_label: str,
    y_label: str,
    colour: str = "plain",
    marks: Sequence[tuple[float, str]] = (),
    name: str = "",
    others: Mapping[str, Points] = MappingProxyType({}),
) -> str:
    """Draw a curve as an SVG element, on a scale that shows how it changes.

    Args:
        points: x and y of each point, ascending in x; at least one.
        x_label: With its unit; of several lines where it is longer than about 45 letters.
        y_label: With its unit; values of y are shown in percent.
        colour: A key of ``COLOURS``.
        marks: Values of x to be marked, each with a word above the curve.
        name: Of the curve, for a legend; none without.
        others: Curves to compare it with, such as that of before, by their names; dashed.
    """
    with _figure(WIDTH / 72, (235 + 14 * len(marks) + 16 * bool(others)) / 72) as figure:
        axes = _axes(figure, title, size=10)
        x, y = np.array(points, float).T * np.array([[1.0], [100.0]])
        axes.plot(x, y, color=COLOURS[colour], marker="o", markersize=5, linewidth=2, label=name or None)
        for other, of_other in others.items():
            across, up = np.array(of_other, float).T
            axes.plot(across, 100 * up, "--", color=_FAINT, marker="D", markersize=5, linewidth=1.5, label=other)
            y = np.concatenate([y, 100 * up])
        if others:
            figure.legend(loc="outside lower center", frameon=False, fontsize=9, ncols=2)
        if np.ptp(y) < 1e-6 * max(1.0, float(np.abs(y).max())):  # what is all but equal gets some room
            axes.set_ylim(y[0] - 1, y[0] + 1)
        axes.ticklabel_format(useOffset=False)
        for number, (value, word) in enumerate(marks):
            # each word on a line of its own above the axes, a dashed line from it down through the curve
            height = 1.02 + 0.085 * (len(marks) - 1 - number)
            beyond = value > (x[0] + x[-1]) / 2
            across = axes.get_xaxis_transform()
            axes.plot([value, value], [0, height + 0.06], "--", color=_FAINT, lw=1, transform=across, clip_on=False)
            axes.annotate(
                *(word, (value, height)),
                xycoords=across,
                xytext=(-4 if beyond else 4, 0),
                textcoords="offset points",
                ha="right" if beyond else "left",
                size=10,
            )
        axes.set_xlabel(x_label, size=10)
        axes.set_ylabel(y_label, size=10)
        return _svg(figure, title, {})


def training_curves(panels: Sequence[Panel]) -> bytes:
    """Draw panels, one below the other, as a PNG file; curves without points are left out.

    Values of which the largest is more than ten times the smallest get a logarithmic axis. What is noisy may leave
    its panel at the very beginning of a run, where a loss is high, so that the rest is not flat.

    Args:
        panels: At least one.
    """
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with _figure(_PANEL_INCHES[0], _PANEL_INCHES[1] * len(panels)) as figure:
        for place, panel in enumerate(panels):
            axes = figure.add_subplot(len(panels), 1, place + 1)
            axes.set_title(panel.title, loc="left", size=11)
            axes.set_xlabel("step", size=10)
            axes.set_ylabel(panel.y_label, size=10)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:,.0f}"))
            trends = []
            for number, (name, points) in enumerate(panel.curves.items()):
                if not len(points):
                    continue
                steps, values = np.array(points, float).T
                if panel.noisy:
                    axes.plot(steps, values, color=f"C{number}", alpha=0.25, linewidth=1)
                    values = _running_mean(values)
                dot = "o" if len(values) == 1 or not panel.noisy else ""
                label = f"{name} {values[-1]:.3g}"
                axes.plot(steps, values, color=f"C{number}", linewidth=2, marker=dot, markersize=4, label=label)
                trends.append(values)
            if trends:
                _scale(axes, np.concatenate(trends), cut_off=panel.noisy)
                last = "last mean" if panel.noisy else "last value"
                axes.legend(title=last, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_PANEL_DPI, metadata={"Software": None})
        return buffer.getvalue()


def share_curves(
    curves: Mapping[str, Points], *, x_label: str, y_label: str, mark: tuple[float, float, str] | None = None
) -> bytes:
    """Draw shares against shares, both in percent, as a PNG file.

    Args:
        curves: Points (x, y) by name, 0..1; x ascends.
        mark: A point, and what it is.
    """
    with _figure(7, 4.2) as figure:
        axes = figure.add_subplot()
        for number, (name, points) in enumerate(curves.items()):
            x, y = 100 * np.array(points, float).T
            axes.plot(x, y, color=f"C{number}", linewidth=2.5 if number == 0 else 1.5, label=name)
        if mark is not None:
            axes.plot(100 * mark[0], 100 * mark[1], "o", color=_INK, markersize=6, label=mark[2])
        axes.set_xlim(0, 100)
        axes.set_xlabel(x_label, size=10)
        axes.set_ylabel(y_label, size=10)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_PANEL_DPI, metadata={"Software": None})
        return buffer.getvalue()


def stacked_bar_chart(
    rows: Sequence[tuple[str, Sequence[float]]], parts: Mapping[str, str], *, title: str, x_label: str
) -> str:
    """Draw horizontal bars, the first on top, each divided into the same parts, as an SVG element.

    Args:
        rows: Label of each bar and its parts, 0..1 each, in the order of ``parts``; at least one row. The first part is
            written beside the bar.
        parts: Names of the parts as the legend has them, each with its colour.
        x_label: With its unit; values are shown in percent.
    """
    with _figure(WIDTH / 72, (62 + 14 * len(parts) + _BAR_UNITS * len(rows)) / 72) as figure:
        axes = _axes(figure, title, size=10)
        names = [visible_line(label) for label, _ in rows]
        labels = [_shortened(name) for name in names]
        axes.set_yticks(range(len(rows)), labels, color=_INK)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        values = 100 * np.array([shares for _, shares in rows], float)  # [row part]
        ends = values.cumsum(axis=1)
        for part, (name, colour) in enumerate(parts.items()):
            starts = ends[:, part] - values[:, part]
            axes.barh(range(len(rows)), values[:, part], left=starts, height=0.72, color=colour, label=name)
        for row, label in enumerate(axes.get_yticklabels()):
            label.set_gid(f"bar-{row}")
            reached = f"{values[row, 0]:.1f}"
            axes.text(1.015, row, reached, transform=axes.get_yaxis_transform(), size=10, va="center")
        axes.set_xlim(0, 100)
        axes.set_xlabel(x_label, size=10)
        figure.legend(loc="outside lower left", frameon=False, fontsize=9)
        return _svg(figure, title, {f"bar-{row}": name for row, name in enumerate(names) if name != labels[row]})


def _scale(axes: "Axes", values: npt.NDArray[np.float64], *, cut_off: bool) -> None:
    """Choose a linear or logarithmic axis that shows how values change."""
    from matplotlib.ticker import FuncFormatter

    low, high = float(values.min()), float(values.max())
    if low > 0 and high / low > _LOG_FROM_RATIO:
        axes.set_yscale("log", subs=[2, 5])
        axes.set_ylim(0.8 * low, 1.25 * high)
        for axis_ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis_ticks(FuncFormatter(lambda value, _: f"{value:g}"))
        return
    if cut_off:
        high = float(np.quantile(values, 0.95)) if len(values) > 20 else high
        room = 0.25 * (high - low) or max(0.1 * abs(high), 0.1)
        axes.set_ylim(low - room, high + room)
    elif high - low < 1e-6 * max(1.0, abs(high)):
        axes.set_ylim(low - max(0.1 * abs(low), 0.1), high + max(0.1 * abs(high), 0.1))
    axes.ticklabel_format(axis="y", useOffset=False)


def _running_mean(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return at each place the mean of the values up to it, over a fiftieth of the run."""
    window = max(1, len(values) // _SMOOTHED_OVER)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    first = np.maximum(0, np.arange(len(values)) + 1 - window)
    means: npt.NDArray[np.float64] = (sums[1:] - sums[first]) / (np.arange(len(values)) + 1 - first)
    return means


@contextmanager
def _figure(width_inches: float, height_inches: float) -> "Iterator[Figure]":
    """Give a figure, and Matplotlib settings of our own while it is drawn."""
    # Where nothing can be written beside HOME it warns of a temporary folder, and of fonts that it lists anew.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with _ONE_AT_A_TIME, mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        # A browser has letters of all scripts, whatever DejaVu lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        yield Figure(figsize=(width_inches, height_inches), layout="constrained")


def _axes(figure: "Figure", title: str, *, size: float) -> "Axes":
    """Begin a chart with its title at the left edge of the picture."""
    figure.suptitle(visible_line(title), x=0.0, ha="left", size=size + 1, weight="bold")
    axes = figure.add_subplot()
    axes.tick_params(labelsize=size)
    return axes


def _shortened(name: str) -> str:
    """Cut a name that is wider than there is room beside the bars."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    def width(text: str) -> float:
        return float(text_to_path.get_text_width_height_descent(text, FontProperties(size=10), ismath=False)[0])

    if width(name) <= _LABEL_UNITS:
        return name
    kept = name[:80]
    while kept and width(kept + "…") > _LABEL_UNITS:
        kept = kept[:-1]
    return kept.rstrip(" ,") + "…"


def _svg(figure: "Figure", title: str, whole_names: Mapping[str, str]) -> str:
    """Return a figure as an element of a page, with the whole names of what was shortened, by their ids."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())  # noqa: S314 - Matplotlib wrote it
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")
    # A page holds many charts: their style sheets would reach all of it, and ids of groups would not be unique. Those
    # in <defs> are digests of what they name.
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in {f"{{{_SVG}}}style", f"{{{_SVG}}}metadata"}:
                parent.remove(child)
        if parent.tag == f"{{{_SVG}}}g":
            whole = whole_names.get(parent.attrib.pop("id", ""))
            if whole is not None:  # shown when the pointer is on it
                text = next(parent.iter(f"{{{_SVG}}}text"))
                ElementTree.SubElement(text, f"{{{_SVG}}}title").text = whole
    del root.attrib["width"], root.attrib["height"]  # the page's own style decides
    root.attrib |= {"class": "chart", "role": "img", "aria-label": visible_line(title), "stroke-linejoin": "round"}
    return ElementTree.tostring(root, encoding="unicode")
