"""The stages as a run goes through them: what each writes, whether that is done, and what does it.

The functions are named and imported only when they are called, so that a run in which all is done loads no model code.
"""

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.planning import (
    PlannedArtifact,
    Planner,
    plan_of_pairs,
    plan_scenes,
    plan_stage_1,
    plan_stage_2,
    plan_stage_3,
    plan_stage_4,
)
from pipeline.settings import Settings
from pipeline.stage_names import STAGE_NAMES, StageName
from storage_schemas.cards import has_current_card


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: What the user calls it.
        dataflow: What it reads and writes, for people.
        planner: What finds its artifacts.
        function: ``module:function`` that makes them, as far as they are not done.
        beside: ``module:function`` that tells whether what is made beside finished artifacts is there, too; empty if
            nothing is.
    """

    name: StageName
    dataflow: str
    planner: Planner
    function: str
    beside: str = ""

    def artifacts(self, settings: Settings) -> list[PlannedArtifact]:
        """Plan what the stage writes; nothing if the settings don't ask for the stage."""
        return list(self.planner(settings))

    def run(self, settings: Settings) -> None:
        """Do what is not done.

        Raises:
            PipelineError: If an input is not finished, or the stage fails.
        """
        _imported(self.function)(settings)

    def is_done(self, settings: Settings) -> bool:
        """Tell whether there is nothing to do."""
        planned = self.artifacts(settings)
        done = all(is_done(plan) for plan in planned)
        return done and (not planned or not self.beside or bool(_imported(self.beside)(settings)))


def _imported(function: str) -> Callable[[Settings], Any]:
    """Import ``module:function``."""
    module, _, name = function.partition(":")
    imported: Callable[[Settings], Any] = getattr(importlib.import_module(module), name)
    return imported


def is_done(planned: PlannedArtifact) -> bool:
    """Tell whether an artifact is finished and its files are what was written."""
    return planned.artifact is not None and planned.artifact.status().finished


def prepare_all(settings: Settings) -> None:
    """Prepare every data set of the settings.

    Raises:
        PipelineError: If a data set cannot be read, or too many scenes are faulty.
    """
    from pipeline.stage_inputs import prepare_missing

    prepare_missing(settings, settings.datasets)


def have_pairs_a_card(settings: Settings) -> bool:
    """Tell whether finished pairs have their data card and contact sheet."""
    from pipeline.mine.card import MAKER

    return has_current_card(plan_of_pairs(settings).artifact, maker=MAKER)


STAGES = (
    Stage(
        name="prepare",
        dataflow="official data sets -> scenes",
        planner=plan_scenes,
        function="pipeline.stages:prepare_all",
    ),
    Stage(
        name="train-proposals",
        dataflow="scenes (labels) -> proposal_net",
        planner=plan_stage_1,
        function="pipeline.train_proposals.train_proposals:train_proposals",
    ),
    Stage(
        name="mine",
        dataflow="scenes + proposal_net + CLIP -> proposals, embeddings, pairs",
        planner=plan_stage_2,
        function="pipeline.mine.mine:mine",
        beside="pipeline.stages:have_pairs_a_card",
    ),
    Stage(
        name="finetune",
        dataflow="pairs + CLIP -> adapted_clip",
        planner=plan_stage_3,
        function="pipeline.finetune.finetune:finetune",
    ),
    Stage(
        name="evaluate",
        dataflow="scenes (labels) + proposal_net + adapted_clip -> scores, reports",
        planner=plan_stage_4,
        function="pipeline.evaluate.evaluate:evaluate",
    ),
)


def chosen_stages(first: StageName = "prepare", only: StageName | None = None) -> Iterator[Stage]:
    """Yield the stages of a run in order: one alone, or all from one on."""
    wanted = {only} if only is not None else set(STAGE_NAMES[STAGE_NAMES.index(first) :])
    for stage in STAGES:
        if stage.name in wanted:
            yield stage
