"""``ovseg train-proposals``: stage 1, scenes with labels in, a proposal net out."""

import os
import sys

from flows.arguments import RunArguments


def train_proposals(run: RunArguments) -> None:
    """Train the proposal net on labelled scenes.

    Scenes that are missing are prepared first. A run that was stopped goes on where its newest checkpoint is, with the
    same result. What is trained, and how, is in the section proposal_net of the settings; docs/train_proposals.md
    explains it. torchrun starts several processes that train together.

    Args:
        run: Where the settings come from.

    Raises:
        SettingsError: If the settings are wrong.
        StageError: If the loss is not finite, or the device's memory runs out.
    """
    from pipeline.stages import run as run_stage

    report = run_stage("train-proposals", run.settings())
    if os.environ.get("RANK", "0") == "0":  # of torchrun's processes one speaks
        sys.stdout.write(f"{report.artifact.directory}\n")
