"""Contrastive losses of (masked crop, noun) pairs, on the features of a whole batch.

All take the features of all processes: gather them first (the reference does without gradient to the others' features)
and give every process the whole batch. Letters: B pairs; s_ij = scale * <image i, text j>; H(i): the hard negatives of
image i, nouns that no pair of the batch need have. They are negatives of images alone: no image of theirs is at hand.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from ovseg_models.precision import full_precision


class HardNegatives(NamedTuple):
    """Texts that each image is compared with beside those of the batch.

    Attributes:
        text_features: L2-normalised, as those of the pairs.
        present: False in the places of an image that has fewer.
    """

    text_features: Float[Tensor, "pair negative dim"]
    present: Bool[Tensor, "pair negative"]


def contrastive_loss(
    image_features: Float[Tensor, "pair dim"],
    text_features: Float[Tensor, "pair dim"],
    scale: Float[Tensor, "*scalar"],
    *,
    hard_negatives: HardNegatives | None = None,
) -> Float[Tensor, ""]:
    """Compute CLIP's loss, in which every other pair of the batch is a negative, one of the same noun too.

    L = -1/2B sum_i [ log softmax_j(s_ij) at j = i + log softmax_j(s_ji) at j = i ]; the first softmax is over the texts
    of the batch and H(i).

    Args:
        image_features: L2-normalised.
        text_features: L2-normalised, row i belongs to image i.
        scale: exp(logit_scale).
        hard_negatives: H(i); None for none.

    Raises:
        ValueError: If the numbers of images and texts differ, or are zero.

    References:
        OVSeg trains with this form; Radford et al., 2021.
    """
    logits = _similarities(image_features, text_features, scale)
    to_texts = torch.cat([logits, *_hard_logits(image_features, scale, hard_negatives)], dim=1)
    labels = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(to_texts, labels) + functional.cross_entropy(logits.T, labels)) / 2


def noun_contrastive_loss(
    image_features: Float[Tensor, "pair dim"],
    text_features: Float[Tensor, "pair dim"],
    scale: Float[Tensor, "*scalar"],
    nouns: Int[Tensor, "pair"],
    *,
    hard_negatives: HardNegatives | None = None,
) -> Float[Tensor, ""]:
    """Compute the loss in which pairs of equal nouns are positives of each other, and never negatives.

    With P(i) = {j : noun j = noun i}, which i is in, and l(x, N) = -log(e^x / (e^x + sum_{n in N} e^n)),
    L = 1/2B sum_i 1/|P(i)| sum_{p in P(i)} [ l(s_ip, {s_ij : j not in P(i)}) + l(s_pi, {s_ji : j not in P(i)}) ].
    If all the nouns differ, this is ``contrastive_loss``. Positives do not compete with each other, so that the least
    value is zero whatever repeats. (The better known form with 1/|P(i)| as soft targets of one softmax would be no
    choice here: if equal nouns have equal text features, it has the same value and gradient as ``contrastive_loss``.)
    The first N of image i has H(i) too.

    Args:
        image_features: L2-normalised.
        text_features: L2-normalised, row i belongs to image i.
        scale: exp(logit_scale).
        nouns: One number per noun; equal numbers for equal nouns.
        hard_negatives: H(i); None for none.

    Raises:
        ValueError: If the numbers of images, texts and nouns differ, or are zero.

    References:
        Not in OVSeg, whose authors leave repeated nouns as negatives.
    """
    logits = _similarities(image_features, text_features, scale)
    if len(nouns) != len(logits):
        raise ValueError(
            f"noun_contrastive_loss: {len(nouns)} nouns, {len(logits)} are expected, one per pair; gather them"
        )
    equal = nouns[:, None] == nouns
    hard = _hard_logits(image_features, scale, hard_negatives)
    to_texts = torch.cat([logits, *hard], dim=1)
    equal_texts = torch.cat([equal, *(torch.zeros_like(more, dtype=torch.bool) for more in hard)], dim=1)
    return (_against_other_nouns(to_texts, equal_texts) + _against_other_nouns(logits.T, equal)) / 2


def sigmoid_loss(
    image_features: Float[Tensor, "pair dim"],
    text_features: Float[Tensor, "pair dim"],
    scale: Float[Tensor, "*scalar"],
    bias: Float[Tensor, "*scalar"],
    nouns: Int[Tensor, "pair"] | None = None,
    *,
    hard_negatives: HardNegatives | None = None,
) -> Float[Tensor, ""]:
    """Compute the loss of SigLIP, in which each image with each text is a case of its own: do they belong together?

    L = -1/B sum_ij log sigmoid(z_ij (s_ij + bias)), z_ij = 1 where they do, else -1; j runs over the batch and H(i).

    Args:
        image_features: L2-normalised.
        text_features: L2-normalised, row i belongs to image i.
        scale: exp(logit_scale).
        bias: Far below zero, as nearly all cases are negatives; -10 at the start of SigLIP's training.
        nouns: One number per noun; equal numbers for equal nouns, which are then positives of each other. None: every
            other pair is a negative, as in open_clip.
        hard_negatives: H(i); None for none.

    Raises:
        ValueError: If the numbers of images, texts and nouns differ, or are zero.

    References:
        Zhai et al., 2023; over several processes the same as open_clip's ``SigLipLoss``, whose ranks are averaged.
    """
    logits = _similarities(image_features, text_features, scale)
    if nouns is None:
        nouns = torch.arange(len(logits), device=logits.device)
    if len(nouns) != len(logits):
        raise ValueError(f"sigmoid_loss: {len(nouns)} nouns, {len(logits)} are expected, one per pair; gather them")
    signs = torch.where(nouns[:, None] == nouns, 1.0, -1.0).to(logits.dtype)
    total = -functional.logsigmoid(signs * (logits + bias)).sum()
    for hard in _hard_logits(image_features, scale, hard_negatives):
        total = total - functional.logsigmoid(-(hard + bias)).sum()
    return total / len(logits)


def _against_other_nouns(
    logits: Float[Tensor, "anchor candidate"], equal: Bool[Tensor, "anchor candidate"]
) -> Float[Tensor, ""]:
    """Average l(s_ip, {s_ij : j not in P(i)}) over the positives of each anchor, then over the anchors."""
    negatives = logits.masked_fill(equal, -torch.inf).logsumexp(dim=1, keepdim=True)
    terms = functional.softplus(negatives - logits).masked_fill(~equal, 0)
    return (terms.sum(dim=1) / equal.sum(dim=1)).mean()


def _hard_logits(
    image_features: Tensor, scale: Tensor, negatives: HardNegatives | None
) -> list[Float[Tensor, "pair negative"]]:
    """Return s_in in a list, -infinity in empty places, which no loss sees; an empty list for None."""
    if negatives is None:
        return []
    with full_precision(image_features.device):
        features = image_features if image_features.dtype == torch.float64 else image_features.float()
        logits = scale * torch.einsum("pd,pnd->pn", features, negatives.text_features.to(features.dtype))
    return [logits.masked_fill(~negatives.present, -torch.inf)]


def _similarities(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Float[Tensor, "pair pair"]:
    """Multiply features in at least single precision: 10 bits of half precision or TF32 are few for a scale of 100."""
    if len(image_features) != len(text_features) or not len(image_features):
        raise ValueError(
            f"contrastive loss: {len(image_features)} images and {len(text_features)} texts, equally many are expected "
            "and at least one; gather both from all the processes"
        )
    if image_features.dtype in {torch.float16, torch.bfloat16}:
        image_features, text_features = image_features.float(), text_features.float()
    with full_precision(image_features.device):
        return scale * image_features @ text_features.to(image_features.dtype).T
