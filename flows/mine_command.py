"""``ovseg mine``: stage 2, scenes with captions and a proposal net in, pairs of masks and nouns out."""

import sys

from flows.arguments import RunArguments


def mine(run: RunArguments) -> None:
    """Mine pairs of masks and nouns.

    Scenes that are missing are prepared first. Three steps are kept apart, so that no image goes through a model twice:
    other captions, noun rules, templates or thresholds redo the last step alone. What is mined, and how, is in the
    section mine of the settings; docs/mining.md explains it, docs/using_pairs.md shows how to read the result.

    Args:
        run: Where the settings come from.

    Raises:
        MissingInputError: If the proposal net is not trained.
        SettingsError: If the settings are wrong, or don't fit the data set.
        StageError: If a unit could not be made, too many rows failed, or there is no pair at all.
    """
    from pipeline.stages import run as run_stage

    sys.stdout.write(f"{run_stage('mine', run.settings()).artifact.directory}\n")
