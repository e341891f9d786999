"""The report as one HTML page that needs no network, and the same numbers in Markdown."""

import html
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.charts import Bar, bar_chart, curve_chart
from pipeline.evaluate.error_sources import CHARTED, error_chart, most_lost
from pipeline.evaluate.report.numbers import Numbers
from pipeline.evaluate.report.paper import A150_SEEN, A150_UNSEEN, PAPER_ABLATIONS
from pipeline.evaluate.report.pictures import ConfusionExample, PictureBook, PictureRow, spread
from pipeline.evaluate.variants import Section
from pipeline.visible_text import visible

BARS_WHOLE, BARS_AT_EACH_END = 64, 24
SAMPLE_ROWS, RANKED_ROWS, CONFUSION_EXAMPLES = 4, 3, 6
MARKS = ("seen", "unseen", "uncertain")
_MIOU, _WEIGHT = "mIoU [%]", "ensemble weight λ\n(0 = proposal net only, 1 = CLIP only)"

SECTIONS: Mapping[Section, tuple[str, str]] = {
    "branches": (
        "Parts of the method",
        "Each branch alone; and CLIP without mask prompts, or without masks, at the main ensemble weight.",
    ),
    "bottleneck": (
        "Where the bottleneck is",
        "The label map's regions (true-masks) and their boxes (true-boxes) named by CLIP; our masks named perfectly.",
    ),
    "adaptation": (
        "What adapting CLIP does",
        "The same proposals named by each CLIP, with the proposal net and alone.",
    ),
}


SHOWN_METRICS: Mapping[str, tuple[str, str]] = {
    "miou": ("mIoU (classes with ground truth or predictions)", "mIoU [%]"),
    "miou_present": ("mIoU (classes with ground truth)", "mIoU of present classes"),
    "seen_miou": ("mIoU of seen classes", "seen"),
    "unseen_miou": ("mIoU of unseen classes", "unseen"),
    "harmonic_miou": ("harmonic mean of the two", "harmonic"),
    "fwiou": ("frequency-weighted IoU", "fwIoU"),
    "macc": ("mean accuracy of classes", "mACC"),
    "pacc": ("pixel accuracy", "pACC"),
    "boundary_iou": ("boundary IoU, mean of classes", "boundary IoU"),
}
"""Metrics with their label in the page's table, and the head of their column in the Markdown file."""


@dataclass(frozen=True)
class Pictures:
    """The pictures of one data set.

    Attributes:
        samples: Images spread evenly over the data set.
        worst: Images with the lowest mean IoU; none where the samples are all images.
        best: Images with the highest; likewise.
        confusions: Example of each of the first confusions; None where no image shows it.
    """

    samples: Sequence[PictureRow]
    worst: Sequence[PictureRow]
    best: Sequence[PictureRow]
    confusions: Sequence[ConfusionExample | None]


