"""Stage 1: what reading samples costs beside the same steps on batches in memory, what decoding costs, and memory.

Ratios above 0.9 mean that the loader keeps up. ``python -m tests.benchmarks.bench_train_proposals``
"""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import torch

from pipeline.settings import Settings, load_settings
from pipeline.train_proposals.samples import ProposalBatch, ProposalSamples
from pipeline.train_proposals.task import ProposalTask
from pipeline.train_proposals.training import loop_plan, proposal_task
from pipeline.training.data_order import Draw
from pipeline.training.loop import Trainer
from pipeline.training.processes import Processes
from tests.pipeline.planned import artifact_of, node_of, prepare_scenes

CONFIG = Path(__file__).parents[2] / "flows" / "configs" / "demo.toml"
STEPS, WARM = 24, 4
MEMORY_STEPS, MEMORY_EVERY = 2000, 500
ONE = Processes(0, 1, torch.device("cpu"))
TINY = (
    "proposal_net.architecture={queries=4, decoder_layers=1, hidden_dim=8, mask_dim=4, norm_groups=2, heads=1, "
    "feedforward_dim=8, embedding_hidden_dim=8, backbone={name='resnet10t', timm_arguments={channels=[8, 8, 8, 8], "
    "stem_width=8}}}"
)


@dataclass(frozen=True, kw_only=True)
class TimedTask(ProposalTask):
    """The task of stage 1, which notes when each step ends and how much memory there is."""

    moments: list[float] = field(default_factory=list)
    resident_bytes: list[int] = field(default_factory=list)

    def after_step(self) -> None:
        super().after_step()
        self.moments.append(time.monotonic())
        if len(self.moments) % MEMORY_EVERY == 0:
            self.resident_bytes.append(psutil.Process().memory_info().rss)


@dataclass(frozen=True)
class HeldSamples(ProposalSamples):
    """Batches that lie in memory, by the first of their draws."""

    held: Mapping[Draw, ProposalBatch] = field(default_factory=dict)

    def batch(self, draws: Sequence[Draw]) -> ProposalBatch:
        return self.held[draws[0]]


def task_of(settings: Settings) -> TimedTask:
    made = proposal_task(settings.proposal_net, settings.compute, node_of(settings, "proposal_net"), ONE)
    return TimedTask(**{name: getattr(made, name) for name in made.__dataclass_fields__})


def with_held_batches(task: TimedTask) -> TimedTask:
    draws = list(task.order.batches(0, STEPS))
    held = {some[0]: task.samples.batch(some) for some in draws}
    fields = {name: getattr(task.samples, name) for name in task.samples.__dataclass_fields__}
    return replace(task, samples=HeldSamples(**fields, held=held))


def steps_per_s(settings: Settings, runs: Path, *, held: bool) -> float:
    """Run the loop without checkpoints on the way; the first steps don't count."""
    task = with_held_batches(task_of(settings)) if held else task_of(settings)
    compute = settings.compute.model_copy(update={"loader_workers": 0} if held else {})
    artifact = artifact_of(settings, "proposal_net")
    elsewhere = replace(artifact, directory=runs / artifact.directory.name)
    with elsewhere.writing():
        Trainer(task, loop_plan(settings.proposal_net, compute), elsewhere, ONE).run()
    return (len(task.moments) - WARM) / (task.moments[-1] - task.moments[WARM - 1])


def settings_of(runs: Path, *overrides: str) -> Settings:
    common = [
        f"runs_dir={runs}",
        "datasets.drawn-train.drawn_world.scenes=400",
        "proposal_net.validation_dataset=",
        "proposal_net.initial_weights=none",
        "proposal_net.training.warmup_steps=0",
        "proposal_net.training.checkpoints.every_steps=100000",
    ]
    return load_settings(CONFIG, [*common, f"proposal_net.training.steps={STEPS}", *overrides])


def loader_tax(runs: Path) -> None:
    for workers in (0, 1):
        settings = settings_of(runs, f"compute.loader_workers={workers}")
        rounds = [
            (
                steps_per_s(settings, runs / f"read-{workers}-{turn}", held=False),
                steps_per_s(settings, runs / f"held-{workers}-{turn}", held=True),
            )
            for turn in range(3)
        ]
        read, memory = (max(values) for values in zip(*rounds, strict=True))
        print(
            f"demo's net, batch 16, {workers} loader workers: {read:.2f} steps/s, on batches in memory {memory:.2f}; "
            f"ratio {read / memory:.2f}"
        )


def decode_rate(runs: Path) -> None:
    samples = task_of(settings_of(runs)).samples
    count = 300
    for number in range(20):
        samples.batch([Draw(0, number)])
    start = time.process_time()
    for number in range(count):
        samples.batch([Draw(1, number)])
    print(f"samples read, decoded and augmented on one core: {count / (time.process_time() - start):.0f} per second")


def memory(runs: Path) -> None:
    settings = settings_of(
        runs, f"proposal_net.training.steps={MEMORY_STEPS}", "proposal_net.training.batch_images=2", TINY
    )
    task = task_of(settings)
    artifact = artifact_of(settings, "proposal_net")
    with artifact.writing():
        Trainer(task, loop_plan(settings.proposal_net, settings.compute), artifact, ONE).run()
    sizes = [size / 2**20 for size in task.resident_bytes]
    listed = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"resident memory at every {MEMORY_EVERY}th of {MEMORY_STEPS} steps: {listed} MiB")
    print(f"last to first: {sizes[-1] / sizes[0]:.3f}")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        runs = Path(directory)
        prepare_scenes(settings_of(runs), ["drawn-train"])
        decode_rate(runs)
        loader_tax(runs)
        memory(runs)


if __name__ == "__main__":
    main()
