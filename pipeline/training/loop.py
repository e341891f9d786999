"""The training loop: steps, checkpoints, validation and metrics around a task that knows model, data and loss."""

import contextlib
import dataclasses
import gc
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ovseg_models.checkpointing import running_statistics
from ovseg_models.precision import half_precision, single_precision
from pipeline.errors import StageError
from pipeline.settings import Precision
from pipeline.training.data_order import torch_seed
from pipeline.training.loader import Batch, lost_worker, rows, size
from pipeline.training.metrics import MetricsLog
from pipeline.training.processes import Processes, SummedGradients
from pipeline.training.schedules import Schedule
from pipeline.training.state import from_checkpoint, to_checkpoint, trained_tensors
from pipeline.worker_device import is_out_of_memory
from storage_schemas.artifact import Artifact
from storage_schemas.checkpoints import CheckpointStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The numbers of a run that the loop itself needs.

    Attributes:
        steps: Optimizer steps of the whole run.
        seed: What decides all random numbers.
        schedule: Factor on each group's learning rate.
        gradient_clip_norm: Upper limit of the L2 norm of the whole gradient; infinity for none.
        accumulation_parts: Parts in which a process takes its batch to save memory; 0 = one, and twice as many each
            time that the device's memory runs out.
        precision: Of all steps and validations; on a CPU always ``"fp32"``.
        compile: Whether to compile the model.
        checkpoint_every: Steps from one checkpoint to the next.
        keep_last: Checkpoints to keep.
        validate_every: Steps from one validation to the next; 0 for none.
        best_by: Name of the validation value whose greatest marks the best checkpoint; empty for none.
        section: Section of the settings that has ``accumulation_steps``, for messages.
    """

    steps: int
    seed: int
    schedule: Schedule
    gradient_clip_norm: float = math.inf
    accumulation_parts: int = 0
    precision: Precision = "fp32"
    compile: bool = False
    checkpoint_every: int = 1000
    keep_last: int = 2
    validate_every: int = 0
    best_by: str = ""
    section: str = "training"


class Task(Protocol):
    """What is trained: model, data and loss of one stage."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained, on its device."""
        ...

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's groups with ``params``, ``lr`` and ``weight_decay``."""
        ...

    def optimizer_arguments(self) -> dict[str, Any]:
        """Return AdamW's other arguments."""
        ...

    def batches(self, first_step: int) -> contextlib.AbstractContextManager[Iterator[Any]]:
        """Open the stream of this process's batches (`loader.Batch`), one per step from ``first_step`` to the last."""
        ...

    def backward(self, model: nn.Module, batch: Any, step: "StepContext") -> Mapping[str, Tensor]:
        """Compute the losses of a batch and, through ``step``, their gradients; return the terms and ``"loss"``.

        It is called again for the same batch when memory ran out in any process. So it changes nothing but gradients,
        and what it exchanges with other processes goes through ``step``. Each term is this process's share: summed
        over the processes it is the term of the whole batch.
        """
        ...

    def after_step(self) -> None:
        """Do what has to follow an optimizer step, such as clamping a parameter."""
        ...

    def validate(self) -> Mapping[str, float]:
        """Measure the model on held-out data; called in every process, and the same in all."""
        ...

    def describe(self, batch: Any) -> str:
        """Name the samples of a batch with their shards, for the message of a loss that is not finite."""
        ...


class _RanOutElsewhereError(Exception):
    """Another process ran out of memory in this step."""


