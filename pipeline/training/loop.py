"""The training loop: steps, checkpoints, validation and metrics around a task that knows model, data and loss."""

import contextlib
import dataclasses
import gc
import logging
import math
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.amp import GradScaler
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from ovseg_models.checkpointing import running_statistics
from ovseg_models.precision import half_precision, single_precision
from pipeline.errors import StageError
from pipeline.settings import Precision, TrackerName
from pipeline.training.data_order import DataOrder, torch_seed
from pipeline.training.learning_rates import Schedule
from pipeline.training.loader import Batch, BatchSource, loading, lost_worker, rows, size
from pipeline.training.metrics_log import MetricsLog
from pipeline.training.processes import Processes, SummedGradients
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
        loader_workers: Processes that read samples for each training process; 0 reads in the training process.
        checkpoint_every: Steps from one checkpoint to the next.
        validate_every: Steps from one validation to the next; 0 for none.
        best_by: Name of the validation value whose greatest marks the best checkpoint; empty for none.
        section: Section of the settings that has ``accumulation_steps``, for messages.
        trackers: Names of trackers that get the numbers of the run.
    """

    steps: int
    seed: int
    schedule: Schedule
    gradient_clip_norm: float = math.inf
    accumulation_parts: int = 0
    precision: Precision = "fp32"
    compile: bool = False
    loader_workers: int = 0
    checkpoint_every: int = 1000
    keep_last: int = 2
    validate_every: int = 0
    best_by: str = ""
    section: str = "training"
    trackers: tuple[TrackerName, ...] = ()


class Task(Protocol):
    """What is trained: model, data and loss of one stage."""

    @property
    def model(self) -> nn.Module:
        """The module that is trained, on its device."""
        ...

    @property
    def samples(self) -> BatchSource[Any]:
        """Makes the batches."""
        ...

    @property
    def order(self) -> DataOrder:
        """Which samples a step sees."""
        ...

    def optimizer(self) -> torch.optim.Optimizer:
        """Return the optimizer, over the parameters that are trained."""
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

    @classmethod
    def of(cls, plan: Plan, processes: Processes) -> Self:
        """Choose type and scaler; a CPU computes in full precision whatever the setting."""
        autocast_type = half_precision(processes.device, plan.precision)
        # bf16 has the exponents of single precision: its small gradients need no scale.
        scaler = GradScaler(processes.device.type, enabled=autocast_type is torch.float16)
        return cls(processes, max(1, plan.accumulation_parts), scaler, autocast_type)

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
        part_size = math.ceil(size(batch) / self.parts)  # the last part may be smaller
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
        # [process * row ...], taken before the agreement, as in `sum`
        everyone = values.new_empty((self.processes.count * len(values), *values.shape[1:]))
        self.agree()
        dist.all_gather_into_tensor(everyone, values)
        return everyone


class Trainer:
    """Runs a task to its last step, from the newest checkpoint if there is one.

    Args:
        plan: How long and how.
        artifact: Where checkpoints and metrics are kept (``_local``); held for writing by the first process.
        processes: The processes that train together.
        run: Name of the run where several, one after another, make one artifact; checkpoints and metrics are then in
            a directory of that name below ``_local``.
    """

    def __init__(self, task: Task, plan: Plan, artifact: Artifact, processes: Processes, *, run: str = "") -> None:
        self._task = task
        self._plan = plan
        self._artifact = artifact
        self._run = run
        self._processes = processes
        self._optimizer = task.optimizer()
        for group in self._optimizer.param_groups:
            group["base_lr"] = group["lr"]  # the schedule's factor is applied to this one in each step
        self._context = StepContext.of(plan, processes)
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
        plan, processes = self._plan, self._processes
        store = CheckpointStore(self._artifact, self._run)
        if processes.is_first:
            store.prepare()
        on_gpu = processes.device.type == "cuda"  # on a CPU memory is not found by trying
        if on_gpu and self._statistics and not plan.accumulation_parts and processes.is_first:
            logger.warning(
                "batch norms train, and %(section)s.accumulation_steps is 0: where a step does not fit the memory and "
                "takes its batch in parts, each is normalised by itself, and the result changes beyond rounding; set "
                "%(section)s.accumulation_steps to a number that fits, or freeze the batch norms",
                {"section": plan.section},
            )
        step = self._resume(store)
        if step < plan.steps:
            with contextlib.ExitStack() as stack:
                metrics = None
                if processes.is_first:
                    title = f"{self._artifact.identity.kind} {self._artifact.directory.name} {self._run}".rstrip()
                    log = MetricsLog(
                        self._artifact.local_directory / self._run, step=step, trackers=plan.trackers, title=title
                    )
                    metrics = stack.enter_context(log)
                stack.enter_context(single_precision(processes.device, plan.precision))
                try:
                    self._steps(step, store, metrics)
                except RuntimeError as error:
                    if is_out_of_memory(error):  # outside of what a step can take again in more parts
                        raise StageError(
                            self._memory_message(str(error), "in the optimizer or in validation")
                        ) from error
                    # torch reports a dead loader worker by a signal handler, at any place of this process
                    if message := lost_worker(error):
                        raise StageError(message) from error
                    raise
        processes.wait()

    def _resume(self, store: CheckpointStore) -> int:
        """Load the newest checkpoint on every process; return the step to go on from.

        On its own, so that the checkpoint, as large as model and moments, is freed before the first step.
        """
        processes, model = self._processes, self._task.model
        # The first process decides: on a shared disk the others might see another newest checkpoint.
        latest = store.latest() if processes.is_first else None
        step = processes.from_first(latest.step if latest is not None else -1)
        if step < 0:
            processes.take_from_first(trained_tensors(model).values())
            return 0
        facts = from_checkpoint(latest or store.load(step), model, self._optimizer, self._context.scaler)
        self._best = (int(facts["best"][0]), float(facts["best"][1])) if facts["best"] else None
        if processes.is_first:
            logger.info("going on from step %d of %d", step, self._plan.steps)
        return step

    def _steps(self, first: int, store: CheckpointStore, metrics: MetricsLog | None) -> None:
        """Take the steps from ``first`` to the last, with validations and checkpoints on the way.

        Args:
            metrics: Open in the first process, which alone writes; None in the others.
        """
        plan, task, processes = self._plan, self._task, self._processes
        bar = tqdm(
            total=plan.steps, initial=first, unit="step", disable=not (processes.is_first and sys.stderr.isatty())
        )
        stream = loading(
            task.samples,
            task.order,
            first_step=first,
            steps=plan.steps,
            processes=processes,
            workers=plan.loader_workers,
        )
        losses, since = list[float](), time.monotonic()
        with bar, logging_redirect_tqdm(), stream as batches:
            for step, batch in enumerate(batches, start=first):
                started = time.monotonic()
                values = self.step(step, batch)
                done = step + 1
                if metrics is not None:
                    metrics.write(done, values)
                    metrics.rate(done, size(batch) * processes.count / (time.monotonic() - started))
                losses.append(values["loss"])
                bar.set_postfix(loss=f"{values['loss']:.3f}")
                bar.update()
                last = done == plan.steps
                if plan.validate_every and (done % plan.validate_every == 0 or last):
                    # Each process has statistics of its own samples; validated is what the checkpoint will hold.
                    processes.take_from_first(self._statistics)
                    task.model.eval()
                    measured = task.validate()
                    if metrics is not None:
                        metrics.write(done, measured, group="validation")
                        listed = ", ".join(f"{name} {value:.4f}" for name, value in measured.items())
                        logger.info("step %d of %d: validation %s", done, plan.steps, listed)
                        if plan.best_by and (self._best is None or measured[plan.best_by] > self._best[1]):
                            self._best = (done, measured[plan.best_by])
                    processes.wait()
                if done % plan.checkpoint_every == 0 or last:
                    if metrics is not None:
                        metrics.sync()  # first: a run that goes on from the checkpoint keeps the lines up to its step
                        facts = {"best": list(self._best) if self._best else []}
                        store.save(to_checkpoint(done, task.model, self._optimizer, self._context.scaler, facts))
                        kept = frozenset({self._best[0]}) if self._best else frozenset[int]()
                        store.prune(keep_last=plan.keep_last, keep=kept)
                    processes.wait()
                    if metrics is not None:  # where there is no terminal, there is no bar either
                        mean, per_step = sum(losses) / len(losses), (time.monotonic() - since) / len(losses)
                        logger.info("step %d of %d: loss %.4f, %.2f s a step; saved", done, plan.steps, mean, per_step)
                    losses, since = [], time.monotonic()

    def step(self, step: int, batch: Any) -> dict[str, float]:
        """Take one optimizer step.

        Args:
            step: Its number, from 0.
            batch: This process's part of it.

        Returns:
            The loss terms over all processes, the gradient's norm and the learning rate.

        Raises:
            StageError: If the loss or its gradient is not finite, or memory does not suffice for the smallest parts.
        """
        factor = self._plan.schedule(step)
        for group in self._optimizer.param_groups:
            group["lr"] = group["base_lr"] * factor
        self._task.model.train()
        terms = self._compute_gradients(step, batch)
        scaler = self._context.scaler
        scaler.unscale_(self._optimizer)  # the norm is that of the true gradient
        norm = torch.nn.utils.clip_grad_norm_(self._gradients.parameters, self._plan.gradient_clip_norm)
        names = sorted(terms)
        summed = self._processes.sum(torch.stack([terms[name].detach().double() for name in names]))
        # One copy to the host for all numbers of the step: each one makes the host wait for the device.
        numbers = torch.cat([summed, norm.detach().double()[None].to(summed.device)]).tolist()
        values = dict(zip([*names, "gradient_norm"], numbers, strict=True))
        # A scaler passes over steps with infinite gradients itself, and lowers its scale.
        norm_counts = not scaler.is_enabled()
        if not math.isfinite(values["loss"]) or (norm_counts and not math.isfinite(values["gradient_norm"])):
            listed = ", ".join(f"{name} {value}" for name, value in values.items())
            raise StageError(_not_finite_message(step + 1, listed, self._task.describe(batch)))
        scaler.step(self._optimizer)
        scaler.update()
        self._task.after_step()
        return {**values, "learning_rate": self._optimizer.param_groups[0]["lr"]}

    def _compute_gradients(self, step: int, batch: Any) -> Mapping[str, Tensor]:
        """Let the task compute a batch, in more parts if the memory of any process does not suffice.

        The number of parts that fits is kept for the rest of the run. All attempts draw the same random numbers, so
        that a step taken again is as if it had been taken in these parts at once.
        """
        parts_are_set = bool(self._plan.accumulation_parts)  # then there is no second attempt
        before = [] if parts_are_set else [statistic.clone() for statistic in self._statistics]
        while True:
            self._gradients.clear()
            torch.manual_seed(torch_seed(self._plan.seed, "step", step, self._processes.rank))
            try:
                terms = self._task.backward(self._model, batch, self._context)
                self._context.agree()  # on the exchange of gradients, which no process may enter alone
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
            samples, parts = size(batch), self._context.parts
            if parts_are_set or parts >= samples:
                taken = f"in {parts} parts a step" if parts_are_set else "with one sample at a time"
                raise StageError(self._memory_message(reason, taken))
            self._context = dataclasses.replace(self._context, parts=min(2 * parts, samples))
            self._gradients.clear()
            gc.collect()  # cycles may hold activations, and the caching allocator what is left of them
            if self._processes.device.type == "cuda":
                torch.cuda.empty_cache()
            if self._processes.is_first:
                logger.info(
                    "%d samples at a time are too many for the device's memory; %d from here on%s",
                    math.ceil(samples / parts),
                    math.ceil(samples / self._context.parts),
                    ", and each such part has its own statistics in batch norms" if self._statistics else "",
                )
            for statistic, value in zip(self._statistics, before, strict=True):  # the failed attempt moved them
                statistic.copy_(value)

    def _memory_message(self, reason: str, when: str) -> str:
        """Return what helps when the device's memory runs out."""
        section, parts = self._plan.section, self._plan.accumulation_parts
        remedy = f"set {section}.accumulation_steps to 0, which finds the number of parts, or " if parts else ""
        first_line = reason.split("\n", maxsplit=1)[0]
        return (
            f"out of memory on the device {when} ({first_line}); {remedy}set {section}.gradient_checkpointing to true, "
            "or use a device with more memory; then run the same command again, it goes on from the last checkpoint"
        )


def _not_finite_message(step: int, found: str, samples: str) -> str:
    """Return where a loss stopped being a number, and what helps."""
    return (
        f"step {step}: the loss or its gradient is not finite ({found}) on {samples}; look at these samples, lower the "
        "learning rate, or use precision 'fp32', 'tf32' or 'bf16'; the checkpoints before are whole"
    )
