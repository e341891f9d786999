"""What reading pairs costs the finetuning loop at ViT-B/16's true size on the CPU, and what webdataset's reader costs.

Run alone: ``python -m tests.benchmarks.bench_finetune``. The loop reads JPEG crops of 180 to 420 px from a shard,
decodes, varies, masks and resizes them in the training process itself (no reader beside it, as on a machine without a
core to spare); the other side does the same optimizer steps on samples that lie in memory. Then the same shards are
read pair by pair and by webdataset. All are CPU times, taken in turns in one run. ``--readers`` compares these alone.
"""

import io
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import webdataset
from PIL import Image
from torch.nn import functional

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.preprocessing import CropFormat
from ovseg_models.pretrained_clip import build_clip
from pipeline.finetune.phases import phases_of
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.finetune.task import FinetuneTask
from pipeline.settings import FinetuneSettings
from pipeline.stored_pictures import pair_pictures
from pipeline.training.data_order import Draw
from pipeline.training.loop import Plan, StepContext, Trainer
from pipeline.training.processes import Processes
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from storage_schemas.pair_collection import PairCollection
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairMembers, PairShardWriter

BATCH, STEPS = 4, 5
PAIRS = BATCH * STEPS  # one epoch
READ_SHARDS, READ_PAIRS, ROUNDS = 4, 400, 5
ALONE = Processes(0, 1, torch.device("cpu"))


def jpeg_pair(number: int) -> Pair:
    """Draw a pair of the size of COCO's: smooth noise with an ellipse as its mask."""
    rng = np.random.default_rng(number)
    height, width = (int(side) for side in rng.integers(180, 421, 2))
    coarse = Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8))
    y, x = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    files = []
    for picture, kind in (
        (coarse.resize((width, height), Image.Resampling.BICUBIC), "JPEG"),
        (Image.fromarray(((x**2 + y**2 <= 1) * 255).astype(np.uint8)), "PNG"),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, format=kind)
        files.append(buffer.getvalue())
    name = f"pair-{number:06d}"
    return Pair(
        pair=name, key=name, image_id=name, noun=f"noun {number}", crop_suffix="jpg", crop=files[0],
        crop_mask_png=files[1],
    )  # fmt: skip


def written_pairs(runs: Path, pairs: int = PAIRS, shards: int = 1) -> Artifact:
    identity = Identity(
        kind=KIND, name=f"bench-{pairs}", schema_version=SCHEMA_VERSION, producer_version=1, settings={}
    )
    units = tuple(f"shard-{shard:05d}" for shard in range(shards))
    artifact = Artifact.planned(runs, Description(identity=identity, units=units))
    with artifact.writing():
        for shard, name in enumerate(units):
            with artifact.write_unit(name) as unit:
                writer = PairShardWriter(unit)
                for number in range(shard, pairs, shards):
                    writer.add(jpeg_pair(number))
                writer.commit()
    return artifact


@dataclass(frozen=True, kw_only=True)
class TimedTask(FinetuneTask):
    """The real task, with the CPU time at the end of each step."""

    ends: list[float]

    def after_step(self) -> None:
        super().after_step()
        self.ends.append(time.process_time())


def task_of(adapted: MaskAdaptedClip, samples: PairSamples) -> TimedTask:
    phase = {"epochs": 1, "batch_pairs": BATCH}
    (only,) = phases_of(FinetuneSettings.model_validate({"mode": "ft", "ft": phase}))
    return TimedTask(
        adapted=adapted,
        phase=only,
        samples=samples,
        noun_embeddings=functional.normalize(torch.randn(PAIRS, adapted.embedding_dim), dim=-1),
        loss="contrastive",
        train_logit_scale=True,
        validation=None,
        processes=ALONE,
        ends=[],
    )


def seconds_of_loop(task: TimedTask, runs: Path, name: str) -> list[float]:
    """Run the training loop; its first step, which warms up, and the last checkpoint are left out."""
    identity = Identity(kind="bench", name=name, schema_version=1, producer_version=1, settings={})
    artifact = Artifact.planned(runs, Description(identity=identity, units=("weights",)))
    plan = Plan(steps=STEPS, seed=0, schedule=task.phase.schedule(PAIRS), checkpoint_every=10**6)
    with artifact.writing():
        Trainer(task, plan, artifact, ALONE).run()
    return [after - before for before, after in pairwise(task.ends)]