def pictures_of(dataset: Numbers, book: PictureBook) -> Pictures:
    """Draw the pictures of one data set."""
    ranked = [entry["key"] for entry in dataset["per_image"]]
    shown = min(RANKED_ROWS, len(ranked) // 2) if len(ranked) > SAMPLE_ROWS else 0
    return Pictures(
        samples=[book.row(key) for key in spread([image.key for image in book.images], SAMPLE_ROWS)],
        worst=[book.row(key) for key in ranked[:shown]],
        best=[book.row(key) for key in ranked[::-1][:shown]],
        confusions=[
            book.confusion(pair["true_index"], pair["predicted_index"])
            for pair in dataset["confusions"][:CONFUSION_EXAMPLES]
        ],
    )


def html_page(numbers: Numbers, pictures: Sequence[Pictures]) -> str:
    """Write the page; every text is escaped."""
    environment = _environment()
    return environment.get_template("page.html").render(
        report=numbers,
        datasets=[_shown(dataset, numbers) | {"pictures": own} for dataset, own in zip(
            numbers["datasets"], pictures, strict=True
        )],
        style=Markup(environment.get_template("page.css").render()),  # noqa: S704 - our own file
        paper_seen_unseen=(A150_SEEN, A150_UNSEEN),
        settings=json.dumps(numbers["settings"], indent=2, ensure_ascii=False),
    )  # fmt: skip


def markdown_page(numbers: Numbers) -> str:
    """Write the same numbers as Markdown, for a terminal or a pull request."""
    datasets = [_shown(dataset, numbers) for dataset in numbers["datasets"]]
    environment = _environment()
    environment.filters["cell"] = cell
    return environment.get_template("report.md").render(report=numbers, datasets=datasets)


def cell(text: object) -> Markup:
    """Write a text so that neither Markdown nor HTML takes any of it for its own."""
    escaped = html.escape(str(text), quote=False)
    return Markup("".join(f"\\{sign}" if sign in r"\`*_[]|" else sign for sign in escaped).replace("\n", " "))  # noqa: S704


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent, without the sign; a dash for what does not exist."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _environment() -> Environment:
    """Return where templates are found."""
    environment = Environment(
        loader=PackageLoader("pipeline.evaluate.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_without_control_characters,
    )
    environment.filters["percent"] = percent
    environment.globals["shown_metrics"] = SHOWN_METRICS
    return environment


def _without_control_characters(value: object) -> object:
    """Write out control characters of names in whatever a template shows."""
    if isinstance(value, Markup):
        return Markup(visible(str(value)))  # noqa: S704 - it was markup before
    return visible(value) if isinstance(value, str) else value


def _shown(dataset: Numbers, report: Numbers) -> dict[str, Any]:
    """Return what templates show of one data set."""
    variants = {variant["name"]: variant for variant in dataset["variants"]}
    main = variants[dataset["main_variant"]]
    tables = [
        {
            "title": title,
            "text": text,
            "paper": PAPER_ABLATIONS[section],
            "rows": [main, *rows],
            "chart": _safe(_variant_chart([main, *rows])),
        }
        for section, (title, text) in SECTIONS.items()
        if (rows := [variant for variant in dataset["variants"] if variant["section"] == section])
    ]
    return {
        "numbers": dataset,
        "main": main,
        "class_charts": [_safe(chart) for chart in _class_charts(dataset["classes"])],
        "tables": tables,
        "error_chart": _error_chart(dataset["error_sources"]),
        "curves": [_safe(chart) for chart in _curves(dataset, report["weight_choice"])],
        "choice": _choice(dataset, report["weight_choice"]),
    }


def _safe(svg: str) -> Markup:
    """Mark a chart as escaped already: an XML library wrote it."""
    return Markup(svg)  # noqa: S704


def _error_chart(sources: Numbers | None) -> Markup | None:
    """Draw what masks and names lose of the classes that lose most."""
    if sources is None or not sources["classes"]:
        return None
    shown = most_lost(sources["classes"], CHARTED)
    more = "" if len(shown) == len(sources["classes"]) else f": {len(shown)} of {len(sources['classes'])} classes"
    return _safe(error_chart(shown, title=f"What names and masks lose{more}"))


def _class_charts(classes: Sequence[Numbers]) -> list[str]:
    """Draw the IoU of the classes that occur, one chart per mark, the best first."""
    charts = []
    for mark in MARKS:
        own = [entry for entry in classes if entry["mark"] == mark and entry["iou"] is not None]
        own.sort(key=lambda entry: -entry["iou"])
        if not own:
            continue
        if len(own) <= BARS_WHOLE:
            charts.append(_class_chart(own, mark, f"{mark} classes ({len(own)})"))
        else:
            ends = (own[:BARS_AT_EACH_END], own[-BARS_AT_EACH_END:])
            for part, word in zip(ends, ("best", "worst"), strict=True):
                charts.append(_class_chart(part, mark, f"{mark} classes: {word} {len(part)} of {len(own)}"))
    return charts


def _class_chart(classes: Sequence[Numbers], mark: str, title: str) -> str:
    """Draw the IoU of some classes."""
    return bar_chart(
        [Bar(entry["name"], entry["iou"], _interval(entry["iou_interval"]), mark) for entry in classes], title=title
    )


def _variant_chart(variants: Sequence[Numbers]) -> str:
    """Draw the mIoU of variants, with the paper's values where it has any."""
    bars = [
        Bar(
            variant["name"],
            variant["metrics"]["miou"],
            _interval(variant["intervals"].get("miou")),
            "plain",
            None if variant["paper_miou_percent"] is None else variant["paper_miou_percent"] / 100,
        )
        for variant in variants
    ]
    title = "mIoU of each variant" + (", and the paper's" if any(bar.paper is not None for bar in bars) else "")
    return bar_chart(bars, title=title, x_label=_MIOU, whole_scale=False)


def _interval(bounds: Sequence[float | None] | None) -> tuple[float, float] | None:
    """Return an interval that exists."""
    if bounds is None or bounds[0] is None or bounds[1] is None:
        return None
    return bounds[0], bounds[1]


def _curves(dataset: Numbers, weight_choice: Numbers | None) -> list[str]:
    """Draw the sweeps of ensemble weight and mask threshold, as far as there are any."""
    charts = []
    weights = _points(dataset, "weights", lambda variant: variant["ensemble_weight"])
    choice = _choice(dataset, weight_choice)
    if len(weights) > 1 and choice is not None:
        marks = [(choice["best"]["weight"], "best on the test set")]
        if choice["chosen"] is not None:
            marks.append((choice["chosen"]["weight"], "chosen on pairs"))
        charts.append(curve_chart(weights, title="Ensemble weight", x_label=_WEIGHT, y_label=_MIOU, marks=marks))
    if weight_choice is not None:
        charts.append(
            curve_chart(
                [(row["ensemble_weight"], row["accuracy"]) for row in weight_choice["rows"]],
                title=f"The same on {weight_choice['pairs']} mined validation pairs",
                x_label=_WEIGHT,
                y_label="pairs named correctly [%]",
                colour="unseen",
                marks=[(weight_choice["chosen"], "chosen")],
            )
        )
    thresholds = _points(dataset, "thresholds", lambda variant: variant["view"]["mask_threshold"])
    if len(thresholds) > 1:
        label = "mask probability\nabove which a pixel is in CLIP's crop"
        charts.append(curve_chart(thresholds, title="Mask threshold", x_label=label, y_label=_MIOU))
    return charts


def _points(dataset: Numbers, section: Section, value: Callable[[Numbers], float]) -> list[tuple[float, float]]:
    """Return the points of a sweep."""
    return sorted(
        (value(variant), variant["metrics"]["miou"])
        for variant in dataset["variants"]
        if variant["section"] == section and variant["metrics"]["miou"] is not None
    )


def _choice(dataset: Numbers, weight_choice: Numbers | None) -> dict[str, Any] | None:
    """Set the weight that pairs choose beside the one that the test set would have chosen; None without a sweep."""
    points = _points(dataset, "weights", lambda variant: variant["ensemble_weight"])
    if not points:
        return None
    best = max(points, key=lambda point: point[1])
    chosen = None
    if weight_choice is not None:
        nearest = min(points, key=lambda point: abs(point[0] - weight_choice["chosen"]))
        chosen = {"weight": nearest[0], "miou": nearest[1]}
    return {"best": {"weight": best[0], "miou": best[1]}, "chosen": chosen}
