"""Charts: well-formed, escaped, with axes, ticks and units, everything inside the picture, equal bytes on every run."""

import io
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline.charts import COLOURS, WIDTH, Bar, Change, Panel, bar_chart, change_chart, curve_chart, training_curves

SVG = "{http://www.w3.org/2000/svg}"
FALLING = [(float(step), 5.0 / step) for step in range(1, 200)]


def texts(svg: str) -> list[str]:
    return ["".join(element.itertext()) for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def painted(svg: str, colour: str) -> list[ElementTree.Element]:
    """Return the shapes of a colour."""
    return [element for element in ElementTree.fromstring(svg).iter() if colour in element.get("style", "")]


def test_bars_have_axis_ticks_unit_values_and_escaped_labels():
    bars = [Bar("<script>alert('&')</script>" * 2, 0.5, (0.4, 0.6), "unseen", paper=0.7), Bar("absent", None)]
    svg = bar_chart(bars, title="unseen classes (2)")
    assert "<script>" not in svg
    found = texts(svg)
    assert {"unseen classes (2)", "absent", "0", "20", "100", "IoU [%]", "50.0", "the paper's value"} <= set(found)
    root = ElementTree.fromstring(svg)
    (whole,) = [title.text for title in root.iter(f"{SVG}title")]
    assert whole == "<script>alert('&')</script>" * 2
    (label,) = [text for text in root.iter(f"{SVG}text") if whole in text.itertext()]
    assert label.text.startswith("<script>alert('&')")
    assert label.text.endswith("…"), "cut; the whole name is its tooltip"
    assert root.get("viewBox").split()[2] == str(WIDTH)
    assert len(painted(svg, f"fill: {COLOURS['unseen']}")) == 1


def test_a_bar_is_as_long_as_its_value():
    svg = bar_chart([Bar("all", 1.0, colour="seen"), Bar("half", 0.5, colour="unseen")], title="t")
    lengths = []
    for colour in ("seen", "unseen"):
        (bar,) = painted(svg, f"fill: {COLOURS[colour]}")
        across = [float(number) for number in bar.get("d").replace("M", "L").replace("z", "").split() if number != "L"][
            ::2
        ]
        lengths.append(max(across) - min(across))
        assert 0 < min(across) < max(across) < WIDTH
    assert lengths[1] == pytest.approx(lengths[0] / 2, rel=1e-3)


def test_names_keep_what_has_a_meaning_elsewhere():
    """Signs of mathematics, letters that the font lacks, and control characters, in labels and titles."""
    svg = bar_chart([Bar("$x^2$ \u72ac", 0.1), Bar("\x1b[31mred\n", 0.2)], title="a\x07 b", end=None)
    assert {"$x^2$ \u72ac", "\\x1b[31mred\\n", "a\\x07 b"} <= set(texts(svg))


def test_bars_without_any_value_can_be_drawn():
    assert "absent" in texts(bar_chart([Bar("absent", None)], title="t", end=None))


def test_a_scale_that_is_not_whole_ends_near_the_longest_bar():
    assert "100" not in texts(bar_chart([Bar("a", 0.031)], title="t", end=None))
    assert "100" in texts(bar_chart([Bar("a", 0.031)], title="t"))


def test_dots_show_small_differences_where_bars_would_not():
    """Values between 28 and 32 fill the axis; a bar would begin at zero."""
    svg = bar_chart([Bar("a", 0.28, (0.27, 0.29)), Bar("b", 0.32)], title="t", end=None, from_zero=False)
    assert {"a", "b", "28.0", "32.0", "IoU [%]"} <= set(texts(svg))
    assert not {"0", "10", "100"} & set(texts(svg))
    bars = bar_chart([Bar("a", 0.28), Bar("b", 0.32)], title="t", end=None)
    assert "0" in texts(bars)


def test_what_is_compared_with_is_a_diamond_on_the_bar_and_in_the_legend():
    bars = [Bar("a", 0.5, baseline=0.25), Bar("b", 0.5)]
    assert "before" in texts(bar_chart(bars, title="t", baseline_name="before"))
    assert "before" not in texts(bar_chart(bars[1:], title="t", baseline_name="before"))


def test_differences_are_left_and_right_of_zero_in_the_colour_of_what_can_be_said():
    changes = [Change("up", 0.2, (0.1, 0.3)), Change("even", 0.1, (-0.1, 0.3)), Change("down", -0.2, (-0.3, -0.1))]
    svg = change_chart(changes, title="t", x_label="difference [percentage points]", limits=(-0.4, 0.4))
    assert {"up", "even", "down", "+20.0", "+10.0", "-20.0", "difference [percentage points]"} <= set(texts(svg))
    assert all(len(painted(svg, f"fill: {COLOURS[colour]}")) == 1 for colour in ("seen", "uncertain", "unseen"))
    assert "never" in texts(change_chart([Change("never", 0.0)], title="t", x_label="x"))


def test_a_curve_of_before_is_dashed_beside_the_other_and_named():
    curve = [(0.0, 0.30), (1.0, 0.32)]
    svg = curve_chart(
        curve, title="t", x_label="x", y_label="y", name="after", others={"before": [(0.0, 0.1), (1.0, 0.1)]}
    )
    assert {"after", "before", "10"} <= set(texts(svg))
    assert "before" not in texts(curve_chart(curve, title="t", x_label="x", y_label="y"))


def test_a_curve_has_two_axes_with_labels_and_marks_and_a_scale_that_shows_its_change():
    svg = curve_chart(
        [(0.0, 0.30), (0.7, 0.35), (1.0, 0.32)],
        title="Ensemble weight",
        x_label="ensemble weight λ",
        y_label="mIoU [%]",
        marks=[(0.7, "best")],
    )
    found = texts(svg)
    assert {"Ensemble weight", "ensemble weight λ", "mIoU [%]", "best", "0.0", "0.2", "1.0", "31", "35"} <= set(found)
    assert not {"0", "10", "100"} & set(found)
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    points = [
        (float(dot.get("x")), float(dot.get("y")))
        for dot in root.iter(f"{SVG}use")
        if COLOURS["plain"] in dot.get("style", "")
    ]
    assert len(points) == 3
    assert all(0 < x < width and 0 < y < height for x, y in points)
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[1][1] < points[2][1] < points[0][1]  # higher values lie higher
    (word,) = [text for text in root.iter(f"{SVG}text") if text.text == "best"]
    assert float(word.get("y")) < points[1][1] - 3  # above the curve, not over it


@pytest.mark.parametrize("points", [[(0.5, 0.2)], [(0.0, 0.0), (1.0, 0.0)], [(0.0, 0.3), (1.0, 0.3)]])
def test_a_curve_without_change_can_be_drawn(points):
    assert "mIoU [%]" in texts(curve_chart(points, title="t", x_label="x", y_label="mIoU [%]"))


def picture(panels: list[Panel]) -> Image.Image:
    return Image.open(io.BytesIO(training_curves(panels))).convert("RGB")


def test_panels_lie_below_each_other_with_their_curves():
    noisy = Panel("loss", {"loss": FALLING}, "loss", noisy=True)
    one, two = picture([noisy]), picture([noisy, Panel("figures", {"miou": [(200.0, 0.5)]}, "share")])
    assert two.size == (one.width, 2 * one.height)
    for top in (0, one.height):
        shown = np.asarray(two.crop((0, top, one.width, top + one.height)))
        assert (shown == (31, 119, 180)).all(axis=2).sum() > 10


@pytest.mark.parametrize("points", [[], [(1.0, 0.0)], [(1.0, 0.0), (2.0, 0.0)], [(1.0, -2.0), (9.0, 0.001)]])
@pytest.mark.parametrize("noisy", [True, False])
def test_curves_of_nothing_and_of_zeros_can_be_drawn(points, noisy):
    assert len(picture([Panel("nothing", {"loss": points}, "loss", noisy=noisy)]).getcolors(10**5)) > 2


DRAW = """
import hashlib, sys
import pipeline.charts as charts
assert "matplotlib" not in sys.modules, "it is imported when something is drawn"
drawn = [
    charts.bar_chart([charts.Bar("a", 0.5, (0.4, 0.6), paper=0.7)], title="t").encode(),
    charts.curve_chart([(0, 0.1), (1, 0.2)], title="t", x_label="x", y_label="y", marks=[(1, "m")]).encode(),
    charts.training_curves([charts.Panel("t", {"a": [(1, 2.0), (2, 1.0)]}, "loss")]),
    charts.share_curves({"a": [(0, 1.0), (1, 0.5)]}, x_label="x", y_label="y", mark=(1.0, 0.5, "all")),
]
assert "matplotlib.pyplot" not in sys.modules
print([hashlib.sha256(data).hexdigest() for data in drawn])
"""


def test_equal_bytes_in_any_process_and_nothing_said_where_home_cannot_be_written(tmp_path):
    """Whatever a user's own Matplotlib settings say; there is neither a display nor a home."""
    (tmp_path / "matplotlibrc").write_text("font.size: 30\nlines.linewidth: 9\nbackend: TkAgg\n")
    runs = []
    for home, seed in ((tmp_path, "1"), (Path("/proc/none"), "2")):
        hidden = {"MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "DISPLAY"}
        environment = {name: value for name, value in os.environ.items() if name not in hidden}
        environment |= {"HOME": str(home), "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", DRAW],
            cwd=tmp_path if home == tmp_path else None,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        runs.append(done.stdout)
    assert runs[0] == runs[1]
    assert "[" in runs[0]
