"""Cost of the CLIP branch at ViT-B/16's true size on the CPU: crop making, and crops with prompts against bare CLIP.

Run alone: ``python -m tests.benchmarks.bench_clip_branch``. Every ratio is of CPU times (which other programs disturb
less than the clock on the wall) taken in turns in one run.
"""

import time
from collections.abc import Callable

import open_clip
import torch
from torch.nn import functional

from ovseg_models import masked_crops as crop_making
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import masked_crops, patch_mask
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.proposal_masks import hard_masks
from tests.operations import CountedOperations

HEIGHT_PX, WIDTH_PX, CROP_PX = 640, 853, 224
FORWARD_CROPS = 8
CROP_MASKS = 100
REPEATS = 5


def proposals(count: int) -> torch.Tensor:
    """Draw ellipses of the sizes of proposals, from a hundredth of the image to most of it."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.rand(count, 2, generator=generator)
    radii = 0.05 + 0.45 * torch.rand(count, 2, generator=generator) ** 2
    lines = (torch.arange(HEIGHT_PX) + 0.5)[:, None] / HEIGHT_PX
    columns = (torch.arange(WIDTH_PX) + 0.5) / WIDTH_PX
    return torch.stack(
        [((lines - y) / b) ** 2 + ((columns - x) / a) ** 2 <= 1 for (x, y), (a, b) in zip(centres, radii, strict=True)]
    )


def naive_crops(image: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Make crops mask by mask in the reference's order: fill, cut, normalise, resize."""
    mean = 255 * torch.tensor(open_clip.OPENAI_DATASET_MEAN)[:, None, None]
    std = 255 * torch.tensor(open_clip.OPENAI_DATASET_STD)[:, None, None]
    size = (CROP_PX, CROP_PX)
    crops, crop_masks = [], []
    for mask in masks:
        lines, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        box = slice(lines[0], lines[-1] + 1), slice(columns[0], columns[-1] + 1)
        kept = mask[box].float()
        region = image[:, *box] * kept + (1 - kept) * mean
        crops.append(functional.interpolate(((region - mean) / std)[None], size, mode="bicubic")[0])
        crop_masks.append(functional.interpolate(kept[None, None], size, mode="nearest")[0, 0].bool())
    return torch.stack(crops), torch.stack(crop_masks)


def seconds_in_turns(jobs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Run the jobs one after the other, several times, after one untimed round."""
    taken = {name: [] for name in jobs}
    for round_number in range(repeats + 1):
        for name, job in jobs.items():
            start = time.process_time()
            job()
            if round_number:
                taken[name].append(time.process_time() - start)
    return taken


@torch.inference_mode()
def main() -> None:
    image = torch.randint(
        0, 256, (3, HEIGHT_PX, WIDTH_PX), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    masks = proposals(CROP_MASKS)
    found, (expected, _) = masked_crops(image, masks, crop_px=CROP_PX), naive_crops(image, masks)
    taken = seconds_in_turns(
        {"ours": lambda: masked_crops(image, masks, crop_px=CROP_PX), "naive": lambda: naive_crops(image, masks)},
        REPEATS,
    )
    ours, naive = (1e3 * min(taken[name]) / CROP_MASKS for name in ("ours", "naive"))
    print(
        f"crop making, {CROP_MASKS} masks, {WIDTH_PX} x {HEIGHT_PX} px: {ours:.2f} ms per crop, naive {naive:.2f} ms; "
        f"{naive / ours:.1f} times as fast; greatest difference {(found.crops - expected).abs().max():.1e}"
    )
    # In inference mode torch reports composite views as operations of their own.
    of_cpu, crop_making.CPU_WORK_BYTES = crop_making.CPU_WORK_BYTES, crop_making.GPU_WORK_BYTES
    with torch.inference_mode(False), CountedOperations() as counted:
        masked_crops(image, masks, crop_px=CROP_PX)
    crop_making.CPU_WORK_BYTES = of_cpu
    with torch.inference_mode(False), CountedOperations() as counted_naive:
        naive_crops(image, masks)
    print(
        f"crop making on a GPU: {counted.kernels} operations and {counted.synchronisations} synchronisations a "
        f"picture, naive {counted_naive.kernels} and {counted_naive.synchronisations}"
    )

    clip = build_clip("ViT-B-16")
    adapted = MaskAdaptedClip(clip, prompt_depth=3, prompt_seed=0).eval()
    mask_logits = 16 * masks[:FORWARD_CROPS, ::4, ::4].float() - 8
    some = hard_masks(mask_logits, (HEIGHT_PX, WIDTH_PX), 0.5)
    ready = masked_crops(image, some, crop_px=CROP_PX).crops

    def branch() -> torch.Tensor:
        """Do what the segmenter does between the proposal net and the class names."""
        made = masked_crops(image, hard_masks(mask_logits, (HEIGHT_PX, WIDTH_PX), 0.5), crop_px=CROP_PX)
        return adapted.encode_image(made.crops, patch_mask(made.crop_masks, adapted.patch_px))

    taken = seconds_in_turns({"branch": branch, "bare": lambda: clip.encode_image(ready)}, REPEATS)
    branch_rate, bare_rate = (FORWARD_CROPS / min(taken[name]) for name in ("branch", "bare"))
    print(
        f"ViT-B/16: from mask logits to embeddings with prompts {branch_rate:.2f} crops per CPU second, "
        f"bare open_clip forward {bare_rate:.2f}, ratio {branch_rate / bare_rate:.3f}"
    )

    jobs = {"class token": lambda: adapted.encode_image(ready), "all tokens": lambda: clip.encode_image(ready, True)}
    difference = (jobs["class token"]() - jobs["all tokens"]()).abs().max()
    taken = seconds_in_turns(jobs, REPEATS)
    ratio = min(taken["all tokens"]) / min(taken["class token"])
    print(
        f"ViT-B/16: the last layer for the class token alone makes it {ratio:.3f} times as fast; "
        f"greatest difference {difference:.1e}"
    )


if __name__ == "__main__":
    main()
