"""The report as an artifact: reads ``scores`` and the scenes that they are of; writes ``reports``."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.evaluate.counts import Scores
from pipeline.evaluate.plan import ScoresPlan
from pipeline.evaluate.report.numbers import report_numbers
from pipeline.evaluate.report.page import html_page, markdown_page, pictures_of
from pipeline.evaluate.report.pictures import PictureBook
from pipeline.evaluate.weight_choice import WeightChoice
from pipeline.settings import Settings, result_settings
from pipeline.shard_runner import UnitPlan
from pipeline.stage_inputs import finished_digest
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Description, Identity, Sidecar
from storage_schemas.reports import KIND, SCHEMA_VERSION, UNIT, write_report

RECIPE = 5
"""Raise it when the same scores come to be shown otherwise."""


@dataclass(frozen=True, slots=True)
class ReportJob:
    """Writes the report.

    Attributes:
        settings: Of all stages.
        plans: Evaluations, each finished.
        weight_choice: What mined validation pairs say of the ensemble weight, or None.
    """

    settings: Settings
    plans: tuple[ScoresPlan, ...]
    weight_choice: Mapping[str, Json] | None = None

    def open(self) -> None:
        """Nothing is shared between units, of which there is one."""

    def run(self, state: None, artifact: Artifact, unit: str) -> Sidecar:
        """Write the report."""
        numbers = report_numbers(self.settings, self.plans, self.weight_choice)
        pictures = [
            pictures_of(dataset, PictureBook(Scores(plan.artifact), plan.job.scenes))
            for dataset, plan in zip(numbers["datasets"], self.plans, strict=True)
        ]
        return write_report(
            artifact, html=html_page(numbers, pictures), markdown=markdown_page(numbers), numbers=numbers
        )


def plan_report(
    settings: Settings, plans: Sequence[ScoresPlan], *, ablate: bool = False, choice: WeightChoice | None = None
) -> UnitPlan[ReportJob]:
    """Find out where the report of finished evaluations lies; reads their manifests, and makes nothing.

    Args:
        settings: Of all stages.
        plans: One per data set.
        ablate: Whether they hold the ablations.
        choice: What mined validation pairs say of the ensemble weight, or None.

    Raises:
        MissingInputError: If an evaluation is not finished.
    """
    inputs = {plan.artifact.identity.name: finished_digest(plan.artifact, made_by="ovseg evaluate") for plan in plans}
    if choice is not None:
        inputs["weight_choice"] = choice.report.manifest.digest()
    identity = Identity(
        kind=KIND,
        name=f"{settings.name}-ablation" if ablate else settings.name,
        schema_version=SCHEMA_VERSION,
        recipe=RECIPE,
        settings={"settings": result_settings(settings), "datasets": [plan.artifact.identity.name for plan in plans]},
        inputs=inputs,
    )
    artifact = Artifact.planned(settings.runs_dir, Description(identity=identity, units=(UNIT,)))
    return UnitPlan(artifact, ReportJob(settings, tuple(plans), None if choice is None else choice.numbers))
