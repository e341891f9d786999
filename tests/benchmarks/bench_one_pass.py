"""Masks per second of both namers in one run: crops, each with a pass of its own, and one pass for all masks."""

import time
from collections.abc import Callable

import torch

from ovseg_models.encoding import embed_regions
from ovseg_models.one_pass import OnePass, visible_patches
from ovseg_models.pretrained_clip import build_mask_adapted_clip

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


if __name__ == "__main__":
    main()
