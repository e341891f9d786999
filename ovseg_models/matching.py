"""Which query answers for which target: the cheapest one-to-one assignment, image by image.

Costs are computed on the device for all decoder outputs of the batch, travel to the CPU together, and the matches back:
the device waits for the host once per step, whatever the number of outputs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int64
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from ovseg_models.host_to_device import sent
from ovseg_models.targets import TargetBatch

FOCAL_ALPHA = 0.25
DICE_SMOOTHING = 1.0


@dataclass(frozen=True)
class LossWeights:
    """What each term counts in the matching cost and, but for no_object, in the loss.

    Attributes:
        classification: Of the class probability, and of the cross-entropy.
        focal: Of the focal term over the mask's pixels.
        dice: Of the dice term.
        no_object: Of a query without a target in the cross-entropy, where classes have 1.
    """

    classification: float = 1.0
    focal: float = 20.0
    dice: float = 1.0
    no_object: float = 0.1


@dataclass(frozen=True)
class Matches:
    """The matched pairs of a batch, sorted by target; min(queries, targets) of each image.

    Attributes:
        images: Row of the batch.
        queries: Query of that image.
        targets: Row of the targets of the batch, all images counted through.
    """

    images: Int64[Tensor, " match"]
    queries: Int64[Tensor, " match"]
    targets: Int64[Tensor, " match"]


@torch.no_grad()
def match_queries(
    mask_logits: Sequence[Float[Tensor, "batch query height width"]],
    class_logits: Sequence[Float[Tensor, "batch query column"]],
    targets: TargetBatch,
    *,
    weights: LossWeights,
) -> list[Matches]:
    """Assign each target the query that makes the sum of costs of its image smallest, for each decoder output anew.

    Args:
        mask_logits: One per output, at least one; all of one shape.
        class_logits: Likewise.

    Raises:
        FloatingPointError: If a cost is NaN or infinite.

    References:
        MaskFormer's HungarianMatcher: on all pixels of the mask logits, no sampling.
    """
    of_outputs = [
        matching_costs(masks, classes, targets, weights=weights)
        for masks, classes in zip(mask_logits, class_logits, strict=True)
    ]
    costs = torch.stack(of_outputs).cpu().numpy()  # [output batch query slot]
    if not np.isfinite(costs).all():
        output, image, query, slot = np.argwhere(~np.isfinite(costs))[0]
        raise FloatingPointError(
            f"match_queries: the cost of query {query} for target {slot} of image {image} is "
            f"{costs[output, image, query, slot]} (output {output}), expected a finite one; lower the learning rate, "
            "or check for broken pictures"
        )
    rows, ends = [], []  # of all outputs, so that one copy brings them to the device
    for of_output in costs:
        first = 0
        for image, (cost, count) in enumerate(zip(of_output, targets.counts, strict=True)):
            queries, slots = linear_sum_assignment(cost[:, :count])
            order = np.argsort(slots)
            rows.append(np.stack((np.full_like(slots, image), queries[order], slots[order] + first)))
            first += count
        ends.append(sum(min(of_output.shape[1], count) for count in targets.counts))
    matched = sent(torch.from_numpy(np.concatenate(rows, axis=1)).long(), mask_logits[0].device)
    return [Matches(*of_output) for of_output in matched.split(ends, dim=1)]


def matching_costs(
    mask_logits: Float[Tensor, "batch query height width"],
    class_logits: Float[Tensor, "batch query column"],
    targets: TargetBatch,
    *,
    weights: LossWeights,
) -> Float[Tensor, "batch query slot"]:
    """Compute what it costs to let each query answer for each target of its image.

    The weighted sum of the negative class probability, the focal loss per pixel and the dice loss. Pixels that don't
    count in the losses don't count here. Slots past an image's count hold costs without meaning.
    """
    logits = mask_logits.flatten(2)  # [batch query pixel]
    masks = targets.mask_slots.flatten(2).transpose(1, 2)  # [batch pixel slot], 0 or 1
    probs = logits.sigmoid()
    # What a pixel costs if it is inside the target, and if it is outside. -log p is softplus - logit, and -log(1 - p)
    # is softplus: finite for any logit.
    softplus = F.softplus(logits)
    outside = (1 - FOCAL_ALPHA) * probs.square() * softplus
    if targets.counted_small is not None:
        counted = targets.counted_small.flatten(1)[:, None]
        outside, probs = outside * counted, probs * counted
    inside = FOCAL_ALPHA * (1 - probs).square() * (softplus - logits)  # not times counted: no such pixel is in a target
    # The sum over pixels of inside * t + outside * (1 - t), for all pairs of query and target, with one product.
    focal = ((inside - outside) @ masks + outside.sum(-1, keepdim=True)) / logits.shape[-1]
    areas = probs.sum(-1, keepdim=True) + masks.sum(1, keepdim=True)
    dice = 1 - (2 * (probs @ masks) + DICE_SMOOTHING) / (areas + DICE_SMOOTHING)
    # The probability itself, whose range is that of the dice term; its logarithm has none.
    columns = targets.class_slots[:, None].expand(-1, logits.shape[1], -1)
    class_probs = class_logits.softmax(-1).gather(2, columns)
    return weights.focal * focal + weights.dice * dice - weights.classification * class_probs
