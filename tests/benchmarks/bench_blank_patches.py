"""Fewer operations of CLIP's image tower without the tokens of blank patches, at ViT-B/16's true size on the CPU.

Run alone: ``python -m tests.benchmarks.bench_blank_patches``. Masks are those of proposals of drawn scenes (ground
truth with known faults), weights are random. Multiplications are counted as they are dispatched, padding included;
seconds are of the CPU, one torch thread, taken in turns.
"""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import masked_crops, patch_mask
from ovseg_models.pretrained_clip import build_clip
from tests.benchmarks.bench_clip_branch import seconds_in_turns
from tools.drawn_regions import regions_of, scenes_of

SCENES, CROPS, REPEATS = 60, 32, 1
GRIDS = ((224, 16), (224, 14), (64, 8))  # ViT-B/16, ViT-L/14, the small CLIP: crop and patch [px]


def crops_and_patches(crop_px: int, patch_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut the proposals of drawn scenes out."""
    crops, patches = [], []
    for _, scene, rng in scenes_of("val", 0, SCENES):
        masks = torch.from_numpy(np.stack([region.proposed for region in regions_of(scene, rng)]))
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
        cut = masked_crops(image, masks, crop_px=crop_px)
        crops.append(cut.crops)
        patches.append(patch_mask(cut.crop_masks, patch_px))
    return torch.cat(crops), torch.cat(patches)


def multiplications(model: MaskAdaptedClip, crops: torch.Tensor, patches: torch.Tensor) -> float:
    """Count those of matrix products and convolutions, in units of 1e9."""
    with FlopCounterMode(display=False) as counter:
        model.encode_image(crops, patches)
    return counter.get_total_flops() / 2e9


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    for crop_px, patch_px in GRIDS:
        crops, patches = crops_and_patches(crop_px, patch_px)
        share = 1 - patches.float().mean().item()
        print(
            f"{len(patches)} proposals, {crop_px} px in patches of {patch_px} px: {share:.1%} of the patches are blank"
        )
    crops, patches = (part[:CROPS] for part in crops_and_patches(*GRIDS[0]))
    print(f"the first {CROPS}: {1 - patches.float().mean().item():.1%}")
    clip = build_clip("ViT-B-16")
    for depth in (0, 3):
        kept, dropped = (
            MaskAdaptedClip(clip, prompt_depth=depth, prompt_seed=0, blank_patches=way).eval()
            for way in ("kept", "dropped")
        )
        before, after = (multiplications(model, crops, patches) for model in (kept, dropped))
        jobs = {
            "kept": lambda model=kept: model.encode_image(crops, patches),
            "dropped": lambda model=dropped: model.encode_image(crops, patches),
        }
        taken = {name: min(seconds) for name, seconds in seconds_in_turns(jobs, REPEATS).items()}
        print(
            f"ViT-B/16, prompts in {depth} layers: {before:.0f} to {after:.0f} billion multiplications, "
            f"{before / after:.2f} times fewer; {taken['kept']:.1f} to {taken['dropped']:.1f} CPU seconds, "
            f"{taken['kept'] / taken['dropped']:.2f} times as fast",
            flush=True,
        )


if __name__ == "__main__":
    main()
