"""Matching and losses of the proposal net, next to the form that goes image by image and query by query."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_models.proposal_losses import proposal_losses
from ovseg_models.proposal_net import ProposalOutput
from ovseg_models.targets import Targets

REPEATS = 3


@dataclass(frozen=True)
class Size:
    name: str
    images: int
    queries: int
    outputs: int
    targets: int
    classes: int
    side_px: int


SIZES = (
    Size("drawn world", images=16, queries=16, outputs=2, targets=5, classes=30, side_px=96),
    Size("paper, 2 of 6 outputs", images=2, queries=100, outputs=2, targets=10, classes=171, side_px=640),
)


def draw(size: Size) -> tuple[ProposalOutput, list[Tensor], list[Targets]]:
    torch.manual_seed(0)
    side = size.side_px // 4
    layers = [
        ProposalOutput(
            torch.randn(size.images, size.queries, side, side).requires_grad_(),
            F.normalize(torch.randn(size.images, size.queries, 8), dim=-1),
        )
        for _ in range(size.outputs)
    ]
    output = ProposalOutput(layers[0].mask_logits, layers[0].proposal_embeddings, tuple(layers[1:]))
    shape = (size.images, size.queries, size.classes + 1)
    class_logits = [torch.randn(shape).requires_grad_() for _ in range(size.outputs)]
    targets = [
        Targets(
            torch.randperm(size.classes)[: size.targets], torch.rand(size.targets, size.side_px, size.side_px) > 0.8
        )
        for _ in range(size.images)
    ]
    return output, class_logits, targets


def naive_mask_terms(logits: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    prob = logits.sigmoid()
    truth = torch.where(mask, prob, 1 - prob)
    focal = (torch.where(mask, 0.25, 0.75) * (1 - truth) ** 2 * -truth.log()).mean()
    return focal, 1 - (2 * (prob * mask).sum() + 1) / (prob.sum() + mask.sum() + 1)


def naive_assignment(mask_logits: Tensor, class_logits: Tensor, target: Targets) -> dict[int, int]:
    """Match one image: a cost at a time."""
    small = F.interpolate(target.masks[None].float(), size=mask_logits.shape[-2:], mode="nearest")[0] > 0
    costs = np.zeros((len(mask_logits), len(small)))
    for query, slot in np.ndindex(*costs.shape):
        focal, dice = naive_mask_terms(mask_logits[query], small[slot])
        prob = class_logits[query].softmax(-1)[target.class_ids[slot]]
        costs[query, slot] = (20 * focal + dice - prob).item()
    queries, slots = linear_sum_assignment(costs)
    return dict(zip(queries.tolist(), slots.tolist(), strict=True))


def naive_losses(output: ProposalOutput, class_logits: list[Tensor], targets: list[Targets], num_masks: int) -> Tensor:
    total = torch.zeros(())
    for layer, layer_logits in zip(output.layers, class_logits, strict=True):
        numerator, denominator = torch.zeros(()), 0.0
        for image, target in enumerate(targets):
            with torch.no_grad():
                slot_of = naive_assignment(layer.mask_logits[image], layer_logits[image], target)
            for query, logits in enumerate(layer_logits[image]):
                slot = slot_of.get(query)
                weight = 0.1 if slot is None else 1.0
                expected = -1 if slot is None else target.class_ids[slot]
                numerator = numerator - weight * logits.log_softmax(-1)[expected]
                denominator += weight
                if slot is not None:
                    mask = target.masks[slot]
                    full = F.interpolate(layer.mask_logits[image, query][None, None], size=mask.shape, mode="bilinear")
                    focal, dice = naive_mask_terms(full[0, 0], mask)
                    total = total + (20 * focal + dice) / num_masks
        total = total + numerator / denominator
    return total


def timed(compute: Callable[[], Tensor]) -> tuple[float, float]:
    """Seconds of one forward and backward pass, and the loss."""
    start = time.perf_counter()
    total = compute()
    total.backward()
    return time.perf_counter() - start, total.item()


def main() -> None:
    torch.set_num_threads(1)
    for size in SIZES:
        output, class_logits, targets = draw(size)
        num_masks = size.images * size.targets

        def ours(output=output, class_logits=class_logits, targets=targets, num_masks=num_masks, size=size) -> Tensor:
            image_size = (size.side_px, size.side_px)
            losses = proposal_losses(output, class_logits, targets, image_size=image_size, num_masks=num_masks)
            return losses.total

        def naive(output=output, class_logits=class_logits, targets=targets, num_masks=num_masks) -> Tensor:
            return naive_losses(output, class_logits, targets, num_masks)

        rounds = [(timed(ours), timed(naive)) for _ in range(REPEATS)]
        ours_s = min(ours_round[0] for ours_round, _ in rounds)
        naive_s = min(naive_round[0] for _, naive_round in rounds)
        print(
            f"{size.name}: {size.images} images, {size.queries} queries, {size.outputs} outputs, {size.side_px} px: "
            f"{1e3 * ours_s:.0f} ms, naive {1e3 * naive_s:.0f} ms, {naive_s / ours_s:.1f} times as fast; "
            f"losses {rounds[0][0][1]:.5f} and {rounds[0][1][1]:.5f}"
        )


if __name__ == "__main__":
    main()
