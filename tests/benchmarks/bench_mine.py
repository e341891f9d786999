"""Mining at ViT-B/16's true size on the CPU: the steps against bare forward passes, and against mining anew.

Run alone: ``python -m tests.benchmarks.bench_mine``. Times are CPU seconds of the process, one torch thread, so that
decoding, cropping and writing count in full although they run beside the forward pass. Scenes are drawn at 480 px, the
nets have random weights.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import masked_crops
from pipeline.clip_loading import load_clip
from pipeline.mine.regions import NetSize, net_picture
from pipeline.settings import Settings
from pipeline.shard_runner import Execution
from pipeline.stages import StageRun, run
from storage_schemas.rle import decode_masks
from tests.pipeline.mine.mining_world import mining_settings, pair_rows, random_net, with_net
from tests.pipeline.planned import node_of

IMAGES, QUERIES, BATCH, NAIVE_CROPS, PAPER_QUERIES = 4, 16, 16, 4, 100
SIZE = NetSize(480, 480)
SCENES = f"{{dataset='drawn-world', split='val', drawn_world={{scenes={IMAGES}, size_px=480}}, scenes_per_shard=2}}"
COCO_IMAGES, COCO_NOUNS, COCO_NOUNS_OF_5 = 1000, 780, 1708
"""Images of a shard of COCO, and the different nouns of one and of five captions of each: tools/measure_nouns.py."""


class Seconds(NamedTuple):
    """CPU seconds of the parts.

    Attributes:
        load: Building CLIP, which is part of ``propose``, ``embed`` and, where a noun is new, ``five``.
        propose: Step 1.
        embed: Step 2.
        five: Pairs of 5 captions after those of 1, with the new nouns' text embeddings.
        known: The same once all nouns are known.
        new_nouns: How many were new.
    """

    load: float
    propose: float
    embed: float
    five: float
    known: float
    new_nouns: int


def cpu_s(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def settings_of(runs: Path, *overrides: str) -> Settings:
    vit = ("clip={architecture='ViT-B-16', pretrained='random'}", f"mine.embed.batch_crops={BATCH}")
    size = ("mine.propose.short_side_px=480", "mine.propose.max_side_px=480")
    return mining_settings(runs, *vit, *size, *overrides, dataset=SCENES)


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        runs = Path(folder)
        settings = with_net(settings_of(runs), random_net(queries=QUERIES, embedding_dim=512))
        node_of(settings, "embeddings").clip.digest()  # loads CLIP the first time, and is remembered
        load = cpu_s(lambda: load_clip(settings.clip))
        propose = cpu_s(lambda: node_of(settings, "proposals").make(Execution()))
        embed = embedding(settings, load)
        one = run("mine", settings)
        reports: list[StageRun] = []
        five = cpu_s(lambda: reports.append(run("mine", settings_of(runs, "mine.source=proposals-5-captions"))))
        another = settings_of(runs, "mine.source=proposals-5-captions", "mine.pair.min_score=-0.99")
        known = cpu_s(lambda: run("mine", another))
        new = nouns_of(reports[0]) - nouns_of(one)
    compare(Seconds(load, propose, embed, five, known, len(new)))


def nouns_of(report: StageRun) -> set[str]:
    return {row["noun"] for row in pair_rows(report.artifact)}


def embedding(settings: Settings, load: float) -> float:
    """Time step 2 as a whole and in parts, next to the bare forward pass before and after it, and the naive form."""
    clip = MaskAdaptedClip(load_clip(settings.clip).clip, prompt_depth=0).eval()
    node = node_of(settings, "embeddings")
    regions = node.step.job(node).regions
    scenes = [of for unit in regions.scenes.description.units for of in regions.read(unit)]
    ready = torch.cat([crops_of(clip, of) for of in scenes])
    clip.encode_image(ready[:BATCH])

    def bare() -> float:
        return cpu_s(lambda: [clip.encode_image(some) for some in ready.split(BATCH)])

    forward: list[float] = []
    original = MaskAdaptedClip.encode_image

    def noted(self: MaskAdaptedClip, *arguments: Any, **options: Any) -> torch.Tensor:
        start = time.thread_time()
        embeddings = original(self, *arguments, **options)
        forward.append(time.thread_time() - start)
        return embeddings

    before = bare()
    MaskAdaptedClip.encode_image = noted
    embed = cpu_s(lambda: node.make(Execution()))
    MaskAdaptedClip.encode_image = original
    alone = (before + bare()) / 2

    def naively() -> None:
        for place in range(NAIVE_CROPS):
            clip.encode_image(crops_of(clip, scenes[0])[place : place + 1])

    naive = cpu_s(naively) * len(ready) / NAIVE_CROPS
    print(
        f"embed, {len(ready)} crops: bare forward {alone:.1f} s; forward within embed {sum(forward):.1f} s, ratio "
        f"{alone / sum(forward):.2f} (aim: 0.9); embed as a whole, model loaded, {embed - load:.1f} s, ratio "
        f"{alone / (embed - load):.2f} (aim: 0.8); naive, one image and one crop at a time, {naive:.1f} s, ratio "
        f"{alone / naive:.2f}"
    )
    return embed


def crops_of(clip: MaskAdaptedClip, of) -> torch.Tensor:
    """Decode and cut one scene."""
    pixels = torch.from_numpy(np.array(net_picture(of.scene, SIZE))).permute(2, 0, 1).contiguous()
    masks = decode_masks(of.regions.mask_counts, of.regions.height_px, of.regions.width_px)
    return masked_crops(pixels, torch.from_numpy(masks), crop_px=clip.crop_px).crops


def compare(seconds: Seconds) -> None:
    """Print how much longer mining anew takes than 5 captions after 1: as measured, and for a shard of COCO.

    Mining anew is steps 1 and 2 and all that 5 captions after 1 are: the nouns of the first captions, which it embeds
    too, are left out, to its advantage. Step 2 is scaled from 16 to the paper's 100 proposals.
    """
    load, images = seconds.load, IMAGES
    crops = (seconds.embed - load) * PAPER_QUERIES / QUERIES
    anew = seconds.propose + load + crops + seconds.five
    a_noun = (seconds.five - seconds.known - load) / max(1, seconds.new_nouns)
    print(
        f"5 captions after 1, {images} images of {PAPER_QUERIES} proposals: mining anew {anew:.0f} s, after 1 caption "
        f"{seconds.five:.1f} s, of which CLIP's loading {load:.1f} s, and {seconds.new_nouns} new nouns {a_noun:.3f} s "
        f"each; ratio {anew / seconds.five:.0f}, without the loading {(anew - load) / (seconds.five - load):.0f}; with "
        f"all nouns known {seconds.known:.1f} s, ratio {anew / seconds.known:.0f}"
    )
    scale = COCO_IMAGES / images
    after = load + (COCO_NOUNS_OF_5 - COCO_NOUNS) * a_noun + seconds.known * scale
    whole = (seconds.propose - load + crops) * scale + 2 * load + after
    print(
        f"{COCO_IMAGES} images of COCO at these costs, {COCO_NOUNS} nouns of 1 caption, {COCO_NOUNS_OF_5} of 5: mining "
        f"anew {whole:.0f} s, after 1 caption {after:.0f} s, ratio {whole / after:.0f} (aim: 50)"
    )


if __name__ == "__main__":
    main()
