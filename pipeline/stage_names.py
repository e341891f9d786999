"""Names of the stages, in their order, as the user types them.

A module of its own, which imports nothing: ``ovseg --help`` needs the names, and answers within a quarter of a second.
"""

from typing import Literal, get_args

StageName = Literal["prepare", "train-proposals", "mine", "finetune", "evaluate"]
STAGE_NAMES: tuple[StageName, ...] = get_args(StageName)
