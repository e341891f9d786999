"""The losses of the proposal net: cross-entropy over all queries, focal and dice over the matched masks."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor

from ovseg_models.checkpointing import checkpointed
from ovseg_models.matching import DICE_SMOOTHING, FOCAL_ALPHA, LossWeights, Matches, match_queries
from ovseg_models.precision import full_precision
from ovseg_models.proposal_net import ProposalOutput
from ovseg_models.targets import TargetBatch, Targets, pack_targets


class LossTerms(NamedTuple):
    """The unweighted terms of one decoder output."""

    classification: Float[Tensor, ""]
    focal: Float[Tensor, ""]
    dice: Float[Tensor, ""]


class ProposalLosses(NamedTuple):
    """What to minimise, and what it consists of.

    Attributes:
        total: Weighted sum over the terms of all decoder outputs.
        layers: The terms of the last decoder layer, then those of the earlier ones, first layer first.
    """

    total: Float[Tensor, ""]
    layers: tuple[LossTerms, ...]


def proposal_losses(
    output: ProposalOutput,
    class_logits: Sequence[Float[Tensor, "batch query column"]],
    targets: Sequence[Targets],
    *,
    image_size: tuple[int, int],
    num_masks: float | int,
    query_weight: float | int | None = None,
    weights: LossWeights = LossWeights(),  # noqa: B008 (frozen)
    checkpointing: bool = False,
) -> ProposalLosses:
    """Match and compare every decoder output with the ground truth; each output is matched anew.

    Args:
        output: Of `ProposalNet`; its aux outputs are supervised as the last one is.
        class_logits: `ProposalNet.class_logits` of each of ``output.layers``; no object is the last column.
        targets: One per image.
        image_size: Height and width of the net's input [px].
        num_masks: Targets of the batch, averaged over the processes of a distributed run; taken as at least 1.
        query_weight: What the classification loss, summed over the queries by weight, is divided by; by default their
            total weight, which makes it the published weighted mean. A batch that is computed in parts, or shared by
            processes, gives `total_query_weight` of the whole one, so that the parts add up.
        weights: The same for every output.
        checkpointing: Compute what the masks' losses need at full size again in the backward pass, one output at a
            time, instead of keeping it for all.

    Raises:
        ValueError: If a target does not fit the vocabulary or the images.
        FloatingPointError: If a matching cost is not finite.

    References:
        MaskFormer, section 3.3; OVSeg's published setting.
    """
    device = output.mask_logits.device
    batch = pack_targets(
        targets,
        image_size=image_size,
        mask_size=(output.mask_logits.shape[-2], output.mask_logits.shape[-1]),
        num_classes=class_logits[0].shape[-1] - 1,
        device=device,
    )
    with full_precision(device):  # sums over a million pixels need full precision
        mask_logits = [layer.mask_logits.float() for layer in output.layers]
        full_logits = [logits.float() for logits in class_logits]
        layers = tuple(
            _layer_losses(
                masks,
                logits,
                batch,
                matches,
                num_masks=float(max(num_masks, 1)),
                query_weight=query_weight,
                weights=weights,
                checkpointing=checkpointing,
            )
            for masks, logits, matches in zip(
                mask_logits, full_logits, match_queries(mask_logits, full_logits, batch, weights=weights), strict=True
            )
        )
    sums = [torch.stack(terms).sum() for terms in zip(*layers, strict=True)]
    total = weights.classification * sums[0] + weights.focal * sums[1] + weights.dice * sums[2]
    return ProposalLosses(total, layers)


def _layer_losses(
    mask_logits: Float[Tensor, "batch query height width"],
    class_logits: Float[Tensor, "batch query column"],
    targets: TargetBatch,
    matches: Matches,
    *,
    num_masks: float,
    query_weight: float | None,
    weights: LossWeights,
    checkpointing: bool,
) -> LossTerms:
    """Compute the terms of one decoder output."""
    every_target_matched = len(matches.targets) == len(targets.class_ids)
    masks = targets.masks if every_target_matched else targets.masks[matches.targets]
    # Only matched masks are brought to full size; unmatched ones have no mask loss.
    matched = mask_logits[matches.images, matches.queries]
    counted = None if targets.counted is None else targets.counted[matches.images]
    if checkpointing:
        focal, dice = checkpointed(_upsampled_mask_losses, matched, masks, counted)
    else:
        focal, dice = _upsampled_mask_losses(matched, masks, counted)
    classification = classification_loss(
        class_logits, targets, matches, no_object_weight=weights.no_object, query_weight=query_weight
    )
    return LossTerms(classification, focal.sum() / num_masks, dice.sum() / num_masks)


def _upsampled_mask_losses(
    logits: Float[Tensor, "mask small_h small_w"],
    masks: Float[Tensor, "mask height width"],
    counted: Float[Tensor, "mask height width"] | None,
) -> tuple[Float[Tensor, " mask"], Float[Tensor, " mask"]]:
    """Bring logits to the masks' size and compute `mask_losses`."""
    return mask_losses(upsample_bilinear(logits, (masks.shape[-2], masks.shape[-1])), masks, counted)


