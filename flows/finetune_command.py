"""``ovseg finetune``: stage 3, pairs in, an adapted CLIP out."""

import sys

from flows.arguments import RunArguments


def finetune(run: RunArguments) -> None:
    """Adapt CLIP to masked crops: finetune its image tower (FT), train mask prompts (MPT), or both.

    A run that was stopped goes on where its newest checkpoint is, with the same result, in whichever phase that is.
    What is trained after what is the setting finetune.mode; docs/finetuning.md explains it. torchrun starts several
    processes that train together.

    Args:
        run: Where the settings come from.

    Raises:
        SettingsError: If the settings are wrong.
        MissingInputError: If the pairs are not finished.
        StageError: If the loss is not finite, or the device's memory runs out.
    """
    from pipeline.stages import run as run_stage

    sys.stdout.write(f"{run_stage('finetune', run.settings()).artifact.directory}\n")
