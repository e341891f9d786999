"""The training loop: exact resume after any kill, any number of loader workers and processes, errors that say where."""

import json
import logging
import os
import random
import re
import resource
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from pipeline.errors import StageError
from pipeline.training.data_order import DataOrder, Draw
from pipeline.training.loader import loading
from pipeline.training.loop import StepContext, Trainer
from pipeline.training.metrics_log import read_metrics
from pipeline.training.processes import Processes, joined
from storage_schemas.commit import Disk
from tests import forked
from tests.pipeline.training.toy_run import (
    SAMPLES,
    SEED,
    Stopped,
    StoppingDisk,
    ToyBatch,
    ToySource,
    ToyTask,
    toy_artifact,
    toy_plan,
    toy_run,
)

STEPS = 40
ALONE = Processes(0, 1, torch.device("cpu"))


def result(runs: Path, step: int = STEPS) -> tuple[bytes, bytes]:
    """Read the last checkpoint (weights and optimizer) and the metrics."""
    local = toy_artifact(runs).local_directory
    checkpoint = local / "checkpoints" / f"step-{step:09d}.safetensors"
    return checkpoint.read_bytes(), (local / "metrics.jsonl").read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    runs = tmp_path_factory.mktemp("undisturbed")
    toy_run(runs)
    return result(runs)


# a stopped run leaves its temporary file open, as a killed process does
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_a_stop_at_any_call_of_a_checkpoint_write_changes_nothing(tmp_path: Path) -> None:
    steps = 16
    trainer(tmp_path / "undisturbed", steps=steps).run()
    calls = StoppingDisk(10**6)
    trainer(tmp_path / "counted", disk=calls, steps=steps).run()
    for at_call in range(1, 10**6 - calls.left + 1):
        runs = tmp_path / str(at_call)
        with pytest.raises(Stopped):
            trainer(runs, disk=StoppingDisk(at_call), steps=steps).run()
        trainer(runs, steps=steps).run()
        assert result(runs, steps) == result(tmp_path / "undisturbed", steps), f"stopped at call {at_call}"


def lines_of(runs: Path) -> int:
    metrics = toy_artifact(runs).local_directory / "metrics.jsonl"
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def kill_after(lines: int, runs: Path, processes: list[ForkServerProcess], pause_s: float = 0.0) -> None:
    """Kill processes a moment after that many lines of metrics are there."""
    while lines_of(runs) < lines:
        assert all(process.exitcode is None for process in processes), "the run ended before the kill"
        time.sleep(0.001)
    time.sleep(pause_s)
    forked.kill(processes)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(tmp_path: Path, undisturbed: tuple[bytes, bytes]) -> None:
    """Also where each start reads with another number of loader workers."""
    moments = random.Random(0)
    for workers in (0, 2, 0):
        process = forked.start(partial(toy_run, workers=workers, pause_s=0.02), tmp_path)
        kill_after(lines_of(tmp_path) + moments.randint(1, 12), tmp_path, [process], moments.random() * 0.02)
    toy_run(tmp_path, workers=1)
    assert result(tmp_path) == undisturbed


def test_loader_workers_change_nothing(tmp_path: Path, undisturbed: tuple[bytes, bytes]) -> None:
    toy_run(tmp_path, workers=2)
    assert result(tmp_path) == undisturbed


def numbers(runs: Path, step: int = STEPS) -> tuple[dict[str, np.ndarray], list[float]]:
    checkpoint, metrics = result(runs, step)
    losses = [line["loss"] for line in map(json.loads, metrics.decode().splitlines()) if line["group"] == "train"]
    return safetensors.numpy.load(checkpoint), losses


def test_two_processes_and_accumulation_equal_one_process(tmp_path: Path) -> None:
    toy_run(tmp_path / "one", dropout=0)
    toy_run(tmp_path / "parts", dropout=0, parts=3)
    in_two = partial(toy_run, dropout=0, pause_s=0.01)
    kill_after(25, tmp_path / "two", forked.start_group(2, in_two, tmp_path / "two"))
    forked.finish(forked.start_group(2, in_two, tmp_path / "two"))  # goes on from the last checkpoint before the kill
    weights, losses = numbers(tmp_path / "one")
    for other in ("parts", "two"):
        other_weights, other_losses = numbers(tmp_path / other)
        np.testing.assert_allclose(other_losses, losses, atol=1e-5)
        assert other_weights.keys() == weights.keys()
        for name, array in weights.items():
            np.testing.assert_allclose(other_weights[name], array, atol=1e-5, err_msg=name)


