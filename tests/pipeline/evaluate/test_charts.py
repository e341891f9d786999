"""Charts: well-formed, escaped, with axes, ticks and units, everything inside the picture."""

from itertools import pairwise
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.report.charts import WIDTH, Bar, Curve, bar_chart, curve_chart, shortened, ticks, width_of

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_bars_have_axis_ticks_unit_values_and_escaped_labels():
    bars = [
        Bar("<script>alert('&')</script>", 0.5, (0.4, 0.6), "unseen", paper=0.7),
        Bar("absent", None),
    ]
    svg = bar_chart(bars, title="unseen classes (2)")
    assert "<script>" not in svg
    found = texts(svg)
    assert {"unseen classes (2)", "0", "25", "50", "75", "100", "IoU [%]", "50.0"} <= set(found)
    assert any(text.startswith("<script>alert('&')") and text.endswith("…") for text in found)  # cut; whole as tooltip
    root = ElementTree.fromstring(svg)
    assert [title.text for title in root.iter(f"{SVG}title")] == ["<script>alert('&')</script>", "absent"]
    (bar,) = root.iter(f"{SVG}rect")
    axis_px = float(bar.get("width")) / 0.5
    assert float(bar.get("x")) + axis_px < WIDTH


def test_curves_have_two_axes_with_labels_and_marks():
    svg = curve_chart(
        [Curve("mIoU", [(0.0, 0.2), (0.7, 0.31), (1.0, 0.25)])],
        title="Ensemble weight",
        x_label="ensemble weight λ",
        y_label="mIoU [%]",
        marks=[(0.7, "best")],
    )
    assert {"Ensemble weight", "ensemble weight λ", "mIoU [%]", "best", "0", "0.2", "1", "20"} <= set(texts(svg))
    root = ElementTree.fromstring(svg)
    _, _, width, height = map(float, root.get("viewBox").split())
    circles = [(float(c.get("cx")), float(c.get("cy"))) for c in root.iter(f"{SVG}circle")]
    assert all(0 < x < width and 0 < y < height for x, y in circles)
    assert [x for x, _ in circles] == sorted(x for x, _ in circles)
    assert circles[1][1] < circles[2][1] < circles[0][1]  # higher values lie higher
    (word,) = [text for text in root.iter(f"{SVG}text") if text.text == "best"]
    assert float(word.get("y")) < circles[1][1] - 3  # above the curve, not over it


def test_several_curves_are_named():
    svg = curve_chart(
        [Curve("one", [(0, 0.1), (1, 0.2)]), Curve("two", [(0, 0.3)], "unseen")], title="t", x_label="x", y_label="y"
    )
    assert {"one", "two", "y"} <= set(texts(svg))


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_ticks_are_few_even_and_enclose(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 9
    step = found[1] - found[0]
    assert found[0] <= low + 1e-6 * max(1, abs(step))
    assert found[-1] >= low + span - 1e-6 * max(1, abs(step))
    assert all(b - a == pytest.approx(step, abs=1e-9) for a, b in pairwise(found))


def test_long_names_are_cut():
    assert shortened("sky", 30) == "sky"
    assert shortened("a class, with a rather long name", 66) == "a class…"
    assert shortened("mmmm", 20) == "m…"
    assert width_of(shortened("WWWWWWWWWWWW", 54)) <= 54