def classification_loss(
    class_logits: Float[Tensor, "batch query column"],
    targets: TargetBatch,
    matches: Matches,
    *,
    no_object_weight: float,
    query_weight: float | None = None,
) -> Float[Tensor, ""]:
    """Compute the cross-entropy over all queries of the batch; those without a target want the last column.

    The mean is weighted: a query without a target counts no_object_weight, the others count 1. With ``query_weight``
    the weighted sum is divided by that in place of the queries' own total weight.
    """
    no_object = class_logits.shape[-1] - 1
    expected = torch.full(class_logits.shape[:2], no_object, device=class_logits.device)
    expected[matches.images, matches.queries] = targets.class_ids[matches.targets]
    class_weights = class_logits.new_ones(no_object + 1)
    class_weights[no_object:].fill_(no_object_weight)  # by its index it would be a copy from the host that waits
    if query_weight is None:
        return F.cross_entropy(class_logits.flatten(0, 1), expected.flatten(), class_weights)
    return (
        F.cross_entropy(class_logits.flatten(0, 1), expected.flatten(), class_weights, reduction="sum") / query_weight
    )


def total_query_weight(counts: Sequence[int], queries: int, *, no_object_weight: float) -> float:
    """Add up the weights of all queries in the classification loss, which don't depend on who is matched with whom.

    Args:
        counts: Targets of each image.
        queries: Of the net; each image matches as many targets as it has, but no more than queries.
        no_object_weight: Weight of a query without a target; the others weigh 1.
    """
    matched = sum(min(count, queries) for count in counts)
    return matched + no_object_weight * (len(counts) * queries - matched)


def upsample_bilinear(
    masks: Float[Tensor, "mask height width"], size: tuple[int, int]
) -> Float[Tensor, "mask full_height full_width"]:
    """Resize as ``interpolate(mode="bilinear", align_corners=False)`` does, by one matrix product per side.

    The products' backward pass is several times as fast on the CPU, and deterministic on a GPU.
    """
    by_row, by_column = (
        F.interpolate(
            torch.eye(found, device=masks.device, dtype=masks.dtype)[None],
            size=expected,
            mode="linear",
            align_corners=False,
        )[0]
        for found, expected in zip(masks.shape[-2:], size, strict=True)
    )
    return by_row.T @ masks @ by_column


def mask_losses(
    logits: Float[Tensor, "mask height width"],
    masks: Float[Tensor, "mask height width"],
    counted: Float[Tensor, "mask height width"] | None = None,
) -> tuple[Float[Tensor, " mask"], Float[Tensor, " mask"]]:
    """Compute the focal loss (alpha 0.25, gamma 2, mean over pixels) and the dice loss of each mask.

    Args:
        logits: Of the matched queries, at the masks' size.
        masks: 0 or 1.
        counted: 0 where a pixel adds nothing to either loss, and no mask is; the focal loss is a mean over all pixels
            all the same. None counts them all, as the references do.

    References:
        RetinaNet, section 3; the dice loss is smoothed by 1 in numerator and denominator.
    """
    probs = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, masks, reduction="none")
    error = (probs - masks).square()  # (1 - probability of the truth) squared, for masks of 0 and 1
    by_pixel = cross_entropy * error * (1 - FOCAL_ALPHA + (2 * FOCAL_ALPHA - 1) * masks)
    if counted is not None:
        by_pixel, probs = by_pixel * counted, probs * counted
    focal = by_pixel.mean((1, 2))
    overlap = (probs * masks).sum((1, 2))
    dice = 1 - (2 * overlap + DICE_SMOOTHING) / (probs.sum((1, 2)) + masks.sum((1, 2)) + DICE_SMOOTHING)
    return focal, dice