def trainer(
    runs: Path,
    *,
    steps: int = STEPS,
    disk: Disk | None = None,
    bad_sample: int = -1,
    **changes: object,
) -> Trainer:
    task = ToyTask(samples=ToySource(bad_sample))
    return Trainer(task, toy_plan(steps, **changes), toy_artifact(runs, disk), ALONE)


def test_a_loss_that_is_not_finite_names_step_and_samples(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"step \d+: the loss .* not finite .* on samples .*\b11\b"):
        trainer(tmp_path, bad_sample=11).run()


OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB\nmore lines"


def with_memory_for(task: ToyTask, samples: Callable[[int], int]) -> list[int]:
    """Let a task's model run out of memory where it gets more samples than fit; return the sizes that it gets.

    Args:
        samples: From the number of the call, from 0, to the samples that fit then.
    """
    sizes: list[int] = []

    def run_out(_: torch.nn.Module, __: object, output: torch.Tensor) -> None:
        if output.requires_grad:  # not in validation
            sizes.append(len(output))
            if len(output) > samples(len(sizes) - 1):
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    task.model.register_forward_hook(run_out)
    return sizes


def train(runs: Path, task: ToyTask, steps: int = STEPS, **changes: object) -> None:
    Trainer(task, toy_plan(steps, **changes), toy_artifact(runs), ALONE).run()


@pytest.mark.parametrize("first_call", [0, 10])
def test_a_step_that_runs_out_of_memory_is_taken_again_in_more_parts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, first_call: int
) -> None:
    """In the first step, or in the middle of the run: as if the batch had been taken in the parts that fit."""
    steps = 15
    train(tmp_path / "whole", ToyTask(dropout=0.0), steps)
    task = ToyTask(dropout=0.0)
    sizes = with_memory_for(task, lambda call: 3 if call >= first_call else 8)
    with caplog.at_level(logging.INFO):
        train(tmp_path / "short", task, steps)
    assert sizes == [8] * first_call + [8, 4] + [2, 2, 2, 2] * (steps - first_call)
    found, expected = numbers(tmp_path / "short", steps), numbers(tmp_path / "whole", steps)
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-5)
    for name, array in expected[0].items():
        np.testing.assert_allclose(found[0][name], array, atol=1e-6, err_msg=name)
    logged = [text for text in caplog.messages if "samples at a time" in text]
    assert [re.findall(r"\d+", text) for text in logged] == [["8", "4"], ["4", "2"]]


@pytest.mark.parametrize("error", [torch.AcceleratorError, RuntimeError])
def test_memory_that_cuda_itself_lacks_is_memory_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[RuntimeError]
) -> None:
    backward, parts = ToyTask.backward, []

    def failing_once(
        task: ToyTask, model: torch.nn.Module, batch: ToyBatch, step: StepContext
    ) -> Mapping[str, torch.Tensor]:
        parts.append(step.parts)
        if len(parts) == 1:
            raise error("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported")
        return backward(task, model, batch, step)

    monkeypatch.setattr(ToyTask, "backward", failing_once)
    train(tmp_path, ToyTask(), 2)
    assert parts == [1, 2, 2]


@pytest.mark.parametrize(("parts", "norms", "warns"), [(0, True, True), (2, True, False), (0, False, False)])
def test_batch_norms_that_parts_change_are_warned_of_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, parts: int, norms: bool, warns: bool
) -> None:
    task = ToyTask()
    task.model[1] = torch.nn.BatchNorm1d(16) if norms else torch.nn.ReLU()
    plan = toy_plan(0, accumulation_parts=parts, section="proposal_net.training")
    Trainer(task, plan, toy_artifact(tmp_path), Processes(0, 1, torch.device("cuda"))).run()
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert ["proposal_net.training.accumulation_steps" in text for text in warnings] == [True] * warns


