"""How fast parameters learn: AdamW's groups, and schedules that are functions of the step, with no state to save."""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from torch import nn

Schedule = Callable[[int], float]
"""From the number of a step, from 0, to a factor on every group's learning rate."""


class Rate(NamedTuple):
    """How a parameter learns.

    Attributes:
        learning_rate: Where the schedule's factor is 1.
        weight_decay: Of AdamW, which multiplies it with the learning rate.
    """

    learning_rate: float
    weight_decay: float


def parameter_groups(rates: Iterable[tuple[nn.Parameter, Rate]]) -> list[dict[str, Any]]:
    """Return AdamW's groups, one per rate, in the order in which rates come up.

    The order is part of a checkpoint: the optimizer's state is numbered by it.
    """
    groups: dict[Rate, dict[str, Any]] = {}
    for parameter, rate in rates:
        group = groups.setdefault(rate, {"params": [], "lr": rate.learning_rate, "weight_decay": rate.weight_decay})
        group["params"].append(parameter)
    return list(groups.values())


def warmup_poly(*, steps: int, warmup_steps: int, warmup_factor: float, power: float) -> Schedule:
    """Return a linear warm-up times a polynomial fall to 0: ``warm * (1 - step / steps) ** power``.

    Args:
        steps: Of the whole run.
        warmup_steps: Of the warm-up.
        warmup_factor: Factor at step 0.
        power: Exponent of the fall.

    References:
        MaskFormer's published setting: 1500 steps from 1e-6, power 0.9.
    """

    def factor(step: int) -> float:
        part = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        warm = warmup_factor * (1 - part) + part
        return warm * math.pow(1 - step / steps, power)

    return factor


def warmup_cosine(*, steps: int, warmup_steps: int) -> Schedule:
    """Return a linear warm-up to 1, whose step 0 already has ``1 / warmup_steps``, then half a cosine to 0.

    References:
        open_clip's cosine schedule.
    """

    def factor(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        passed = (step - warmup_steps) / max(1, steps - warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * passed))

    return factor
