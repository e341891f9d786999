"""What adapting CLIP does, in four rows: the original CLIP, MPT, FT, FT then MPT (OVSeg, table 3).

Each row is an evaluation with settings of its own, and reads what stage 4 wrote for them: ``reports``, ``scores``, and
``scenes`` for the picture.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.evaluate.compare import compare_scores
from pipeline.evaluate.report.pictures import PictureBook
from pipeline.evaluate.score import labelled_scenes_of
from pipeline.evaluate.side_by_side import side_by_side
from pipeline.evaluate.stored_scores import Scores
from pipeline.evaluate.variants import ORIGINAL
from pipeline.settings import Mode, Settings
from pipeline.text_tables import text_table
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.reports import read_numbers

GROUPS: Mapping[str, str] = {"all": "miou", "seen": "seen_miou", "unseen": "unseen_miou"}
"""Metrics of the columns, by their headings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adaptation:
    """One row.

    Attributes:
        title: As the table has it.
        mode: What stage 3 trains.
        clip: Which CLIP is evaluated.
        use_mask_prompts: Whether it sees its prompts. Without them FT then MPT is FT: MPT changes no weight of CLIP,
            and the temperature of the classes is fixed in stage 4.
    """

    title: str
    mode: Mode = "ft-then-mpt"
    clip: Literal["adapted", "original"] = "adapted"
    use_mask_prompts: bool = True

    def settings_of(self, settings: Settings) -> Settings:
        """Return the settings with which the four stages make this row."""
        evaluation = {"clip": self.clip, "use_mask_prompts": self.use_mask_prompts, "baseline": ORIGINAL}
        return settings.model_copy(
            update={
                "finetune": settings.finetune.model_copy(update={"mode": self.mode}),
                "evaluate": settings.evaluate.model_copy(update=evaluation),
            }
        )


BEFORE = Adaptation(title="baseline", clip="original")
AFTER = Adaptation(title="FT then MPT")
ADAPTATIONS = (
    BEFORE,
    Adaptation(title="MPT", mode="mpt"),
    Adaptation(title="FT", use_mask_prompts=False),
    AFTER,
)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95 % interval over the images, in percent or percentage points; None where no class counts."""

    value: float | None
    low: float | None
    high: float | None

    def text(self, sign: str = "") -> str:
        """Write it with one decimal; ``sign`` is ``"+"`` for differences."""
        if self.value is None or self.low is None or self.high is None:
            return "-"
        return f"{self.value:{sign}.1f} ({self.low:{sign}.1f} to {self.high:{sign}.1f})"


@dataclass(frozen=True, slots=True)
class AdaptationTable:
    """The rows on one data set.

    Attributes:
        dataset: Its name in the settings.
        images: Images that were scored.
        rows: By title, in order, the estimates by heading.
        gain: Of the last row over the first, each resampling of images given to both; by heading.
    """

    dataset: str
    images: int
    rows: Mapping[str, Mapping[str, Estimate]]
    gain: Mapping[str, Estimate]

    def lines(self) -> list[tuple[str, ...]]:
        """Return the cells, headings first."""
        cells = [(title, *(row[group].text() for group in GROUPS)) for title, row in self.rows.items()]
        change = (f"{AFTER.title} minus {BEFORE.title}", *(self.gain[group].text("+") for group in GROUPS))
        return [("", *(f"{group} classes" for group in GROUPS)), *cells, change]

    def text(self) -> str:
        """Write the table for a terminal."""
        columns, *rows = self.lines()
        heading = f"mIoU [%] on {self.dataset}, {self.images} images; 95 % intervals over the images"
        return f"{heading}\n{text_table(columns, rows, words=columns)}"

    def markdown(self) -> str:
        """Write the table as Markdown."""
        heading, *rows = [f"| {' | '.join(line)} |" for line in self.lines()]
        return "\n".join([heading, f"|{'---|' * (len(GROUPS) + 1)}", *rows]) + "\n"

    def to_json(self) -> dict[str, Json]:
        """Return the table as JSON values."""
        return asdict(self)

    @classmethod
    def of_json(cls, numbers: Mapping[str, Json]) -> Self:
        """Read back what `to_json` returned."""
        stored: dict[str, Any] = dict(numbers)
        stored["rows"] = {title: _estimates(row) for title, row in stored["rows"].items()}
        stored["gain"] = _estimates(stored["gain"])
        return cls(**stored)


def report_of(settings: Settings) -> Artifact:
    """Return the report that stage 4 wrote for settings.

    Raises:
        MissingInputError: If it is not finished.
    """
    report = dataflow(settings).only("reports")
    report.manifest()
    return report.artifact


def adaptation_tables(settings: Settings) -> list[AdaptationTable]:
    """Read the rows from finished evaluations, one table per data set.

    Raises:
        MissingInputError: If an evaluation is not finished.
    """
    settings_of_rows = {row.title: row.settings_of(settings) for row in ADAPTATIONS}
    reports = {title: read_numbers(report_of(row)) for title, row in settings_of_rows.items()}
    ends = [dataflow(settings_of_rows[row.title]).of_kind("scores") for row in (BEFORE, AFTER)]
    tables = []
    for place, (before, after) in enumerate(zip(*ends, strict=True)):
        numbers = {title: report["datasets"][place] for title, report in reports.items()}
        pair = (Scores(before.artifact), Scores(after.artifact))
        # image by image: the interval of a difference is narrower than those of what it is between
        found = compare_scores(*pair, rounds=settings.evaluate.bootstrap_rounds).differences
        gain = {
            group: estimate(change.second - change.first, change.interval.low, change.interval.high)
            for group, change in ((group, found[name]) for group, name in GROUPS.items())
        }
        rows = {}
        for title, dataset in numbers.items():
            main = dataset["variants"][0]
            rows[title] = {
                group: estimate(main["metrics"][name], *main["intervals"][name]) for group, name in GROUPS.items()
            }
        first = numbers[BEFORE.title]
        tables.append(AdaptationTable(first["dataset"], first["images"], rows, gain))
    return tables


def adaptation_picture(settings: Settings, *, images: int) -> Image.Image:
    """Draw a few images of the first data set with the predictions before and after adapting CLIP.

    Args:
        settings: Of finished evaluations of the first and the last row.
        images: Images at most.

    Raises:
        MissingInputError: If an evaluation is not finished.
    """
    nodes = {row.title: dataflow(row.settings_of(settings)).of_kind("scores")[0] for row in (BEFORE, AFTER)}
    for node in nodes.values():
        node.manifest()
    books = {title: PictureBook(Scores(node.artifact), labelled_scenes_of(node)) for title, node in nodes.items()}
    names = Scores(nodes[AFTER.title].artifact).attributes.class_names
    return side_by_side(books, names, images=images)


def estimate(*numbers: float | None) -> Estimate:
    """Turn shares into percent; what does not exist is None."""
    return Estimate(*(None if share is None or math.isnan(share) else 100 * share for share in numbers))


def _estimates(row: Mapping[str, Mapping[str, float | None]]) -> dict[str, Estimate]:
    """Read a row back from JSON."""
    return {group: Estimate(**numbers) for group, numbers in row.items()}
