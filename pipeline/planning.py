"""The artifacts that settings imply, made or not; each stage that has settings adds its planner to ``PLANNERS``."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from pipeline.prepare.layout import LayoutError
from pipeline.prepare.prepare import plan_prepare
from pipeline.settings import Settings
from storage_schemas import scenes
from storage_schemas.artifact import Artifact


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedArtifact:
    """One artifact that settings imply.

    Attributes:
        label: ``KIND/NAME``.
        artifact: Where it lies or will lie; None as long as an input is missing on which its digest depends.
        reason: Which input is missing; empty if none is.
    """

    label: str
    artifact: Artifact | None
    reason: str = ""


Planner = Callable[[Settings], Iterable[PlannedArtifact]]
"""What a stage knows of its artifacts; it reads manifests of inputs, and makes nothing."""


def plan_scenes(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the scenes of each data set."""
    for name, dataset in settings.datasets.items():
        try:
            artifact = plan_prepare(dataset, settings.runs_dir).artifact
        except LayoutError as error:
            yield PlannedArtifact(label=f"{scenes.KIND}/{name}", artifact=None, reason=str(error))
        else:
            yield PlannedArtifact(label=f"{scenes.KIND}/{artifact.identity.name}", artifact=artifact)


PLANNERS: tuple[Planner, ...] = (plan_scenes,)


def planned_artifacts(settings: Settings) -> Iterator[PlannedArtifact]:
    """Plan the artifacts of all stages, in the order of the dataflow."""
    for planner in PLANNERS:
        yield from planner(settings)
