"""``ovseg train-proposals``, ``mine``, ``finetune`` and ``evaluate``: one stage, and the scenes that it lacks.

Which artifacts a stage makes, and of what, is in ``pipeline/dataflow.py``.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from flows.arguments import RunArguments
from pipeline.stage_names import StageName

if TYPE_CHECKING:
    from pipeline.settings import Settings


def train_proposals(run: RunArguments) -> None:
    """Train the proposal net on labelled scenes.

    Scenes that are missing are prepared first. A run that was stopped goes on where its newest checkpoint is, with the
    same result. What is trained, and how, is in the section proposal_net of the settings;
    docs/guides/train_proposals.md explains it. torchrun starts several processes that train together.

    Args:
        run: Where the settings come from.

    Raises:
        SettingsError: If the settings are wrong.
        StageError: If the loss is not finite, or the device's memory runs out.
    """
    _run_and_print("train-proposals", run)


def mine(run: RunArguments) -> None:
    """Mine pairs of masks and nouns.

    Scenes that are missing are prepared first. Three steps are kept apart, so that no image goes through a model twice:
    other captions, noun rules, templates or thresholds redo the last step alone. What is mined, and how, is in the
    section mine of the settings; docs/guides/mining.md explains it, docs/start/using_pairs.md shows how to read the
    result.

    Args:
        run: Where the settings come from.

    Raises:
        MissingInputError: If the proposal net is not trained.
        SettingsError: If the settings are wrong, or don't fit the data set.
        StageError: If a unit could not be made, too many rows failed, or there is no pair at all.
    """
    _run_and_print("mine", run)


def finetune(run: RunArguments) -> None:
    """Adapt CLIP to masked crops: finetune its image tower (FT), train mask prompts (MPT), or both.

    A run that was stopped goes on where its newest checkpoint is, with the same result, in whichever phase that is.
    What is trained after what is the setting finetune.mode; docs/guides/finetuning.md explains it. torchrun starts
    several processes that train together.

    Args:
        run: Where the settings come from.

    Raises:
        SettingsError: If the settings are wrong.
        MissingInputError: If the pairs are not finished.
        StageError: If the loss is not finite, or the device's memory runs out.
    """
    _run_and_print("finetune", run)


def evaluate(
    arguments: tyro.conf.OmitArgPrefixes[RunArguments],
    *,
    ablate: bool = False,
    predictions: Path | None = None,
    baseline: str = "",
) -> None:
    """Score predictions on the labelled data sets that the settings name, and write the report.

    What was scored before is kept. The last line is the path of the report: HTML, with the same numbers as Markdown and
    JSON beside it.

    Args:
        arguments: Where the settings come from.
        ablate: Score the paper's ablations too: each branch alone, no prompts, no masks, perfect masks, a perfect
            classifier, and sweeps of ensemble weight and mask threshold. What the nets say is stored, so that other
            values of a sweep run no net again.
        predictions: Score the predictions of another model instead: a folder of label PNGs or NPZ files, named as the
            pictures, or detectron2's sem_seg_predictions.json. The settings must name one data set to evaluate on;
            evaluate.datasets.predictions has further settings.
        baseline: Compare with another evaluation in the report, class by class and picture by picture: the directory of
            scores or of a report on the same scenes, or 'original' for the CLIP as it was before.

    Raises:
        MissingInputError: If the proposal net or the adapted CLIP is not finished.
        SettingsError: If the settings are wrong.
        StageError: If a data set could not be scored.
    """
    from pipeline.stages import run
    from storage_schemas.reports import html_path
    from storage_schemas.scores import KIND as SCORES

    settings = arguments.settings()
    if predictions is not None:
        settings = _with_predictions(settings, predictions)
    if baseline:
        section = settings.evaluate.model_copy(update={"baseline": baseline})
        settings = settings.model_copy(update={"evaluate": section})
    done = run("evaluate", settings, ablate=ablate)
    if done.units_done == 0:
        sys.stdout.write(f"all {done.units_skipped} units were complete before; nothing to do\n")
    for dataset, scores in zip(settings.evaluate.datasets, done.of_kind(SCORES), strict=True):
        sys.stdout.write(f"scores of {dataset.dataset}: {scores.artifact.directory}\n")
    sys.stdout.write(f"report: {html_path(done.artifact)}\n")


def _with_predictions(settings: "Settings", path: Path) -> "Settings":
    """Return settings in which the one data set that is evaluated has predictions of another model.

    Raises:
        SettingsError: If it is not one data set.
    """
    from pipeline.settings import PredictionsSettings, SettingsError

    section = settings.evaluate
    if len(section.datasets) != 1:
        message = f"evaluate.datasets: names {len(section.datasets)} data sets, one is expected with --predictions"
        raise SettingsError([f"{message}; name it, or set 'predictions' in the entry of each"])
    (dataset,) = section.datasets
    said = dataset.predictions or PredictionsSettings(path=path)
    scored = dataset.model_copy(update={"predictions": said.model_copy(update={"path": path})})
    return settings.model_copy(update={"evaluate": section.model_copy(update={"datasets": (scored,)})})


def _run_and_print(stage: StageName, run: RunArguments) -> None:
    """Run a stage, and print where its last artifact is."""
    from pipeline.stages import run as run_stage

    report = run_stage(stage, run.settings())
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes only the first prints
        sys.stdout.write(f"{report.artifact.directory}\n")