def seconds_of_bare_steps(task: TimedTask, ready: list[PairBatch]) -> list[float]:
    """Do the same steps on samples in memory, without the loop."""
    optimizer = task.optimizer()
    context = StepContext(ALONE, 1, torch.amp.GradScaler("cpu", enabled=False), None)
    for batch in ready:
        optimizer.zero_grad(set_to_none=True)
        task.backward(task.model, batch, context)
        optimizer.step()
        task.after_step()
    return [after - before for before, after in pairwise(task.ends)]


def compare_readers(runs: Path) -> None:
    """Read all pairs in a random order, by their index and by webdataset: their bytes alone, and decoded.

    Ours draws from all pairs; webdataset goes through shuffled shards from end to end, with a buffer of 100 pairs.
    """
    artifact = written_pairs(runs, READ_PAIRS, READ_SHARDS)
    collection, rng = PairCollection(artifact), np.random.default_rng(0)
    shards = [str(artifact.directory / f"{unit}.tar") for unit in artifact.description.units]

    def stream() -> webdataset.WebDataset:
        return webdataset.WebDataset(shards, shardshuffle=READ_SHARDS, seed=0).shuffle(100)

    def drawn() -> list[int]:
        return rng.permutation(len(collection)).tolist()

    def decoded(sample: dict[str, bytes]) -> object:
        return pair_pictures(PairMembers(sample["jpg"], sample["mask.png"]))

    ways = {
        "the bytes": (
            lambda: (collection.read(number) for number in drawn()),
            lambda: webdataset.WebDataset(shards, shardshuffle=False),
        ),
        "pictures, both by our decoder": (
            lambda: (pair_pictures(collection.read(number)) for number in drawn()),
            lambda: stream().map(decoded),
        ),
        "pictures, each by its own decoder": (
            lambda: (pair_pictures(collection.read(number)) for number in drawn()),
            lambda: stream().decode("rgb8").to_tuple("jpg", "mask.png"),
        ),
    }
    for what, readers in ways.items():
        rates = [0.0, 0.0]
        for _ in range(ROUNDS):
            for place, read in enumerate(readers):
                started, count = time.process_time(), sum(1 for _ in read())
                assert count == READ_PAIRS
                rates[place] = max(rates[place], count / (time.process_time() - started))
        ours, theirs = rates
        print(
            f"pairs per CPU second, {what}: by their index, in an order of all pairs, {ours:.0f}; by webdataset "
            f"{theirs:.0f}; ratio {ours / theirs:.2f}"
        )


def main() -> None:
    if sys.argv[1:] == ["--readers"]:
        with tempfile.TemporaryDirectory() as directory:
            compare_readers(Path(directory))
        return
    with tempfile.TemporaryDirectory() as directory:
        runs = Path(directory)
        adapted = MaskAdaptedClip(build_clip("ViT-B-16"), prompt_depth=0).train()
        samples = PairSamples(PairCollection(written_pairs(runs)), 0.9, 4 / 3, 0, CropFormat(224, 16))
        drawn = [samples.batch([Draw(0, step * BATCH + place) for place in range(BATCH)]) for step in range(STEPS)]
        bare = seconds_of_bare_steps(task_of(adapted, samples), drawn)
        loop = seconds_of_loop(task_of(adapted, samples), runs, "loop")
        started = time.process_time()
        for number in range(PAIRS):
            samples.batch([Draw(1, number)])
        reading = (time.process_time() - started) / PAIRS
        compare_readers(runs)
    bare_rate, loop_rate = BATCH / min(bare), BATCH / min(loop)
    print(
        f"ViT-B/16 FT, batch {BATCH}: the loop {loop_rate:.3f} samples per CPU second, the same step on tensors in "
        f"memory {bare_rate:.3f}, ratio {loop_rate / bare_rate:.3f} (aim: 0.9); one sample is read in "
        f"{1e3 * reading:.1f} ms of CPU"
    )


if __name__ == "__main__":
    main()
