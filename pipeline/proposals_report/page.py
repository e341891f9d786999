"""The report as a page without any network, and as Markdown."""

import base64
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from ovseg_models.proposal_quality import LIMITS
from pipeline.charts import Bar, bar_chart, curve_chart
from pipeline.evaluate.report.page import cell, percent
from pipeline.picture_sheets import png
from pipeline.proposals_report.numbers import FEW_IOU, Numbers
from pipeline.visible_text import visible

_CLASSES_SHOWN = 24
_GROUP_COLOURS = {"seen": "seen", "unseen": "unseen"}


def html_page(numbers: Numbers, sheet: Image.Image | None) -> str:
    """Write the page; every text is escaped."""
    environment = _environment()
    url = None
    if sheet is not None:
        url = Markup(f"data:image/png;base64,{base64.b64encode(png(sheet, colours=256)).decode()}")  # noqa: S704
    classes = numbers["classes"]
    worst, best = classes[:_CLASSES_SHOWN], classes[_CLASSES_SHOWN:][::-1][:_CLASSES_SHOWN]
    return environment.get_template("page.html").render(
        report=numbers,
        sheet=url,
        few_iou=FEW_IOU,
        style=Markup(environment.get_template("page.css").render()),  # noqa: S704 - our own file
        cost_chart=_safe(_cost_chart(numbers)),
        group_chart=_safe(
            _bars([(name, group["best_iou"], name) for name, group in numbers["groups"].items()], "Mean best IoU")
        ),
        recall_chart=_safe(_recall_chart(numbers)),
        worst_chart=_safe(_bars(_of_classes(worst), f"Worst {len(worst)} of {len(classes)} classes: mean best IoU")),
        best_chart=_safe(_bars(_of_classes(best), f"Best {len(best)} of {len(classes)}")) if best else "",
    )


def markdown_page(numbers: Numbers) -> str:
    """Write the same numbers as Markdown."""
    return _environment().get_template("report.md").render(report=numbers)


def _environment() -> Environment:
    """Return where templates are found: our own, and the style of the report on an evaluation."""
    environment = Environment(
        loader=ChoiceLoader([PackageLoader("pipeline.proposals_report"), PackageLoader("pipeline.evaluate.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_visible,
    )
    environment.filters |= {"percent": percent, "cell": cell}
    return environment


def _visible(value: object) -> object:
    """Write out control characters of names."""
    if isinstance(value, Markup):
        return Markup(visible(str(value)))  # noqa: S704 - it was markup before
    return visible(value) if isinstance(value, str) else value


def _safe(svg: str) -> Markup:
    """Mark a chart as escaped already: an XML library wrote it."""
    return Markup(svg)  # noqa: S704


def _of_classes(classes: list[Numbers]) -> list[tuple[str, float, str]]:
    return [(entry["name"], entry["best_iou"], entry["mark"]) for entry in classes]


def _bars(rows: list[tuple[str, float, str]], title: str) -> str:
    """Draw values as bars in the colours of their marks."""
    marks = {"seen", "unseen", "uncertain"}
    return bar_chart([Bar(name, value, colour=mark if mark in marks else "plain") for name, value, mark in rows],
                     title=title)  # fmt: skip


def _cost_chart(numbers: Numbers) -> str:
    """Draw what the result is, and what it would be with perfect names, perfect masks, or both."""
    named: dict[str, Any] = numbers["named"]
    rows = [
        ("result", named.get("result")),
        ("true masks, CLIP's names", named.get("true_masks")),
        ("these masks, perfect names", numbers["oracle_miou"]),
        ("perfect masks and names", 1.0),
    ]
    bars = [Bar(name, value) for name, value in rows if value is not None]
    return bar_chart(bars, title="What is lost by masks, and what by names", x_label="mIoU [%]")


def _recall_chart(numbers: Numbers) -> str:
    """Draw recall over the IoU that is asked for, with all hundred proposals."""
    most = LIMITS[-1]
    points = [(row["iou"], row[f"recall_{most}"]) for row in numbers["recall_curve"]]
    return curve_chart(
        points, title=f"Recall with {most} masks a picture", x_label="IoU that is asked for", y_label="recall [%]"
    )
