"""Stage 4: evaluate on labelled data sets, zero-shot, and write the report.

Reads ``scenes``, ``proposal_net`` and ``adapted_clip``; writes ``scores`` and ``reports``, and for ablations
``branches`` and ``weight_choices`` too.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.clip_loading import warn_of_unknown
from pipeline.evaluate.decoding import NO_LABEL
from pipeline.evaluate.plan import ScoresPlan
from pipeline.evaluate.report.report import plan_report
from pipeline.evaluate.weight_choice import choose_weight
from pipeline.planning import plan_of_weight_choice, plans_of_scores
from pipeline.settings import Settings, SettingsError
from pipeline.settings.runner import compute_of, limits_of
from pipeline.shard_runner import StageReport, run_stage
from pipeline.stage_inputs import prepare_missing, scenes_of
from storage_schemas.artifact import Artifact
from storage_schemas.reports import html_path
from storage_schemas.scenes import ScenesAttributes, labelled_scenes

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EvaluateReport:
    """What a run of the stage did.

    Attributes:
        artifact: The report.
        scores: Per data set the scores.
        page: The page to be opened.
        units_done: Units made by this run, over all steps.
        units_skipped: Units that were done before.
    """

    artifact: Artifact
    scores: dict[str, StageReport]
    page: Path
    units_done: int
    units_skipped: int


def evaluate(settings: Settings, *, ablate: bool = False) -> EvaluateReport:
    """Evaluate on every data set that the settings name, as far as that is not done, and write the report.

    Args:
        settings: Of all stages.
        ablate: Score the paper's ablations too.

    Raises:
        MissingInputError: If the proposal net or the adapted CLIP is not finished.
        SettingsError: If no data set is named, or one twice, or one has no labelled pixel.
        StageError: If a unit could not be made, or too many scenes failed.
    """
    names = [entry.dataset for entry in settings.evaluate.datasets]
    if not names or len(set(names)) < len(names):
        message = f"evaluate.datasets: at least one data set, each once, is wanted; name them (got {names})"
        raise SettingsError([message])
    prepare_missing(settings, [settings.proposal_net.dataset, settings.proposal_net.validation_dataset, *names])
    for name in names:
        if not labelled_scenes(scenes_of(settings, name)):
            message = "no scene has a labelled pixel; 'ovseg prepare ... --check' reports what the data set holds"
            raise SettingsError([f"evaluate.datasets: {name}: {message}"])
        class_names = ScenesAttributes.of(scenes_of(settings, name)).class_names
        warn_of_unknown(settings.clip, class_names, f"class names of {name}")
    reports: list[StageReport] = []
    plans = plans_of_scores(settings, ablate=ablate)
    scores = {name: _scored(settings, plan, reports) for name, plan in zip(names, plans, strict=True)}
    choice = None
    if ablate and settings.evaluate.sweep.validation_dataset:
        choice = choose_weight(plan_of_weight_choice(settings))
        reports.append(choice.report)
    writing = plan_report(settings, plans, ablate=ablate, choice=choice)
    report = run_stage(writing.job, writing.artifact)
    reports.append(report)
    return EvaluateReport(
        artifact=report.artifact,
        scores=scores,
        page=html_path(report.artifact),
        units_done=sum(step.units_done for step in reports),
        units_skipped=sum(step.units_skipped for step in reports),
    )


def _scored(settings: Settings, plan: ScoresPlan, reports: list[StageReport]) -> StageReport:
    """Score one data set; branches are stored only if there is something to score."""
    compute, limits = compute_of(settings), replace(limits_of(settings), expected=frozenset({NO_LABEL}))
    if not plan.artifact.status().finished:
        reports += [run_stage(branch.job, branch.artifact, compute=compute, limits=limits) for branch in plan.branches]
    report = run_stage(plan.job, plan.artifact, compute=compute, limits=limits)
    reports.append(report)
    return report
