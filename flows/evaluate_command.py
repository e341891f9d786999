"""``ovseg evaluate``: stage 4, from labelled scenes and the two nets to scores and a report."""

import sys

import tyro

from flows.arguments import RunArguments


def evaluate(arguments: tyro.conf.OmitArgPrefixes[RunArguments], *, ablate: bool = False) -> None:
    """Score predictions on the labelled data sets that the settings name, and write the report.

    What was scored before is kept. The last lines say where the report lies: HTML for the eye, and the same numbers as
    Markdown and JSON beside it.

    Args:
        arguments: Where the settings come from.
        ablate: Score the paper's ablations too: each branch alone, no prompts, no masks, perfect masks, a perfect
            classifier, and sweeps of ensemble weight and mask threshold. What the nets say is stored, so that other
            values of a sweep run no net again.

    Raises:
        MissingInputError: If the proposal net or the adapted CLIP is not finished.
        SettingsError: If the settings are wrong.
        StageError: If a data set could not be scored.
    """
    from pipeline.stages import run
    from storage_schemas.reports import html_path
    from storage_schemas.scores import KIND as SCORES

    settings = arguments.settings()
    done = run("evaluate", settings, ablate=ablate)
    if done.units_done == 0:
        sys.stdout.write(f"all {done.units_skipped} units were complete before; nothing to do\n")
    for dataset, scores in zip(settings.evaluate.datasets, done.of_kind(SCORES), strict=True):
        sys.stdout.write(f"scores of {dataset.dataset}: {scores.artifact.directory}\n")
    sys.stdout.write(f"report: {html_path(done.artifact)}\n")
