"""What the user calls the stages, in their order; importing it imports nothing else."""

from typing import Literal, get_args

StageName = Literal["prepare", "train-proposals", "mine", "finetune", "evaluate"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
