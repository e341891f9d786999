"""Stage 1: what reading samples costs beside the same steps on batches in memory, what decoding costs, and memory.

Ratios above 0.9 mean that the loader keeps up. ``python -m tests.benchmarks.bench_train_proposals``
"""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from pipeline.settings import Settings, load_settings
from pipeline.train_proposals.samples import ProposalBatch
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


class TimedTask(ProposalTask):
    """The task of stage 1, which notes when each batch is asked for and how much memory there is."""

    held: list[ProposalBatch] | None = None
    moments: list[float]
    resident_bytes: list[int]

    @contextmanager
    def batches(self, first_step: int) -> Iterator[Iterator[ProposalBatch]]:
        with super().batches(first_step) as batches:
            yield self._noted(batches if self.held is None else iter(self.held))

    def _noted(self, batches: Iterator[ProposalBatch]) -> Iterator[ProposalBatch]:
        for batch in batches:
            yield batch
            self.moments.append(time.monotonic())
            if len(self.moments) % MEMORY_EVERY == 0:
                self.resident_bytes.append(psutil.Process().memory_info().rss)


def task_of(settings: Settings, held: list[ProposalBatch] | None = None) -> TimedTask:
    made = proposal_task(settings.proposal_net, settings.compute, node_of(settings, "proposal_net"), ONE)
    task = TimedTask(**{name: getattr(made, name) for name in made.__dataclass_fields__})
    for name, value in {"held": held, "moments": [], "resident_bytes": []}.items():
        object.__setattr__(task, name, value)
    return task


def steps_per_s(settings: Settings, held: list[ProposalBatch] | None, runs: Path) -> float:
    """Run the loop without checkpoints on the way; the first steps don't count."""
    task = task_of(settings, held)
    artifact = artifact_of(settings, "proposal_net")
    elsewhere = replace(artifact, directory=runs / artifact.directory.name)
    with elsewhere.writing():
        Trainer(task, loop_plan(settings.proposal_net, settings.compute), elsewhere, ONE).run()
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
        with task_of(settings).batches(0) as batches:
            held = list(batches)
        rounds = [
            (
                steps_per_s(settings, None, runs / f"read-{workers}-{turn}"),
                steps_per_s(settings, held, runs / f"held-{workers}-{turn}"),
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
    told = ", ".join(f"{size:.0f}" for size in sizes)
    print(f"resident memory at every {MEMORY_EVERY}th of {MEMORY_STEPS} steps: {told} MiB")
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
