"""The report as one HTML page that needs no network, and the same numbers in Markdown."""

import base64
import html
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.charts import Bar, Change, bar_chart, change_chart, curve_chart
from pipeline.evaluate.error_sources import CHARTED, error_chart, most_lost
from pipeline.evaluate.report.links import Link
from pipeline.evaluate.report.numbers import Numbers
from pipeline.evaluate.report.paper import A150_SEEN, A150_UNSEEN, PAPER_ABLATIONS
from pipeline.evaluate.report.pictures import NAME_PX, ConfusionExample, PictureBook, PictureRow, picture_row, spread
from pipeline.evaluate.variants import ORIGINAL, Section
from pipeline.provenance import Provenance
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
        gained: Images of which the mean IoU is most above that of the evaluation that is compared with.
        lost: Images of which it is most below.
        confusions: Example of each of the first confusions; None where no image shows it.
    """

    samples: Sequence[PictureRow]
    worst: Sequence[PictureRow]
    best: Sequence[PictureRow]
    gained: Sequence[PictureRow]
    lost: Sequence[PictureRow]
    confusions: Sequence[ConfusionExample | None]


@dataclass(frozen=True)
class Making:
    """How a page was made; none of it is in the numbers, which are the same whenever they are made.

    Attributes:
        command: That makes it again from the settings.
        settings: All of them, as TOML.
        links: To what the models were made of.
    """

    provenance: Provenance
    command: str
    settings: str
    links: Sequence[Link] = ()


def pictures_of(dataset: Numbers, book: PictureBook, before: PictureBook | None = None) -> Pictures:
    """Draw the pictures of one data set.

    Args:
        before: Of the evaluation that is compared with; its prediction stands beside ours.
    """

    def row(key: str) -> PictureRow:
        if before is None or key not in before:
            return book.row(key)
        return picture_row({dataset["comparison"]["baseline"]: before, "prediction": book}, key)

    ranked = [entry["key"] for entry in dataset["per_image"]]
    shown = min(RANKED_ROWS, len(ranked) // 2) if len(ranked) > SAMPLE_ROWS else 0
    changes = [] if before is None else dataset["comparison"]["per_image"]
    changed = sorted(changes, key=lambda entry: (entry["first"] - entry["second"], entry["key"]))
    return Pictures(
        samples=[row(key) for key in spread([image.key for image in book.images], SAMPLE_ROWS)],
        worst=[row(key) for key in ranked[:shown]],
        best=[row(key) for key in ranked[::-1][:shown]],
        gained=[row(entry["key"]) for entry in changed[:RANKED_ROWS] if entry["second"] > entry["first"]],
        lost=[row(entry["key"]) for entry in changed[::-1][:RANKED_ROWS] if entry["second"] < entry["first"]],
        confusions=[
            book.confusion(pair["true_index"], pair["predicted_index"])
            for pair in dataset["confusions"][:CONFUSION_EXAMPLES]
        ],
    )


def html_page(numbers: Numbers, pictures: Sequence[Pictures], making: Making) -> str:
    """Write the page; every text is escaped."""
    environment = report_environment()
    return environment.get_template("page.html").render(
        report=numbers,
        datasets=[_shown(dataset, numbers) | {"pictures": own} for dataset, own in zip(
            numbers["datasets"], pictures, strict=True
        )],
        style=Markup(environment.get_template("page.css").render()),  # noqa: S704 - our own file
        paper_seen_unseen=(A150_SEEN, A150_UNSEEN),
        making=making,
        links={group: list(some) for group, some in groupby(making.links, lambda link: link.group)},
        settings_url=Markup(  # noqa: S704 - base64
            f"data:application/toml;base64,{base64.b64encode(making.settings.encode()).decode()}"
        ),
    )  # fmt: skip


def markdown_page(numbers: Numbers) -> str:
    """Write the same numbers as Markdown, for a terminal or a pull request."""
    datasets = [_shown(dataset, numbers) for dataset in numbers["datasets"]]
    environment = report_environment()
    return environment.get_template("report.md").render(report=numbers, datasets=datasets)


def cell(text: object) -> Markup:
    """Write a text so that neither Markdown nor HTML takes any of it for its own."""
    escaped = html.escape(str(text), quote=False)
    return Markup("".join(f"\\{sign}" if sign in r"\`*_[]|" else sign for sign in escaped).replace("\n", " "))  # noqa: S704


def percent(value: float | None, digits: int = 1) -> str:
    """Write a share in percent, without the sign; a dash for what does not exist."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


def change(value: float | None) -> str:
    """Write a difference in percentage points, with its sign; a dash for what does not exist."""
    return "-" if value is None else f"{100 * value:+.1f}"


