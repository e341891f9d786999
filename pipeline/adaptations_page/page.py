"""The page that ends a demo; pictures are embedded, so that it is one file that needs no network.

Reads ``scores`` of the four rows, and the ``scenes`` that they are of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ovseg_models.bootstrap import compare, compare_classes
from ovseg_models.segmentation_metrics import ClassCounts, class_iou
from pipeline.adaptations import ADAPTATIONS, AFTER, BEFORE, GROUPS, AdaptationTable, Estimate, estimate
from pipeline.dataflow import dataflow
from pipeline.evaluate.report.page import without_control_characters
from pipeline.evaluate.report.pictures import PictureBook, drawing_url, photo_url, spread
from pipeline.evaluate.score import labelled_scenes_of
from pipeline.evaluate.side_by_side import named_map
from pipeline.evaluate.stored_scores import Scores
from pipeline.settings import Settings

SPREAD_PICTURES, RANKED_PICTURES = 6, 4


@dataclass(frozen=True)
class ClassRow:
    """One class that occurs.

    Attributes:
        ious: In percent, one per row of the table; None where it does not exist.
        change: Of the last row over the first, in percentage points.
        verdict: ``"better"`` or ``"worse"`` where the whole interval of the change says so, else ``""``.
    """

    name: str
    mark: str
    ious: tuple[float | None, ...]
    change: Estimate
    verdict: str


@dataclass(frozen=True)
class PictureOfRows:
    """One picture with its label map and the maps of all rows, as data URLs.

    Attributes:
        right: Pixels named rightly by each row, in percent of the labelled ones.
    """

    key: str
    image: str
    labels: str
    maps: tuple[str, ...]
    right: tuple[float, ...]


class Rows:
    """The finished evaluations of the four rows on one data set.

    Args:
        settings: Of the demo.
        place: Of the data set among those that are evaluated.

    Raises:
        MissingInputError: If an evaluation is not finished.
    """

    def __init__(self, settings: Settings, place: int = 0) -> None:
        nodes = [dataflow(row.settings_of(settings)).of_kind("scores")[place] for row in ADAPTATIONS]
        for node in nodes:
            node.manifest()
        self.titles = tuple(row.title for row in ADAPTATIONS)
        self.scores = [Scores(node.artifact) for node in nodes]
        self.books = [
            PictureBook(scores, labelled_scenes_of(node)) for scores, node in zip(self.scores, nodes, strict=True)
        ]
        self.rounds = settings.evaluate.bootstrap_rounds
        tables = [scores.counts(scores.attributes.main_variant) for scores in self.scores]
        self.keys = tuple(sorted(set.intersection(*(set(table.keys) for table in tables))))
        self.counts: list[ClassCounts] = []  # of the pictures that all rows have scored, in the order of the keys
        for table in tables:
            places = np.searchsorted(np.array(table.keys, object), np.array(self.keys, object))
            self.counts.append(ClassCounts(**{name: array[places] for name, array in vars(table.counts).items()}))

    def changes(self) -> dict[str, dict[str, Estimate]]:
        """Return by title what each row but the first gains over the first, by group."""
        marks = self.scores[0].attributes.seen
        found = {}
        for title, counts in list(zip(self.titles, self.counts, strict=True))[1:]:
            differences = compare(self.counts[0], counts, marks, rounds=self.rounds)
            found[title] = {
                group: estimate(one.second - one.first, one.interval.low, one.interval.high)
                for group, one in ((group, differences[name]) for group, name in GROUPS.items())
            }
        return found

    def classes(self) -> list[ClassRow]:
        """Return the classes that occur, those that gain most first."""
        attributes = self.scores[0].attributes
        ious = np.stack([class_iou(counts.summed()) for counts in self.counts])  # [row class]
        differences = compare_classes(self.counts[0], self.counts[-1], rounds=self.rounds)
        rows = []
        for label in np.flatnonzero(self.counts[0].summed().true_px > 0).tolist():
            found = differences[label]
            change = estimate(found.second - found.first, found.interval.low, found.interval.high)
            verdict = "" if found.verdict == "cannot tell" else found.verdict
            shown = tuple(estimate(float(iou), 0.0, 0.0).value for iou in ious[:, label])
            rows.append(ClassRow(attributes.class_names[label], attributes.seen[label], shown, change, verdict))
        return sorted(rows, key=lambda row: (-(row.change.value or 0.0), row.name))

    def right_shares(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Return the share of labelled pixels that each row names rightly [row picture]."""
        labelled = self.counts[0].true_px.sum(axis=1).clip(min=1)
        return np.stack([counts.intersection_px.sum(axis=1) / labelled for counts in self.counts])

    def picture(self, key: str, right: Sequence[float]) -> PictureOfRows:
        """Draw one picture."""
        names = self.scores[0].attributes.class_names
        found = [book.maps(key) for book in self.books]
        scene = found[0][0]
        unlabelled = scene.labels >= len(names)
        maps = [np.where(unlabelled, scene.labels, predicted) for _, predicted in found]
        return PictureOfRows(
            key=key,
            image=photo_url(scene.image),
            labels=drawing_url(named_map(scene.labels, names)),
            maps=tuple(drawing_url(named_map(labels, names)) for labels in maps),
            right=tuple(100 * share for share in right),
        )


def adaptations_page(settings: Settings, tables: Sequence[AdaptationTable]) -> str:
    """Write the page; every text is escaped.

    Args:
        tables: One per data set that is evaluated, in order.

    Raises:
        MissingInputError: If an evaluation is not finished.
    """
    datasets = [_shown(Rows(settings, place), table) for place, table in enumerate(tables)]
    environment = Environment(
        loader=PackageLoader("pipeline.adaptations_page", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=without_control_characters,
    )
    return environment.get_template("page.html").render(
        name=settings.name, datasets=datasets, groups=list(GROUPS), before=BEFORE.title, after=AFTER.title
    )


def _shown(rows: Rows, table: AdaptationTable) -> Mapping[str, Any]:
    """Return what the template shows of one data set."""
    right = rows.right_shares()
    gained = right[-1] - right[0]
    order = np.argsort(-gained, kind="stable")
    shown = min(RANKED_PICTURES, len(order) // 2)
    places = {key: place for place, key in enumerate(rows.keys)}

    def drawn(some: Sequence[str]) -> list[PictureOfRows]:
        return [rows.picture(key, right[:, places[key]].tolist()) for key in some]

    classes = rows.classes()
    span = max((abs(row.change.value or 0.0) for row in classes), default=1.0) or 1.0
    return {
        "table": table,
        "titles": rows.titles,
        "changes": rows.changes(),
        "classes": classes,
        "span": span,
        "verdicts": {word: sum(row.verdict == word for row in classes) for word in ("better", "worse", "")},
        "pictures": {"better": int((gained > 0).sum()), "worse": int((gained < 0).sum()), "all": len(gained)},
        "spread": drawn(spread(rows.keys, SPREAD_PICTURES)),
        "most": drawn([rows.keys[place] for place in order[:shown]]),
        "least": drawn([rows.keys[place] for place in order[::-1][:shown]]),
    }
