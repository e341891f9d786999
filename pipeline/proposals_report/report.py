"""The report on proposals as an artifact.

Reads labelled ``scenes`` and their ``proposals``, and ``scores`` of the same proposals where they are complete; writes
``reports``.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data_set_options import RegionKind
from pipeline.executors import Compute
from pipeline.graph import Finished, Node, Step
from pipeline.settings import SettingsError
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import StageName
from storage_schemas.artifact import Artifact
from storage_schemas.digests import Json
from storage_schemas.manifest import Sidecar
from storage_schemas.proposals import KIND as PROPOSALS
from storage_schemas.reports import KIND, SCHEMA_VERSION, UNIT, html_path, take_back_without_page, write_report
from storage_schemas.scenes import KIND as SCENES
from storage_schemas.scenes import ScenesAttributes, labelled_scenes
from storage_schemas.scores import ScoresAttributes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ProposalsReport(Step):
    """Writes the report on the proposals of one data set.

    Attributes:
        dataset: Its name.
        source: Who made the proposals, in words.
        regions: Which regions they are to meet.
    """

    dataset: str
    source: str
    regions: RegionKind = "classes"

    kind = KIND
    schema_version = SCHEMA_VERSION
    producer_version = 2
    stage: StageName = "evaluate"
    computes = False
    labels_of = ("scenes",)

    def fingerprint(self, node: Node) -> Mapping[str, Json]:
        """Return what the page says beside what follows from its inputs."""
        del node
        return {"proposals_report": {"dataset": self.dataset, "source": self.source, "regions": self.regions}}

    def units(self, node: Node) -> tuple[str, ...]:
        """Return the one unit."""
        del node
        return (UNIT,)

    def check(self, node: Node) -> None:
        """Check that there are labels, as soon as that is known.

        Raises:
            SettingsError: If no scene has a labelled pixel.
        """
        if not labelled_scenes(node["scenes"].artifact):
            found = "no scene has a labelled pixel, and a report compares masks with labels"
            raise SettingsError([f"proposals-report: {self.dataset}: {found}; name a data set with labels"])

    def job(self, node: Node) -> "ProposalsReportJob":
        """Return what writes the report."""
        scores = node["scores"].artifact if "scores" in node else None
        return ProposalsReportJob(self, node["scenes"].artifact, node["proposals"].artifact, scores)

    def is_complete(self, node: Node) -> bool:
        """Return whether there is a page."""
        return html_path(node.artifact).exists()

    def make(self, node: Node, execution: Execution) -> StageReport:
        """Write the report, in this process.

        Raises:
            SettingsError: If no scene has a labelled pixel.
        """
        self.check(node)
        take_back_without_page(node.artifact)
        return execution.run(self.job(node), node.artifact, inline=True)

    def unit_count(self, node: Node) -> int:
        """Return 1."""
        return len(self.units(node))


@dataclass(frozen=True, slots=True)
class ProposalsReportJob:
    """Writes the report.

    Attributes:
        step: What it says.
        scenes: Finished.
        proposals: Finished.
        scores: Of the same proposals; None where they are not complete.
    """

    step: ProposalsReport
    scenes: Artifact
    proposals: Artifact
    scores: Artifact | None

    def open(self) -> None:
        """Nothing is shared between units, of which there is one."""

    def run(self, state: None, artifact: Artifact, unit: str) -> Sidecar:
        """Measure, and write the report."""
        from pipeline.proposals_report.missed import missed_sheet, most_missed  # imports torch, as the others do
        from pipeline.proposals_report.numbers import report_numbers
        from pipeline.proposals_report.page import html_page, markdown_page
        from pipeline.proposals_report.survey import survey

        found = survey(self.scenes, self.proposals, self.step.regions)
        numbers = report_numbers(
            found,
            ScenesAttributes.of(self.scenes),
            dataset=self.step.dataset,
            source=self.step.source,
            regions=self.step.regions,
            named={} if self.scores is None else named_mious(self.scores),
        )
        logger.info("proposals of %s: %s", self.step.dataset, numbers["verdict"][0])
        sheet = missed_sheet(most_missed(found), self.scenes, self.proposals, self.step.regions)
        return write_report(artifact, html=html_page(numbers, sheet), markdown=markdown_page(numbers), numbers=numbers)


def named_mious(scores: Artifact) -> dict[str, float]:
    """Return the mIoU of an evaluation, and of true masks named by its CLIP where ablations have it."""
    from ovseg_models.segmentation_metrics import metrics_of
    from pipeline.evaluate.stored_scores import Scores  # imports torch

    stored, attributes = Scores(scores), ScoresAttributes.of(scores)
    variants = {"result": attributes.main_variant}
    true_masks = [name for name in attributes.variants if name.startswith("true-masks-")]
    variants |= {"true_masks": true_masks[0]} if true_masks else {}
    return {
        role: float(metrics_of(stored.counts(variant).counts.summed(), attributes.seen)["miou"])
        for role, variant in variants.items()
    }


def report_on(proposals: Path, scenes: Path, runs: Path, *, regions: RegionKind = "classes") -> StageReport:
    """Write a report on an artifact of proposals.

    Args:
        proposals: Its directory.
        scenes: Directory of the scenes that it is of, with labels.
        runs: Runs directory, in which the report will lie.
        regions: Which regions the proposals are to meet.

    Raises:
        PipelineError: If a directory holds no such artifact, or the scenes have no label.
        StorageError: If one is of another kind.
    """
    of_proposals, of_scenes = (
        Node(Finished(kind, str(path), kind), kind, runs, {})
        for kind, path in ((PROPOSALS, proposals), (SCENES, scenes))
    )
    of_proposals.artifact.require(PROPOSALS)
    ScenesAttributes.of(of_scenes.artifact)  # raises if they are none
    name = of_proposals.artifact.identity.name
    step = ProposalsReport(dataset=of_scenes.artifact.identity.name, source=f"proposals {name}", regions=regions)
    inputs = {"scenes": of_scenes, "proposals": of_proposals}
    node = Node(step, f"{name}-proposals", runs, inputs, command="ovseg proposals-report")
    return node.make(Execution(Compute()))
