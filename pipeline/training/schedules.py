"""Learning-rate factors as functions of the step, which need no state to go on after a restart."""

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """A factor on every group's learning rate."""

    def factor(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        ...


@dataclass(frozen=True, slots=True)
class WarmupPoly:
    """A linear warm-up times a polynomial fall to 0: ``warm * (1 - step / steps) ** power``.

    Attributes:
        steps: Steps of the whole run.
        warmup_steps: Steps of the warm-up.
        warmup_factor: Factor at step 0.
        power: Exponent of the fall.

    References:
        MaskFormer's published setting: 1500 steps from 1e-6, power 0.9.
    """

    steps: int
    warmup_steps: int
    warmup_factor: float
    power: float

    def factor(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        part = min(1.0, step / self.warmup_steps) if self.warmup_steps else 1.0
        warm = self.warmup_factor * (1 - part) + part
        return warm * math.pow(1 - step / self.steps, self.power)


@dataclass(frozen=True, slots=True)
class WarmupCosine:
    """A linear warm-up to 1, then half a cosine to 0.

    Attributes:
        steps: Steps of the whole run.
        warmup_steps: Steps of the warm-up; step 0 already has ``1 / warmup_steps``.

    References:
        open_clip's cosine schedule.
    """

    steps: int
    warmup_steps: int

    def factor(self, step: int) -> float:
        """Return the factor of a step, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        passed = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * passed))
