"""Fusion and argmax at 640 x 960 px for 150 and 847 classes: time and peak memory, next to the plain form in one run.

Run alone: ``python -m tests.benchmarks.bench_fusion``; about two minutes. The ratio is of CPU times, taken in turns.
Peak memory is that of the process beyond what it held before, from Linux's /proc.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch.nn import functional

from ovseg_models.fusion import ensemble_scores, fused_labels

QUERIES, HEIGHT_PX, WIDTH_PX = 100, 640, 960
IMAGE_SIZE = (512, 768)
REPEATS = 2


class Cost(NamedTuple):
    seconds: float
    peak_mib: float


def plain_labels(scores: torch.Tensor, mask_probs: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Multiply out, resize, compare."""
    fused = torch.einsum("qc,qhw->chw", scores, mask_probs)
    return functional.interpolate(fused[None], size=size, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def inputs(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw peaked class probabilities and smooth soft masks, as a trained net gives them."""
    generator = torch.Generator().manual_seed(0)
    probs = (8 * torch.randn(QUERIES, classes + 1, generator=generator)).softmax(dim=1)[:, :-1]
    clip_probs = (4 * torch.randn(QUERIES, classes, generator=generator)).softmax(dim=1)
    coarse = 6 * torch.randn(1, QUERIES, 20, 30, generator=generator) - 4
    masks = functional.interpolate(coarse, size=(HEIGHT_PX, WIDTH_PX), mode="bilinear")[0].sigmoid_()
    return ensemble_scores(probs, clip_probs, torch.ones(QUERIES, dtype=torch.bool), 0.7), masks


def cost_of(job: Callable[[], torch.Tensor]) -> tuple[Cost, torch.Tensor]:
    """Run a job once."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    start = time.process_time()
    result = job()
    seconds = time.process_time() - start
    status = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    return Cost(seconds, (peak - before) / 2**20), result


def main() -> None:
    torch.set_num_threads(1)
    print(f"{QUERIES} masks of {WIDTH_PX} x {HEIGHT_PX} px, labels of {IMAGE_SIZE[1]} x {IMAGE_SIZE[0]} px, one thread")
    for classes in (150, 847):
        scores, masks = inputs(classes)
        fused_labels(scores[:, :20], masks[:, :64, :96], (30, 40))  # load what is loaded at first use
        costs: dict[str, list[Cost]] = {"ours": [], "plain": []}
        for _ in range(REPEATS):
            ours, labels = cost_of(lambda s=scores, m=masks: fused_labels(s, m, IMAGE_SIZE))
            plain, plain_result = cost_of(lambda s=scores, m=masks: plain_labels(s, m, IMAGE_SIZE))
            costs["ours"].append(ours)
            costs["plain"].append(plain)
        differing = int((labels != plain_result).sum())
        for name, found in costs.items():
            seconds, peak_mib = median(cost.seconds for cost in found), max(cost.peak_mib for cost in found)
            print(f"{classes} classes, {name:5}: {1000 * seconds:8.0f} ms, peak {peak_mib:7.1f} MiB")
        ratio = median(p.seconds / o.seconds for o, p in zip(costs["ours"], costs["plain"], strict=True))
        print(f"{classes} classes: the plain form takes {ratio:.2f} times as long; {differing} pixels differ")


if __name__ == "__main__":
    main()