def test_a_step_taken_again_keeps_nothing_of_the_failed_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither random numbers nor statistics of batch norms nor gradients, also if memory ran out at the very end."""

    def normed() -> ToyTask:
        task = ToyTask()
        task.model[1] = torch.nn.Sequential(torch.nn.BatchNorm1d(16), torch.nn.ReLU())
        return task

    train(tmp_path / "undisturbed", normed(), 6, accumulation_parts=2)
    backward, parts = ToyTask.backward, []

    def failing_once(
        task: ToyTask, model: torch.nn.Module, batch: ToyBatch, step: StepContext
    ) -> Mapping[str, torch.Tensor]:
        terms = backward(task, model, batch, step)
        parts.append(step.parts)
        if len(parts) == 1:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return terms

    monkeypatch.setattr(ToyTask, "backward", failing_once)
    train(tmp_path / "disturbed", normed(), 6)
    assert parts == [1] + [2] * 6
    assert result(tmp_path / "disturbed", 6) == result(tmp_path / "undisturbed", 6)


def test_memory_for_not_even_one_sample_ends_the_run_with_advice(tmp_path: Path) -> None:
    task = ToyTask()
    sizes = with_memory_for(task, lambda _: 0)
    with pytest.raises(StageError, match=r"one sample at a time \(CUDA.*2 GiB\); set finetune.gradient_checkpointing"):
        train(tmp_path, task, section="finetune")
    assert sizes == [8, 4, 2, 1]


def test_a_number_of_parts_that_is_set_is_kept_and_the_advice_names_it(tmp_path: Path) -> None:
    task = ToyTask()
    sizes = with_memory_for(task, lambda _: 3)
    with pytest.raises(StageError, match=r"in 2 parts a step .*; set finetune.accumulation_steps to 0"):
        train(tmp_path, task, section="finetune", accumulation_parts=2)
    assert sizes == [4]


@dataclass(frozen=True)
class DyingSource(ToySource):
    """Ends the worker that makes the batch with sample 11, as the kernel does when memory runs out."""

    def batch(self, draws: Sequence[Draw]) -> ToyBatch:
        if any(draw.sample == 11 for draw in draws):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().batch(draws)


def test_a_worker_that_dies_ends_the_run_with_advice(tmp_path: Path) -> None:
    task = ToyTask(samples=DyingSource())
    with pytest.raises(StageError, match=r"worker .*lower compute.loader_workers.*run the same command again"):
        Trainer(task, toy_plan(STEPS, loader_workers=1), toy_artifact(tmp_path), ALONE).run()


def test_other_faults_of_the_runtime_stay_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(ToyTask, "backward", broken)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        trainer(tmp_path).run()


def test_a_large_batch_needs_few_open_files() -> None:
    """Each tensor that a worker hands over takes a file descriptor: one per sample would hang the worker."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        order = DataOrder(SAMPLES, 512, SEED)
        with loading(ToySource(), order, first_step=0, steps=6, processes=ALONE, workers=1) as batches:
            numbers = [batch.numbers.tolist() for batch in batches]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert numbers == [[draw.sample for draw in order.batch_of(step)] for step in range(6)]


def test_the_best_and_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    trainer(tmp_path, checkpoint_every=10, keep_last=1).run()
    local = toy_artifact(tmp_path).local_directory
    validations = read_metrics(local / "metrics.jsonl", "validation")
    best = max(validations, key=lambda line: line["output"])["step"]
    kept = {int(path.stem.removeprefix("step-")) for path in (local / "checkpoints").glob("step-*.json")}
    assert kept == {best, STEPS}


def test_each_checkpoint_has_a_line_with_the_mean_loss_since_the_last_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        trainer(tmp_path, steps=16).run()
    losses = [line["loss"] for line in read_metrics(toy_artifact(tmp_path).local_directory / "metrics.jsonl", "train")]
    found = [re.findall(r"^step (\d+) of 16: loss ([\d.]+), [\d.]+ s a step; saved$", text) for text in caplog.messages]
    means = [np.mean(losses[start:end]) for start, end in ((0, 7), (7, 14), (14, 16))]
    assert [line[0] for line in found if line] == [
        (str(step), f"{mean:.4f}") for step, mean in zip((7, 14, 16), means, strict=True)
    ]


def test_a_finished_run_takes_no_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer(tmp_path).run()
    monkeypatch.setattr(ToyTask, "backward", None)
    trainer(tmp_path).run()
    assert len(read_metrics(toy_artifact(tmp_path).local_directory / "metrics.jsonl", "train")) == STEPS


@pytest.mark.parametrize("threads", [1, 2])
def test_torchs_threads_are_those_asked_for_whatever_was_set_before(threads: int) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with joined("cpu", threads):
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