def report_environment(*packages: str) -> Environment:
    """Return an environment that finds this report's templates: ``page.css``, and ``parts.html`` with its macros.

    Args:
        packages: Others whose templates are found first.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package) for package in (*packages, "pipeline.evaluate.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=without_control_characters,
    )
    environment.filters |= {"percent": percent, "change": change, "cell": cell}
    environment.globals |= {"shown_metrics": SHOWN_METRICS, "map_font_px": NAME_PX}
    return environment


def without_control_characters(value: object) -> object:
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
            "key": section,
        }
        for section, (title, text) in SECTIONS.items()
        if (rows := [variant for variant in dataset["variants"] if variant["section"] == section])
    ]
    comparison = dataset["comparison"]
    return {
        "numbers": dataset,
        "main": main,
        "error_chart": _error_chart(dataset["error_sources"]),
        "class_charts": [_safe(chart) for chart in _class_charts(dataset["classes"], comparison)],
        "changes": {} if comparison is None else {entry["index"]: entry for entry in comparison["classes"]},
        "verdicts": {} if comparison is None else Counter(entry["verdict"] for entry in comparison["classes"]),
        "change_charts": [_safe(chart) for chart in change_charts(comparison)] if comparison else [],
        "bottleneck": [table for table in tables if table["key"] == "bottleneck"],
        "tables": [table for table in tables if table["key"] != "bottleneck"],
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


def _class_charts(classes: Sequence[Numbers], comparison: Numbers | None) -> list[str]:
    """Draw the IoU of the classes that occur, one chart per mark, the best first, all on one scale."""
    before = {entry["index"]: entry["first"] for entry in comparison["classes"]} if comparison else {}
    name = comparison["baseline"] if comparison else ""
    known = [entry for entry in classes if entry["iou"] is not None]
    ends = [end for entry in known for end in (entry["iou"], *entry["iou_interval"], before.get(entry["index"]))]
    end = _round_end(max((end for end in ends if end is not None), default=1.0))

    def chart(some: Sequence[Numbers], mark: str, title: str) -> str:
        bars = [
            Bar(entry["name"], entry["iou"], _interval(entry["iou_interval"]), mark, None, before.get(entry["index"]))
            for entry in some
        ]
        return bar_chart(bars, title=title, end=end, baseline_name=name)

    charts = []
    for mark in MARKS:
        own = sorted((entry for entry in known if entry["mark"] == mark), key=lambda entry: -entry["iou"])
        if 0 < len(own) <= BARS_WHOLE:
            charts.append(chart(own, mark, f"{mark} classes ({len(own)})"))
        elif own:
            for part, word in ((own[:BARS_AT_EACH_END], "best"), (own[-BARS_AT_EACH_END:], "worst")):
                charts.append(chart(part, mark, f"{mark} classes: {word} {len(part)} of {len(own)}"))
    return charts


def _round_end(value: float) -> float:
    """Return where an axis ends that begins at zero and holds a value, on a round number."""
    return next((end for end in (0.05, 0.1, 0.2, 0.4, 0.6, 0.8) if value <= end), 1.0)


def change_charts(comparison: Numbers) -> list[str]:
    """Draw how much each class is better or worse than what is compared with, the largest gain first."""
    changes = [
        Change(entry["name"], entry["difference"], _interval(entry["interval"]))
        for entry in sorted(comparison["classes"], key=lambda entry: -(entry["difference"] or 0.0))
        if entry["difference"] is not None
    ]
    if not changes:
        return []
    name, count = comparison["baseline"], len(changes)
    half = (count + 1) // 2
    if count > BARS_WHOLE:
        gains, losses = changes[:BARS_AT_EACH_END], changes[-BARS_AT_EACH_END:]
        parts = {
            f"the {len(gains)} largest gains of {count} classes": gains,
            f"the {len(losses)} largest losses": losses,
        }
    elif count > BARS_AT_EACH_END:
        parts = {f"{half} of {count} classes": changes[:half], f"the other {count - half}": changes[half:]}
    else:
        parts = {f"all {count} classes": changes}
    ends = [end for one in changes for end in (0.0, one.value, *(one.interval or ()))]
    room = 0.03 * (max(ends) - min(ends)) or 0.01
    return [
        change_chart(
            some,
            title=f"Minus {name}: {title}",
            x_label="difference in IoU [percentage points]",
            limits=(min(ends) - room, max(ends) + room),
        )
        for title, some in parts.items()
    ]


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
    return bar_chart(bars, title=title, x_label=_MIOU, end=None, from_zero=False)


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
        before = _points_before(dataset)
        others = {"original CLIP, before training": before} if len(before) > 1 else {}
        charts.append(
            curve_chart(
                weights,
                title="Ensemble weight",
                x_label=_WEIGHT,
                y_label=_MIOU,
                marks=marks,
                name="this CLIP",
                others=others,
            )
        )
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


def _points_before(dataset: Numbers) -> list[tuple[float, float]]:
    """Return mIoU by ensemble weight of the CLIP before training, at the weights at which ablations have it."""
    main = next(variant for variant in dataset["variants"] if variant["name"] == dataset["main_variant"])
    if main["view"] is None or main["view"]["clip"] == ORIGINAL:
        return []
    return sorted(
        (variant["ensemble_weight"], variant["metrics"]["miou"])
        for variant in dataset["variants"]
        if (variant["section"] == "adaptation" and variant["view"] and variant["view"]["clip"] == ORIGINAL)
        or variant["name"] == "proposal-net-only"  # in which no CLIP has a say
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