@dataclass(frozen=True)
class StepContext:
    """What a task needs to compute gradients under the run's precision and processes.

    Attributes:
        processes: The processes that train together.
        parts: Parts in which to take the batch.
        scaler: Scales losses of half precision; does nothing otherwise.
        autocast_type: Type of half precision, None for full.
    """

    processes: Processes
    parts: int
    scaler: GradScaler
    autocast_type: torch.dtype | None

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """Compute in the run's precision."""
        if self.autocast_type is None:
            return contextlib.nullcontext()
        return torch.autocast(self.processes.device.type, dtype=self.autocast_type)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a loss that is a sum over this process's samples, normalised over all processes."""
        self.scaler.scale(loss).backward()

    def cut(self, batch: Batch) -> Iterator[Batch]:
        """Yield the parts of a batch."""
        part_size = math.ceil(size(batch) / self.parts)
        for start in range(0, size(batch), part_size):
            yield rows(batch, start, start + part_size)

    def agree(self) -> None:
        """Go on if no process ran out of memory since the last agreement; then all of them make the next exchange.

        A process that ran out agrees too, with the opposite, whichever exchange the others are about to make. None of
        them is left alone in it.
        """
        if self.processes.any(False):
            raise _RanOutElsewhereError

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.processes.count > 1:
            values = values.detach().clone()  # memory is taken before the agreement
            self.agree()
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Return the tensors of all processes in order of rank, one after another along the first dimension.

        They must be of one shape. No gradient flows through.
        """
        values = values.detach().contiguous()
        if self.processes.count == 1:
            return values
        everyone = values.new_empty((self.processes.count * len(values), *values.shape[1:]))
        self.agree()
        dist.all_gather_into_tensor(everyone, values)
        return everyone


class Trainer:
    """Runs a task to its last step, from the newest checkpoint if there is one.

    Args:
        task: What is trained.
        plan: How long and how.
        artifact: Where checkpoints and metrics lie (``_local``); held for writing by the first process.
        processes: The processes that train together.
        run: Name of the run where several, one after another, make one artifact; checkpoints and metrics then lie in
            a directory of that name below ``_local``.
    """

    def __init__(self, task: Task, plan: Plan, artifact: Artifact, processes: Processes, *, run: str = "") -> None:
        self._task = task
        self._plan = plan
        self._artifact = artifact
        self._run = run
        self._processes = processes
        self._optimizer = torch.optim.AdamW(task.parameter_groups(), **task.optimizer_arguments())
        for group in self._optimizer.param_groups:
            group["base_lr"] = group["lr"]
        self._context = _step_context(plan, processes)
        self._model = cast("nn.Module", torch.compile(task.model)) if plan.compile else task.model
        parameters = [parameter for group in self._optimizer.param_groups for parameter in group["params"]]
        self._gradients = SummedGradients(parameters, processes)
        task.model.train()
        self._statistics = running_statistics(task.model)
        self._best: tuple[int, float] | None = None

    def run(self) -> None:
        """Train to the last step.

        Raises:
            StageError: If the loss is not finite, or the device's memory does not hold a single sample of a batch.
            WriteError: If a checkpoint cannot be written.
        """
        store = None
        if self._processes.is_first:
            store = CheckpointStore(self._artifact, self._run)
            store.prepare()
        on_gpu = self._processes.device.type == "cuda"  # on a CPU memory is not found by trying
        if on_gpu and self._statistics and not self._plan.accumulation_parts and self._processes.is_first:
            logger.warning(
                "batch norms train, and %(section)s.accumulation_steps is 0: where a step does not fit the memory and "
                "takes its batch in parts, each is normalised by itself, and the result changes beyond rounding; set "
                "%(section)s.accumulation_steps to a number that fits, or freeze the batch norms",
                {"section": self._plan.section},
            )
        step = self._resume(store)
        if step < self._plan.steps:
            with contextlib.ExitStack() as stack:
                metrics = None
                if self._processes.is_first:
                    directory = self._artifact.local_directory / self._run
                    metrics = stack.enter_context(MetricsLog(directory, step=step))
                stack.enter_context(single_precision(self._processes.device, self._plan.precision))
                try:
                    self._steps(step, store, metrics)
                except RuntimeError as error:
                    if is_out_of_memory(error):  # outside of what a step can take again in more parts
                        message = self._memory_message(str(error), "in the optimizer or in validation")
                        raise StageError(message) from error
                    # torch reports a dead loader worker by a signal handler, at any place of this process
                    if message := lost_worker(error):
                        raise StageError(message) from error
                    raise
        self._processes.wait()

    def _resume(self, store: CheckpointStore | None) -> int:
        """Load the newest checkpoint on every process; return the step to go on from."""
        latest = store.latest() if store is not None else None
        step = self._processes.from_first(latest.step if latest is not None else -1)
        if step < 0:
            self._processes.take_from_first(trained_tensors(self._task.model).values())
            return 0
        if latest is None:
            latest = CheckpointStore(self._artifact, self._run).load(step)
        facts = from_checkpoint(latest, self._task.model, self._optimizer, self._context.scaler)
        self._best = (int(facts["best"][0]), float(facts["best"][1])) if facts["best"] else None
        if self._processes.is_first:
            logger.info("going on from step %d of %d", step, self._plan.steps)
        return step

    def _steps(self, first: int, store: CheckpointStore | None, metrics: MetricsLog | None) -> None:
        """Take the steps from ``first`` to the last."""
        plan = self._plan
        bar = tqdm(
            total=plan.steps, initial=first, unit="step", disable=not (self._processes.is_first and sys.stderr.isatty())
        )
        losses, since = list[float](), time.monotonic()
        with bar, logging_redirect_tqdm(), self._task.batches(first) as batches:
            for step, batch in enumerate(batches, start=first):
                started = time.monotonic()
                values = self._step(step, batch)
                done = step + 1
                if metrics is not None:
                    metrics.write(done, values)
                    metrics.rate(done, size(batch) * self._processes.count / (time.monotonic() - started))
                losses.append(values["loss"])
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                bar.update()
                if plan.validate_every and (done % plan.validate_every == 0 or done == plan.steps):
                    self._validate(done, metrics)
                if done % plan.checkpoint_every == 0 or done == plan.steps:
                    self._save(done, store, metrics)
                    if metrics is not None:
                        self._tell(done, losses, time.monotonic() - since)
                    losses, since = [], time.monotonic()

    def _tell(self, step: int, losses: Sequence[float], seconds: float) -> None:
        """Log where the run is, once per checkpoint: where there is no terminal, there is no bar either."""
        mean, per_step = sum(losses) / len(losses), seconds / len(losses)
        logger.info("step %d of %d: loss %.4f, %.2f s a step; saved", step, self._plan.steps, mean, per_step)

    def _step(self, step: int, batch: Any) -> dict[str, float]:
        """Take one optimizer step; return the loss terms, the gradient's norm and the learning rate."""
        factor = self._plan.schedule.factor(step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self._task.model.train()
        terms = self._terms_and_gradients(step, batch)
        scaler = self._context.scaler
        scaler.unscale_(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._gradients.parameters, self._plan.gradient_clip_norm)
        names = sorted(terms)
        summed = self._processes.sum(torch.stack([terms[name].detach().double() for name in names]))
        # One copy to the host for all numbers of the step: each one makes the host wait for the device.
        numbers = torch.cat([summed, norm.detach().double()[None].to(summed.device)]).tolist()
        values = dict(zip([*names, "gradient_norm"], numbers, strict=True))
        # A scaler passes over steps with infinite gradients itself, and lowers its scale.
        norm_counts = not scaler.is_enabled()
        if not math.isfinite(values["loss"]) or (norm_counts and not math.isfinite(values["gradient_norm"])):
            raise StageError(_not_finite_message(step + 1, _listed(values), self._task.describe(batch)))
        scaler.step(self._optimizer)
        scaler.update()
        self._task.after_step()
        return {**values, "learning_rate": self._optimizer.param_groups[0]["lr"]}

    def _terms_and_gradients(self, step: int, batch: Any) -> Mapping[str, Tensor]:
        """Let the task compute a batch, in more parts if the memory of any process does not suffice.

        Raises:
            StageError: If a cost is not finite, or memory does not suffice for the smallest parts allowed.
        """
        # With a number of parts that is set there is no second attempt.
        before = None if self._plan.accumulation_parts else [statistic.clone() for statistic in self._statistics]
        while True:
            self._gradients.clear()
            torch.manual_seed(torch_seed(self._plan.seed, "step", step, self._processes.rank))
            try:
                terms = self._task.backward(self._model, batch, self._context)
                self._context.agree()
            except FloatingPointError as error:
                raise StageError(_not_finite_message(step + 1, str(error), self._task.describe(batch))) from error
            except _RanOutElsewhereError:
                reason = "in another process"
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error)
                self._processes.any(True)  # the agreement at which the others wait, or will
            else:
                self._gradients.exchange()
                return terms
            # Here, after the handlers, for the error's frames held the activations of the failed attempt.
            self._take_more_parts(size(batch), reason)
            for statistic, value in zip(self._statistics, before or (), strict=True):
                statistic.copy_(value)

    def _take_more_parts(self, samples: int, reason: str) -> None:
        """Halve what is computed at a time, for the rest of the run, and free what the failed attempt left behind.

        Args:
            samples: Of this process's batch.
            reason: What torch said of the memory.

        Raises:
            StageError: If the number of parts is set, or each part is one sample already.
        """
        parts = self._context.parts
        if self._plan.accumulation_parts or parts >= samples:
            taken = f"in {parts} parts a step" if self._plan.accumulation_parts else "with one sample at a time"
            raise StageError(self._memory_message(reason, taken))
        self._context = dataclasses.replace(self._context, parts=min(2 * parts, samples))
        self._gradients.clear()
        gc.collect()
        if self._processes.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._processes.is_first:
            logger.info(
                "%d samples at a time are too many for the device's memory; %d from here on%s",
                math.ceil(samples / parts),
                math.ceil(samples / self._context.parts),
                ", and each such part has its own statistics in batch norms" if self._statistics else "",
            )

    def _memory_message(self, reason: str, when: str) -> str:
        """Say what helps when the device's memory runs out."""
        section, parts = self._plan.section, self._plan.accumulation_parts
        remedy = f"set {section}.accumulation_steps to 0, which finds the number of parts, or " if parts else ""
        first_line = reason.split("\n", maxsplit=1)[0]
        return (
            f"out of memory on the device {when} ({first_line}); {remedy}set {section}.gradient_checkpointing to true, "
            "or use a device with more memory; then run the same command again, it goes on from the last checkpoint"
        )

    def _validate(self, step: int, metrics: MetricsLog | None) -> None:
        """Measure the model; remember the best."""
        self._processes.take_from_first(self._statistics)  # which the checkpoint holds
        self._task.model.eval()
        values = self._task.validate()
        if metrics is not None:
            metrics.write(step, values, group="validation")
            told = ", ".join(f"{name} {value:.4f}" for name, value in values.items())
            logger.info("step %d of %d: validation %s", step, self._plan.steps, told)
            if self._plan.best_by and (self._best is None or values[self._plan.best_by] > self._best[1]):
                self._best = (step, values[self._plan.best_by])
        self._processes.wait()

    def _save(self, step: int, store: CheckpointStore | None, metrics: MetricsLog | None) -> None:
        """Write a checkpoint in the first process, and delete those that are not to be kept."""
        if store is not None and metrics is not None:
            metrics.sync()
            facts = {"best": list(self._best) if self._best else []}
            store.save(to_checkpoint(step, self._task.model, self._optimizer, self._context.scaler, facts))
            kept = frozenset({self._best[0]}) if self._best else frozenset[int]()
            store.prune(keep_last=self._plan.keep_last, keep=kept)
        self._processes.wait()


def _step_context(plan: Plan, processes: Processes) -> StepContext:
    """Choose precision and scaler; a CPU computes in full precision whatever the setting."""
    autocast_type = half_precision(processes.device, plan.precision)
    scaler = GradScaler(processes.device.type, enabled=autocast_type is torch.float16)
    return StepContext(processes, max(1, plan.accumulation_parts), scaler, autocast_type)


def _listed(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _not_finite_message(step: int, found: str, samples: str) -> str:
    """Say where a loss stopped being a number."""
    return (
        f"step {step}: the loss or its gradient is not finite ({found}) on {samples}; look at these samples, lower the "
        "learning rate, or use precision 'fp32', 'tf32' or 'bf16'; the checkpoints before are whole"
    )
