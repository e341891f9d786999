"""Mining at ViT-B/16's true size on the CPU: the steps against bare forward passes, and against mining anew.

Run alone: ``python -m tests.benchmarks.bench_mine``. Seconds are those of the clock, since threads work beside the
forward pass: run it on an idle machine. Scenes are drawn at 480 px, the nets have random weights.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import masked_crops
from pipeline.clip_loading import load_clip
from pipeline.mine.mine import MineReport, mine
from pipeline.mine.regions import NetSize, net_picture
from pipeline.planning import plan_of_embeddings
from pipeline.settings import Settings
from storage_schemas.rle import decode_masks
from tests.pipeline.mine.mining_world import mining_settings, random_net, with_net

IMAGES, QUERIES, BATCH, NAIVE_CROPS, PAPER_QUERIES = 2, 16, 16, 4, 100
SIZE = NetSize(480, 480)
SCENES = f"{{dataset='drawn-world', split='val', drawn_world={{scenes={IMAGES}, size_px=480}}}}"


@contextmanager
def measured(into: list[float]) -> Iterator[None]:
    start = time.monotonic()
    yield
    into.append(time.monotonic() - start)


def timed(work: Callable[[], object]) -> float:
    into: list[float] = []
    with measured(into):
        work()
    return into[0]


def settings_of(runs: Path, *overrides: str) -> Settings:
    vit = ("clip={architecture='ViT-B-16', pretrained='random'}", f"mine.embed.batch_crops={BATCH}")
    size = ("mine.propose.short_side_px=480", "mine.propose.max_side_px=480")
    return mining_settings(runs, *vit, *size, *overrides, dataset=SCENES)


def seconds_by_step(report: MineReport) -> str:
    return ", ".join(f"{kind} {step.seconds:.1f} s" for kind, step in report.steps.items())


@torch.inference_mode()
def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        settings = with_net(settings_of(runs), random_net(queries=QUERIES, embedding_dim=512))
        forward: list[float] = []
        original = MaskAdaptedClip.encode_image

        def noted(self: MaskAdaptedClip, crops: torch.Tensor) -> torch.Tensor:
            with measured(forward):
                return original(self, crops)

        MaskAdaptedClip.encode_image = noted
        report = mine(settings)
        MaskAdaptedClip.encode_image = original
        embedded = report.steps["embeddings"]
        print(f"1 caption: {seconds_by_step(report)}")
        bare, naive, crops = forward_passes(settings)
        whole = embedded.seconds - timed(lambda: load_clip(settings.clip))
        print(
            f"embed, {crops} crops: bare forward {bare:.1f} s; forward within embed {sum(forward):.1f} s, ratio "
            f"{bare / sum(forward):.2f}; embed as a whole, model loaded, {whole:.1f} s, ratio {bare / whole:.2f}; "
            f"naive, one image and one crop at a time, {naive:.1f} s, ratio {bare / naive:.2f}"
        )
        five = mine(settings_of(runs, "mine.source=proposals-5-captions"))
        known = mine(settings_of(runs, "mine.source=proposals-5-captions", "mine.pair.min_score=-0.99"))
        print(f"5 captions after 1: {seconds_by_step(five)}; once all nouns are known: {seconds_by_step(known)}")
        compare(report, five, known)


def forward_passes(settings: Settings) -> tuple[float, float, int]:
    """Time the bare forward pass on ready crops, and the naive form on some, scaled to all."""
    clip = MaskAdaptedClip(load_clip(settings.clip).clip, prompt_depth=0).eval()
    regions = plan_of_embeddings(settings).job.regions
    scenes = [of for unit in regions.scenes.description.units for of in regions.read(unit)]
    ready = torch.cat([crops_of(clip, of) for of in scenes])
    clip.encode_image(ready[:2])
    bare = timed(lambda: [clip.encode_image(some) for some in ready.split(BATCH)])

    def naively() -> None:
        for place in range(NAIVE_CROPS):
            clip.encode_image(crops_of(clip, scenes[0])[place : place + 1])

    naive = timed(naively)
    return bare, naive * len(ready) / NAIVE_CROPS, len(ready)


def crops_of(clip: MaskAdaptedClip, of) -> torch.Tensor:
    """Decode and cut one scene."""
    pixels = torch.from_numpy(np.array(net_picture(of.scene, SIZE))).permute(2, 0, 1).contiguous()
    masks = decode_masks(of.regions.mask_counts, of.regions.height_px, of.regions.width_px)
    return masked_crops(pixels, torch.from_numpy(masks), crop_px=clip.crop_px).crops


def compare(one: MineReport, five: MineReport, known: MineReport) -> None:
    """Print how much longer mining anew takes than step 3 alone, as measured and with the paper's 100 proposals."""
    redone = sum(step.seconds for step in five.steps.values())
    pair_alone = sum(step.seconds for step in known.steps.values())
    for queries in (QUERIES, PAPER_QUERIES):
        crops = one.steps["embeddings"].seconds * queries / QUERIES
        texts = one.steps["text_embeddings"].seconds + five.steps["text_embeddings"].seconds
        anew = one.steps["proposals"].seconds + crops + texts + five.steps["pairs"].seconds
        how = "measured" if queries == QUERIES else "embed scaled up"
        print(
            f"mining anew with {queries} proposals ({how}) {anew:.1f} s: {anew / redone:.0f} times 5 captions after 1, "
            f"{anew / pair_alone:.0f} times the same once the nouns are known"
        )


if __name__ == "__main__":
    main()
