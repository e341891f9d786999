"""The report as an artifact: reads ``scores`` and the scenes that they are of; writes ``reports``."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError
from pipeline.evaluate.report.links import links_of
from pipeline.graph import MissingInputError, Node, ParameterCounts, Step
from pipeline.provenance import provenance
from pipeline.settings import Settings, SettingsError, result_settings, settings_toml
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json, sha256_of_json
from storage_schemas.errors import StorageError
from storage_schemas.manifest import Sidecar
from storage_schemas.reports import KIND, SCHEMA_VERSION, UNIT, html_path, take_back_without_page, write_report
from storage_schemas.scores import KIND as SCORES
from storage_schemas.weight_choices import KIND as WEIGHT_CHOICES

if TYPE_CHECKING:
    from pipeline.evaluate.stored_scores import Scores

BASELINE = "baseline"
"""Role of what a report compares with: stored scores, or with a number behind it the scores of one data set."""
_REPORT_BYTES = 5_000_000


@dataclass(frozen=True, slots=True)
class StoredBaseline:
    """Scores that a report compares with, made by any settings.

    Attributes:
        path: Directory of scores, or of a report.
    """

    path: Path

    def scores(self) -> "list[Scores]":
        """Return the scores, each finished.

        Raises:
            MissingInputError: If there are none.
        """
        from pipeline.evaluate.compare import scores_at  # imports torch

        try:
            return scores_at(self.path)
        except (PipelineError, StorageError) as error:
            raise MissingInputError(f"evaluate.baseline: {error}") from error

    def digest(self) -> str:
        """Return what identifies them.

        Raises:
            MissingInputError: As `scores`.
        """
        return sha256_of_json([one.artifact.manifest().digest() for one in self.scores()])


@dataclass(frozen=True)
class Report(Step):
    """Writes the report."""

    settings: Settings

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 9
    stage: StageName = "evaluate"
    computes = False

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return all settings, which the report shows.

        Raises:
            SettingsError: If they name nothing to evaluate on.
        """
        names: list[Json] = [scores.name for scores in evaluations_of(node)]
        if not names:
            raise SettingsError(["evaluate.datasets: at least one data set is expected; name it (got [])"])
        return {"settings": result_settings(self.settings), "datasets": names}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the one unit."""
        del node
        return (UNIT,)

    def check(self, node: Node) -> None:
        """Check that what is compared with is of the same scenes, as soon as that is known.

        Raises:
            MissingInputError: If it is no scores.
            SettingsError: If it is of other scenes.
        """
        baseline = node.sources.get(BASELINE)
        scenes = [one["scenes"] for one in evaluations_of(node)]
        if isinstance(baseline, StoredBaseline) and all(one.is_complete() for one in scenes):
            scored = {one.artifact.identity.inputs["scenes"] for one in baseline.scores()}
            if not scored & {one.digest() for one in scenes}:
                names = ", ".join(dataset.dataset for dataset in self.settings.evaluate.datasets)
                message = f"{baseline.path} was scored on other scenes than those of {names}; name scores of the same"
                raise SettingsError([f"evaluate.baseline: {message}"])

    def job(self, node: Node) -> "ReportJob":
        """Return what writes the report."""
        return ReportJob(self.settings, node)

    def is_complete(self, node: Node) -> bool:
        """Return whether there is a page."""
        return html_path(node.artifact).exists()

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Write the report, in this process; pictures are hashed for the overlap audit before."""
        take_back_without_page(node.artifact)
        if self.settings.evaluate.audit_overlap and not node.status().finished:
            from pipeline.evaluate.overlap import audit_pictures  # imports torch

            for scores in evaluations_of(node):
                audit_pictures(scores, self.settings.compute, execution)
        return execution.run(self.job(node), node.artifact, inline=True)

    def unit_count(self, node: Node) -> int:
        """Return 1."""
        return len(self.units(node))

    def size_bytes(self, counts: ParameterCounts, scenes: int) -> int:
        """Return what a report with its pictures takes."""
        del counts, scenes
        return _REPORT_BYTES


@dataclass(frozen=True, slots=True)
class ReportJob:
    """Writes the report; runs in the process that planned it.

    Attributes:
        node: The report, whose inputs are finished.
    """

    settings: Settings
    node: Node

    def open(self) -> None:
        """Nothing is shared between units, of which there is one."""

    def run(self, state: None, artifact: Artifact, unit: str) -> Sidecar:
        """Write the report."""
        from pipeline.evaluate.report.numbers import report_numbers  # imports torch, as the pages do
        from pipeline.evaluate.report.page import Making, html_page, markdown_page, pictures_of
        from pipeline.evaluate.report.pictures import PictureBook
        from pipeline.evaluate.score import labelled_scenes_of
        from pipeline.evaluate.stored_scores import Scores
        from pipeline.evaluate.weight_choice import choice_numbers
        from storage_schemas.weight_choices import read_weight_choice

        evaluations = evaluations_of(self.node)
        choices = [node for node in self.node.inputs if node.step.kind == WEIGHT_CHOICES]
        choice = choice_numbers(read_weight_choice(choices[0].artifact).to_pylist()) if choices else None
        is_random = any("clip" in node and node.clip.is_random() for node in evaluations)
        baselines = self._baselines()
        numbers = report_numbers(self.settings, evaluations, choice, clip_is_random=is_random, baselines=baselines)
        pictures = []
        for dataset, node in zip(numbers["datasets"], evaluations, strict=True):
            scenes = labelled_scenes_of(node)
            book, before = PictureBook(Scores(node.artifact), scenes), None
            if dataset["comparison"] is not None:
                before = PictureBook(baselines[node.artifact.identity.inputs["scenes"]][1], scenes)
            pictures.append(pictures_of(dataset, book, before))
        ablates = any(getattr(node.step, "ablate", False) for node in evaluations)
        making = Making(
            provenance(),
            command=f"ovseg evaluate --config settings.toml{' --ablate' if ablates else ''}",
            settings=settings_toml(self.settings),
            links=links_of(self.node),
        )
        return write_report(
            artifact, html=html_page(numbers, pictures, making), markdown=markdown_page(numbers), numbers=numbers
        )

    def _baselines(self) -> "dict[str, tuple[str, Scores]]":
        """Return name and scores of what is compared with, by the digest of the scenes that they are of."""
        from pipeline.evaluate.stored_scores import Scores

        found: list[tuple[str, Scores]] = []
        for role, source in self.node.sources.items():
            if isinstance(source, StoredBaseline):
                found += [(one.artifact.directory.name, one) for one in source.scores()]
            elif role.startswith(f"{BASELINE}-"):
                found.append(("original CLIP", Scores(self.node[role].artifact)))
        return {one.artifact.identity.inputs["scenes"]: (name, one) for name, one in found}


def evaluations_of(node: Node) -> list[Node]:
    """Return the scores that a report is of, one node per data set, without those that it compares with."""
    named = [(role, source) for role, source in node.sources.items() if isinstance(source, Node)]
    return [one for role, one in named if one.step.kind == SCORES and not role.startswith(f"{BASELINE}-")]
