"""Contrastive losses of (masked crop, noun) pairs, on the features of a whole batch.

Both take the features of all processes: gather them first (the reference does without gradient to the others' features)
and give every process the whole batch. Letters: B pairs; s_ij = scale * <image i, text j>.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional


def contrastive_loss(
    image_features: Float[Tensor, "pair dim"],
    text_features: Float[Tensor, "pair dim"],
    scale: Float[Tensor, "*scalar"],
) -> Float[Tensor, ""]:
    """Compute CLIP's loss, in which every other pair of the batch is a negative, one of the same noun too.

    L = -1/2B sum_i [ log softmax_j(s_ij) at j = i + log softmax_j(s_ji) at j = i ].

    Args:
        image_features: L2-normalised.
        text_features: L2-normalised, row i belongs to image i.
        scale: exp(logit_scale).

    Raises:
        ValueError: If the numbers of images and texts differ, or are zero.

    References:
        OVSeg trains with this form; Radford et al., 2021.
    """
    logits = _similarities(image_features, text_features, scale)
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, labels) + functional.cross_entropy(logits.T, labels)) / 2


def noun_contrastive_loss(
    image_features: Float[Tensor, "pair dim"],
    text_features: Float[Tensor, "pair dim"],
    scale: Float[Tensor, "*scalar"],
    nouns: Int[Tensor, "pair"],
) -> Float[Tensor, ""]:
    """Compute the loss in which pairs of equal nouns are positives of each other rather than negatives.

    With P(i) = {j : noun j = noun i}, which i is in,
    L = -1/2B sum_i 1/|P(i)| sum_{p in P(i)} [ log softmax_j(s_ij) at j = p + log softmax_j(s_ji) at j = p ].
    If all the nouns differ, this is ``contrastive_loss``. Where nouns repeat, its least value is not zero but the mean
    of log |P(i)|, since an image's probability is shared by all the texts that are equal.

    Args:
        image_features: L2-normalised.
        text_features: L2-normalised, row i belongs to image i.
        scale: exp(logit_scale).
        nouns: One number per noun; equal numbers for equal nouns.

    Raises:
        ValueError: If the numbers of images, texts and nouns differ, or are zero.

    References:
        The form of supervised contrastive learning with the sum outside the logarithm (Khosla et al., 2020), in both
        directions (Yang et al., 2022). Not in OVSeg.
    """
    logits = _similarities(image_features, text_features, scale)
    if len(nouns) != len(logits):
        raise ValueError(
            f"noun_contrastive_loss: {len(nouns)} nouns, {len(logits)} are wanted, one per pair; gather them"
        )
    equal = (nouns[:, None] == nouns).to(logits.dtype)
    targets = equal / equal.sum(dim=1, keepdim=True)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def _similarities(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Float[Tensor, "pair pair"]:
    """Multiply features in at least single precision, since half is too coarse for a scale of 100."""
    if len(image_features) != len(text_features) or not len(image_features):
        raise ValueError(
            f"contrastive loss: {len(image_features)} images and {len(text_features)} texts, equally many are wanted "
            "and at least one; gather both from all the processes"
        )
    if image_features.dtype in {torch.float16, torch.bfloat16}:
        image_features, text_features = image_features.float(), text_features.float()
    with torch.autocast(image_features.device.type, enabled=False):
        return scale * image_features @ text_features.to(image_features.dtype).T
