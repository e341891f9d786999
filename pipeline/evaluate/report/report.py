"""The report as an artifact: reads ``scores`` and the scenes that they are of; writes ``reports``."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.graph import Node, ParameterCounts, Step
from pipeline.settings import Settings, SettingsError, result_settings
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.reports import KIND, SCHEMA_VERSION, UNIT, write_report
from storage_schemas.scores import KIND as SCORES
from storage_schemas.weight_choices import KIND as WEIGHT_CHOICES

_REPORT_BYTES = 5_000_000


@dataclass(frozen=True)
class Report(Step):
    """Writes the report."""

    settings: Settings

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 8
    stage: StageName = "evaluate"
    computes = False

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return all settings, which the report shows.

        Raises:
            SettingsError: If they name nothing to evaluate on.
        """
        names: list[Json] = [scores.name for scores in node.inputs if scores.step.kind == SCORES]
        if not names:
            raise SettingsError(["evaluate.datasets: at least one data set is expected; name it (got [])"])
        return {"settings": result_settings(self.settings), "datasets": names}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the one unit."""
        del node
        return (UNIT,)

    def job(self, node: Node) -> "ReportJob":
        """Return what writes the report."""
        return ReportJob(self.settings, node)

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Write the report, in this process; pictures are hashed for the overlap audit before."""
        if self.settings.evaluate.audit_overlap and not node.status().finished:
            from pipeline.evaluate.overlap import audit_pictures  # imports torch

            for scores in node.inputs:
                if scores.step.kind == SCORES:
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
        from pipeline.evaluate.report.page import html_page, markdown_page, pictures_of
        from pipeline.evaluate.report.pictures import PictureBook
        from pipeline.evaluate.score import labelled_scenes_of
        from pipeline.evaluate.stored_scores import Scores
        from pipeline.evaluate.weight_choice import choice_numbers
        from storage_schemas.weight_choices import read_weight_choice

        evaluations = [node for node in self.node.inputs if node.step.kind == SCORES]
        choices = [node for node in self.node.inputs if node.step.kind == WEIGHT_CHOICES]
        choice = choice_numbers(read_weight_choice(choices[0].artifact).to_pylist()) if choices else None
        is_random = any("clip" in node and node.clip.is_random() for node in evaluations)
        numbers = report_numbers(self.settings, evaluations, choice, clip_is_random=is_random)
        pictures = [
            pictures_of(dataset, PictureBook(Scores(node.artifact), labelled_scenes_of(node)))
            for dataset, node in zip(numbers["datasets"], evaluations, strict=True)
        ]
        return write_report(
            artifact, html=html_page(numbers, pictures), markdown=markdown_page(numbers), numbers=numbers
        )
