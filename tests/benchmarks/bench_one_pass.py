"""Masks per second of both namers in one run: crops, each with a pass of its own, and one pass for all masks.

Then mining's `embed` and the whole segmenter, by both, with the parts that take the time. Run alone:
``python -m tests.benchmarks.bench_one_pass``; two minutes of one core.
"""

import io
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from ovseg_models.encoding import embed_regions, propose
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.one_pass import OnePass, visible_patches
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.segmenter import Segmenter
from pipeline.mine.embedder import Embedder
from pipeline.mine.regions import NetSize, SceneAndRegions, SceneRegions
from pipeline.settings import EmbedSettings
from storage_schemas.rle import areas_px, boxes_xyxy, encode_masks
from storage_schemas.scenes import Scene
from tests.benchmarks.bench_segmenter import segmenter

MASKS, HEIGHT, WIDTH = 100, 480, 640
CROPS_TIMED = 10  # of the hundred; all crops take the same work
ROUNDS = 3


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of some rounds [s]."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def ellipses() -> torch.Tensor:
    """Draw ellipses of many sizes [mask height width]."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    centres = torch.rand(MASKS, 2, 1, 1, generator=generator) * torch.tensor([HEIGHT, WIDTH])[:, None, None]
    radii = 12 + 120 * torch.rand(MASKS, 2, 1, 1, generator=generator)
    return ((y - centres[:, 0]) / radii[:, 0]) ** 2 + ((x - centres[:, 1]) / radii[:, 1]) ** 2 < 1


def show_mining(clip: MaskAdaptedClip, masks: torch.Tensor) -> None:
    """Embed the masks of two pictures by mining's code, from JPEG and run lengths to rows."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((64, 48)).resize((WIDTH, HEIGHT)).save(file, format="JPEG")
    counts = encode_masks(masks.numpy())
    regions = SceneRegions(
        indices=np.arange(MASKS, dtype=np.int32),
        height_px=HEIGHT,
        width_px=WIDTH,
        mask_counts=counts,
        areas_px=areas_px(counts, HEIGHT, WIDTH),
        boxes_xyxy=boxes_xyxy(counts, HEIGHT, WIDTH),
    )
    scene = Scene(key="a", image_id="1", image=file.getvalue(), image_suffix="jpg", width_px=WIDTH, height_px=HEIGHT)
    size = NetSize(HEIGHT, WIDTH)

    def embed(namer: str, scenes: int) -> float:
        embedder = Embedder(clip if namer == "crops" else OnePass(clip), EmbedSettings(namer=namer), size)
        start = time.process_time()
        assert len(list(embedder.embeddings(iter([SceneAndRegions(scene, regions)] * scenes)))) == scenes
        return (time.process_time() - start) / scenes

    embed("one-pass", 1)
    crops, one_pass = embed("crops", 1), embed("one-pass", 8)
    print(f"mining's embed, a picture with {MASKS} masks")
    print(f"  crops {crops:6.2f} CPU-s, one pass {one_pass:5.2f} CPU-s: {crops / one_pass:.1f} times as fast")


def show_segmenter() -> None:
    """Segment one picture by both namers: the whole, and its parts."""
    by_crops = segmenter()
    settings = replace(by_crops.settings, namer="one-pass", short_side_px=HEIGHT, prompt_templates=("{}",))
    by_crops.settings = replace(settings, namer="crops")
    by_one_pass = Segmenter(by_crops.proposal_net.net, by_crops.clip, settings=settings)
    by_one_pass.proposal_net = by_crops.proposal_net
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    names = [f"thing number {number}" for number in range(150)]
    for model in (by_crops, by_one_pass):
        model.text_embeddings(names)  # are kept
    pixels = by_crops._net_pixels(image)
    encoded = by_one_pass.encode(image)
    net_s = cpu_seconds(lambda: propose(by_crops.proposal_net, [pixels]))
    naming_s = cpu_seconds(lambda: by_one_pass.segment(encoded, names))
    one_pass_s = cpu_seconds(lambda: by_one_pass.encode(image))
    start = time.process_time()
    by_crops.encode(image)
    crops_s = time.process_time() - start
    print(f"segmenter, R101c and ViT-B/16, {MASKS} masks, {len(names)} names, {WIDTH} x {HEIGHT} px")
    print(f"  encode: crops {crops_s:6.2f} CPU-s, one pass {one_pass_s:5.2f} CPU-s: {crops_s / one_pass_s:.1f} times")
    print(f"    of which the proposal net {net_s:5.2f} CPU-s, masks and CLIP {one_pass_s - net_s:5.2f} in one pass")
    print(f"  naming and fusing {naming_s:5.2f} CPU-s by either")
    print(f"  whole: {(crops_s + naming_s) / (one_pass_s + naming_s):.1f} times as fast")


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    masks = ellipses()
    pixels = torch.randint(0, 256, (3, HEIGHT, WIDTH), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    clip = build_mask_adapted_clip("ViT-B-16", prompt_depth=0)
    one_pass = OnePass(clip)
    picture = torch.randn(1, 3, clip.crop_px, clip.crop_px)
    features = one_pass.features(picture)
    grid = (clip.crop_px // clip.patch_px,) * 2
    parts = {
        "the picture through the tower": cpu_seconds(lambda: one_pass.features(picture)),
        "which patches masks see": cpu_seconds(lambda: visible_patches(masks, grid)),
        "mask tokens": cpu_seconds(lambda: one_pass.mask_embeddings(features, visible_patches(masks, grid)[None])),
    }
    parts["mask tokens"] -= parts["which patches masks see"]
    crops = (
        cpu_seconds(lambda: embed_regions(clip, pixels, masks[:CROPS_TIMED], at_once=CROPS_TIMED)) * MASKS / CROPS_TIMED
    )
    total = sum(parts.values())
    print(f"ViT-B/16, {MASKS} masks on {WIDTH} x {HEIGHT} px, one core")
    print(f"  crops     {crops:6.2f} CPU-s, {MASKS / crops:6.1f} masks a second")
    print(f"  one pass  {total:6.2f} CPU-s, {MASKS / total:6.1f} masks a second: {crops / total:.1f} times as many")
    for name, seconds in parts.items():
        print(f"    {name:<30} {seconds:5.2f} CPU-s")
    show_mining(clip, masks)
    show_segmenter()


if __name__ == "__main__":
    main()
