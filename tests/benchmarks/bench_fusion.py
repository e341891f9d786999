"""Fusion and argmax of 100 masks at 640 x 961 px, for a photograph of 426 x 640 px, next to the plain form in one run.

Run alone: ``python -m tests.benchmarks.bench_fusion``; about a minute. The ratio is of CPU times on two threads, taken
in turns. Peak memory is that of the process beyond what it held before, soft masks included, from Linux's /proc. What a
GPU is asked for is counted with its larger steps. Masks are soft ellipses, as a trained net gives them, and the same
under noise, which is the hard case: far fewer classes are excluded. On a machine that does other work too, set
OMP_WAIT_POLICY=passive: threads that wait in a loop for each other count as working.
"""

import resource
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from torch.nn import functional

from ovseg_models import fusion
from ovseg_models.fusion import ensemble_scores, fused_labels
from ovseg_models.proposal_masks import upsampled_mask_probs
from tests.operations import CountedOperations
from tests.proposal_shapes import ellipse_logits

QUERIES, NET_SIZE, PHOTO_SIZE = 100, (640, 961), (426, 640)
REPEATS = 2


class Cost(NamedTuple):
    seconds: float
    peak_mib: float


def plain_labels(scores: torch.Tensor, mask_logits: torch.Tensor) -> torch.Tensor:
    """Multiply out, resize, compare."""
    fused = torch.einsum("qc,qhw->chw", scores, upsampled_mask_probs(mask_logits, NET_SIZE))
    return functional.interpolate(fused[None], size=PHOTO_SIZE, mode="bilinear", align_corners=False)[0].argmax(dim=0)


def peaked_scores(classes: int) -> torch.Tensor:
    """Draw peaked class probabilities, as a trained net gives them."""
    generator = torch.Generator().manual_seed(0)
    probs = (8 * torch.randn(QUERIES, classes + 1, generator=generator)).softmax(dim=1)[:, :-1]
    clip_probs = (4 * torch.randn(QUERIES, classes, generator=generator)).softmax(dim=1)
    return ensemble_scores(probs, clip_probs, torch.ones(QUERIES, dtype=torch.bool), 0.7)


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


def operations(scores: torch.Tensor, mask_logits: torch.Tensor) -> CountedOperations:
    """Count what a GPU would be asked for."""
    cpu_bytes, fusion._CPU_WORK_BYTES = fusion._CPU_WORK_BYTES, fusion._GPU_WORK_BYTES
    with CountedOperations() as counted:
        fused_labels(scores, mask_logits, net_size=NET_SIZE, size=PHOTO_SIZE)
    fusion._CPU_WORK_BYTES = cpu_bytes
    return counted


def main() -> None:
    torch.set_num_threads(2)
    ellipses = ellipse_logits(QUERIES, *NET_SIZE)
    noise = 3 * torch.randn(1, QUERIES, 21, 31, generator=torch.Generator().manual_seed(1))
    noisy = ellipses + functional.interpolate(noise, size=ellipses.shape[1:], mode="bilinear")[0]
    for classes in (150, 847):
        scores = peaked_scores(classes)
        for name, logits in (("ellipses", ellipses), ("noise", noisy)):
            fused_labels(scores[:, :20], logits[:, :8, :8], net_size=(32, 32), size=(30, 40))  # loads what is lazy
            pairs = []
            for _ in range(REPEATS):
                ours, labels = cost_of(
                    lambda s=scores, m=logits: fused_labels(s, m, net_size=NET_SIZE, size=PHOTO_SIZE)
                )
                plain, plain_result = cost_of(lambda s=scores, m=logits: plain_labels(s, m))
                pairs.append((ours, plain))
            counted = operations(scores, logits)
            ratio = median(plain.seconds / ours.seconds for ours, plain in pairs)
            seconds, plain_seconds = (median(pair[side].seconds for pair in pairs) for side in (0, 1))
            peak, plain_peak = (max(pair[side].peak_mib for pair in pairs) for side in (0, 1))
            print(
                f"{classes} classes, {name}: {seconds:.2f} CPU seconds, peak {peak:.0f} MiB; plain form "
                f"{plain_seconds:.2f} s ({ratio:.1f} times as long), {plain_peak:.0f} MiB; "
                f"{int((labels != plain_result).sum())} pixels differ; on a GPU {counted.kernels} operations, "
                f"{counted.synchronisations} synchronisations"
            )


if __name__ == "__main__":
    main()
