"""Ways of computing and of reporting that change no result: compiling, the scaler of losses, TensorBoard, the bar."""

import io
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.amp import GradScaler

from pipeline.training.loop import Plan, StepContext, Trainer
from pipeline.training.metrics_log import read_metrics
from pipeline.training.processes import Processes
from storage_schemas.checkpoints import CheckpointStore
from tests.pipeline.training.toy_run import Stopped, ToyBatch, ToyTask, toy_artifact, toy_plan

STEPS = 12
FIRST_SCALE, GROWTH_INTERVAL = 256.0, 3


def trainer(runs: Path, *, task: type[ToyTask] = ToyTask, **changes: object) -> Trainer:
    processes = Processes(0, 1, torch.device("cpu"))
    return Trainer(task(), toy_plan(STEPS, **changes), toy_artifact(runs), processes)


def train(runs: Path, **changes: object) -> None:
    trainer(runs, **changes).run()


def metrics_of(runs: Path) -> list[dict[str, float]]:
    return read_metrics(toy_artifact(runs).local_directory / "metrics.jsonl", "train")


def test_a_compiled_model_gives_the_same_losses_and_the_same_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*inputs: object) -> object:
            calls.append(1)
            return graph.forward(*inputs)

        return run

    compiled = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compiled(model, backend=backend))
    train(tmp_path / "compiled", compile=True)
    assert len(calls) == STEPS
    train(tmp_path / "plain")
    assert len(calls) == STEPS
    losses = [[line["loss"] for line in metrics_of(tmp_path / name)] for name in ("compiled", "plain")]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    one, two = (CheckpointStore(toy_artifact(tmp_path / name)).load(STEPS).tensors for name in ("compiled", "plain"))
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_allclose(array, two[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    ("precision", "device", "autocast_type"),
    [
        ("fp32", "cuda", None),
        ("tf32", "cuda", None),
        ("bf16", "cuda", torch.bfloat16),
        ("bf16", "cpu", None),
        ("fp16", "cpu", None),
    ],
)
def test_half_precision_is_for_cuda_and_bf16_needs_no_scaling(
    precision: str, device: str, autocast_type: torch.dtype | None
) -> None:
    context = StepContext.of(toy_plan(STEPS, precision=precision), Processes(0, 1, torch.device(device)))
    assert context.autocast_type == autocast_type
    assert not context.scaler.is_enabled()


@pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning")  # there is no CUDA here
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_backward_passes_and_validations_multiply_as_the_precision_says(tmp_path: Path, precision: str) -> None:
    seen = []

    class Watched(ToyTask):
        def backward(self, model: torch.nn.Module, batch: ToyBatch, step: StepContext) -> Mapping[str, torch.Tensor]:
            model[0].weight.register_hook(lambda _: seen.append(("backward", cuda_switches())))
            return super().backward(model, batch, step)

        def validate(self) -> Mapping[str, float]:
            seen.append(("validate", cuda_switches()))
            return super().validate()

    before = cuda_switches()
    # The loop is made to believe that it computes on CUDA; the task computes on the CPU, with CUDA's switches in view.
    on_cuda = Processes(0, 1, torch.device("cuda"))
    Trainer(Watched(), toy_plan(STEPS, precision=precision), toy_artifact(tmp_path), on_cuda).run()
    assert {where for where, _ in seen} == {"backward", "validate"}
    assert {switches for _, switches in seen} == {(precision == "tf32",) * 2}
    assert cuda_switches() == before


def cuda_switches() -> tuple[bool, bool]:
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


@pytest.fixture
def scaled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scale losses on the CPU as fp16 does on CUDA, with a scale that doubles every few steps."""

    def context(plan: Plan, processes: Processes) -> StepContext:
        scaler = GradScaler("cpu", init_scale=FIRST_SCALE, growth_interval=GROWTH_INTERVAL)
        return StepContext(processes, max(1, plan.accumulation_parts), scaler, None)

    monkeypatch.setattr(StepContext, "of", context)


class StoppingTask(ToyTask):
    """Ends after the tenth step; the last checkpoint then is of the seventh, between two doublings of the scale."""

    taken = 0

    def after_step(self) -> None:
        self.taken += 1
        if self.taken == 10:
            raise Stopped


@pytest.mark.usefixtures("scaled")
def test_the_scale_of_losses_is_saved_and_restored(tmp_path: Path) -> None:
    train(tmp_path / "whole")
    with pytest.raises(Stopped):
        train(tmp_path / "stopped", task=StoppingTask)
    latest = CheckpointStore(toy_artifact(tmp_path / "stopped")).latest()
    assert (latest.step, latest.facts["scaler"]["scale"]) == (7, FIRST_SCALE * 4)
    assert latest.facts["scaler"]["_growth_tracker"] == 1
    train(tmp_path / "stopped")
    whole, resumed = (CheckpointStore(toy_artifact(tmp_path / name)).load(STEPS) for name in ("whole", "stopped"))
    assert resumed.facts == whole.facts
    assert whole.facts["scaler"]["scale"] == FIRST_SCALE * 2 ** (STEPS // GROWTH_INTERVAL)
    for name, array in whole.tensors.items():
        np.testing.assert_array_equal(resumed.tensors[name], array, err_msg=name)


@pytest.mark.usefixtures("scaled")
def test_scaled_losses_train_as_plain_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "scaled")
    monkeypatch.undo()
    train(tmp_path / "plain")
    losses = [[line["loss"] for line in metrics_of(tmp_path / name)] for name in ("scaled", "plain")]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_tensorboard_has_the_values_of_each_step(tmp_path: Path) -> None:
    train(tmp_path)
    events = EventAccumulator(str(toy_artifact(tmp_path).local_directory / "tensorboard"))
    events.Reload()
    lines = metrics_of(tmp_path)
    assert len(lines) == STEPS
    for name in ("loss", "gradient_norm", "learning_rate"):
        recorded = events.Scalars(f"train/{name}")
        assert [event.step for event in recorded] == list(range(1, STEPS + 1))
        np.testing.assert_allclose([event.value for event in recorded], [line[name] for line in lines], rtol=1e-6)
    assert [event.step for event in events.Scalars("validation/output")] == [10, STEPS]
    assert all(event.value > 0 for event in events.Scalars("speed/samples_per_s"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_bar_shows_loss_rate_and_time_left_on_a_terminal_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, stream in (("terminal", Terminal()), ("pipe", io.StringIO())):
        monkeypatch.setattr(sys, "stderr", stream)
        train(tmp_path / name)
        shown = stream.getvalue()
        monkeypatch.undo()
        if name == "pipe":
            assert not re.search(rf"/{STEPS} \[|loss=", shown), shown  # what is logged may be there
            continue
        loss = metrics_of(tmp_path / name)[8]["loss"]
        bar = rf"\b8/{STEPS} \[\d\d:\d\d<\d\d:\d\d, +[\d.]+(step/s|s/step), loss={loss:.3f}\]"
        assert re.search(bar, shown), shown
