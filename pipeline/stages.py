"""Running the stages: each makes those of its artifacts that are not done, in the order of the dataflow."""

from dataclasses import dataclass

from pipeline.clip_loading import check_namers
from pipeline.data_set_options import RegionKind
from pipeline.dataflow import dataflow, proposals_reports
from pipeline.graph import Graph
from pipeline.import_masks.import_masks import ImportMasks
from pipeline.settings import Settings, SettingsError
from pipeline.shard_runner import Execution, StageReport
from pipeline.stage_names import STAGE_NAMES, StageName
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Manifest


@dataclass(frozen=True, slots=True)
class StageRun:
    """What a run of a stage did.

    Attributes:
        reports: Of all its artifacts, in order, and of what was made between them, such as embeddings of nouns.
    """

    reports: tuple[StageReport, ...]

    @property
    def artifact(self) -> Artifact:
        """The last artifact, for which the stage is run."""
        return self.reports[-1].artifact

    @property
    def manifest(self) -> Manifest:
        """What that artifact states of itself."""
        return self.reports[-1].manifest

    @property
    def units_done(self) -> int:
        """Units made by this run, over all artifacts."""
        return sum(report.units_done for report in self.reports)

    @property
    def units_skipped(self) -> int:
        """Units that were complete before, over all artifacts."""
        return sum(report.units_skipped for report in self.reports)

    def of_kind(self, kind: str) -> list[StageReport]:
        """Return the reports of one kind of artifact, in order."""
        return [report for report in self.reports if report.artifact.identity.kind == kind]


def run(stage: StageName, settings: Settings, *, ablate: bool = False) -> StageRun:
    """Make the artifacts of one stage that are not complete; data sets that are missing are prepared first.

    Raises:
        MissingInputError: If what another stage makes is not finished.
        SettingsError: If the settings name nothing to do, or don't fit the data.
        StageError: If a unit could not be made, too many rows failed, or a training diverged.
    """
    check_namers(settings)
    return run_stage_of(dataflow(settings, ablate=ablate), stage, Execution.of(settings))


def run_stage_of(graph: Graph, stage: StageName, execution: Execution) -> StageRun:
    """Run one stage of a dataflow; see `run`."""
    # Where the settings name nothing to do, the node that they leave out says what is missing.
    nodes = graph.of_stage(stage) or [node for node in graph.others if node.step.stage == stage]
    for node in nodes:
        # Trainings are checked in any case: of torchrun's processes all but the first would remember inputs as missing
        # that the first is about to make.
        if node.step.trains or not node.is_complete():
            node.step.check(node)
    first = len(execution.reports)
    for node in nodes:
        node.make(execution)
    return StageRun(tuple(execution.reports[first:]))


def run_imports(settings: Settings) -> StageRun:
    """Import the masks of others that the settings use; data sets that are missing are prepared first.

    Raises:
        SettingsError: If the settings use none.
        PipelineError: If masks or scenes are not there, or don't fit each other.
    """
    nodes = [node for node in dataflow(settings).nodes if isinstance(node.step, ImportMasks)]
    if not nodes:
        raise SettingsError(
            ["masks: no imported masks are used; set mine.proposals or evaluate.proposals to 'imported'"]
        )
    execution = Execution.of(settings)
    for node in nodes:
        node.step.check(node)
    for node in nodes:
        node.make(execution)
    return StageRun(tuple(execution.reports))


def run_proposals_reports(settings: Settings, *, regions: RegionKind = "classes") -> StageRun:
    """Report on the proposals of each data set that is evaluated; proposals that are missing are made first.

    Raises:
        SettingsError: If the settings name no data set to evaluate on, or one has no labels.
        MissingInputError: If the proposal net is expected, and not trained.
        PipelineError: If masks of others don't fit the scenes.
    """
    section = settings.evaluate
    if not section.datasets:
        raise SettingsError(["evaluate.datasets: at least one data set is expected; name it (got [])"])
    if section.proposals == "ground-truth":
        found = "proposals of the net or imported ones are expected for a report on them; choose one of these"
        raise SettingsError([f"evaluate.proposals: {found} (got 'ground-truth')"])
    execution = Execution.of(settings)
    nodes = proposals_reports(settings, regions=regions)
    for node in nodes:
        node["proposals"].step.check(node["proposals"])
    for node in nodes:
        node["proposals"].make(execution)
        node.make(execution)
    return StageRun(tuple(execution.reports))


def is_complete(graph: Graph, stage: StageName) -> bool:
    """Return whether a stage has nothing to do."""
    return all(node.is_complete() for node in graph.of_stage(stage))


def chosen_stages(first: StageName = "prepare", only: StageName | None = None) -> tuple[StageName, ...]:
    """Return the stages of a run in order: one alone, or all from one on."""
    return (only,) if only is not None else STAGE_NAMES[STAGE_NAMES.index(first) :]
