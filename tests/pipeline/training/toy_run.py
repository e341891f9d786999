"""A small training run for the loop's tests."""

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.training.data_order import DataOrder, Draw, generator
from pipeline.training.learning_rates import warmup_cosine
from pipeline.training.loop import Plan, StepContext, Trainer
from pipeline.training.processes import joined
from storage_schemas.artifact import Artifact
from storage_schemas.commit import Disk
from storage_schemas.manifest import Description, Identity

SAMPLES, BATCH, SEED = 37, 8, 5


class ToyBatch(NamedTuple):
    numbers: Tensor
    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class ToySource:
    bad_sample: int = -1

    def batch(self, draws: Sequence[Draw]) -> ToyBatch:
        random = [generator(SEED, "augment", draw.epoch, draw.sample).normal(size=6) for draw in draws]
        inputs = torch.from_numpy(np.stack(random)).float()
        numbers = torch.tensor([draw.sample for draw in draws])
        targets = inputs[:, :3].sum(1) * numbers / SAMPLES
        return ToyBatch(numbers, inputs, targets.where(numbers != self.bad_sample, math.nan))


class ToyTask:
    def __init__(self, dropout: float = 0.5, samples: ToySource | None = None) -> None:
        torch.manual_seed(SEED)
        self.model: nn.Module = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 1))
        self.samples = samples or ToySource()
        self.order = DataOrder(SAMPLES, BATCH, SEED)

    def optimizer(self) -> torch.optim.Optimizer:
        first, last = self.model[0], self.model[3]
        groups = [
            {"params": list(first.parameters()), "lr": 1e-2, "weight_decay": 0.1},
            {"params": list(last.parameters()), "lr": 3e-2, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, betas=(0.9, 0.98))

    def backward(self, model: nn.Module, batch: ToyBatch, step: StepContext) -> Mapping[str, Tensor]:
        total = torch.zeros(())
        for part in step.cut(batch):
            predictions = model(part.inputs)[:, 0]
            loss = (predictions - part.targets).square().sum() / BATCH
            step.backward(loss)
            total = total + loss.detach()
        return {"loss": total}

    def after_step(self) -> None:
        pass

    def validate(self) -> Mapping[str, float]:
        with torch.no_grad():
            return {"output": self.model(torch.ones(1, 6)).item()}

    def describe(self, batch: ToyBatch) -> str:
        return "samples " + ", ".join(map(str, batch.numbers.tolist()))


class Stopped(BaseException):
    """The end of a process, as far as code can see it: nothing catches this, nothing is cleaned up."""


class StoppingDisk(Disk):
    """Ends the run at the n-th call of the commit protocol."""

    def __init__(self, at_call: int) -> None:
        self.left = at_call

    def _call(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise Stopped

    def create(self, path: Path) -> BinaryIO:
        self._call()
        return super().create(path)

    def write(self, file: BinaryIO, data: bytes | memoryview) -> None:
        self._call()
        super().write(file, data)

    def sync_file(self, file: BinaryIO) -> None:
        self._call()
        super().sync_file(file)

    def rename(self, source: Path, target: Path) -> None:
        self._call()
        super().rename(source, target)

    def sync_directory(self, directory: Path) -> None:
        self._call()
        super().sync_directory(directory)


def toy_artifact(runs: Path, disk: Disk | None = None) -> Artifact:
    identity = Identity(kind="toy", name="toy", schema_version=1, producer_version=1, settings={})
    return Artifact.planned(runs, Description(identity=identity, units=("weights",)), disk)


def toy_plan(steps: int, **changes: Any) -> Plan:
    numbers: dict[str, Any] = {
        "gradient_clip_norm": 1.0,
        "checkpoint_every": 7,
        "validate_every": 10,
        "best_by": "output",
        **changes,
    }
    return Plan(steps=steps, seed=SEED, schedule=warmup_cosine(steps=steps, warmup_steps=5), **numbers)


def toy_run(
    runs: Path, *, steps: int = 40, workers: int = 0, parts: int = 1, dropout: float = 0.5, pause_s: float = 0.0
) -> None:
    """Train to the last step, in this process or, where variables of the environment say so, in one of several."""
    artifact = toy_artifact(runs)
    with joined("cpu", 1) as processes, contextlib.ExitStack() as held:
        task = ToyTask(dropout)
        if pause_s:
            task.after_step = lambda: time.sleep(pause_s)  # type: ignore[method-assign]
        plan = toy_plan(steps, accumulation_parts=parts, loader_workers=workers)
        if processes.is_first:
            held.enter_context(artifact.writing())
        Trainer(task, plan, artifact, processes).run()
