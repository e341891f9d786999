"""From the classes of the proposals to the classes of the pixels.

First the two branches' class probabilities of each proposal become one score (`ensemble_scores`), then the scores are
spread over the pixels by the soft masks (`fused_labels`, `fused_scores`).

The plain form of the second step, an einsum to [class height width], a bilinear resize and an argmax, takes 2 GB for
847 classes at 640 x 960 px. Here a few classes are in work at a time and the best class of each pixel is kept. Classes
are chunked, never queries, so that each sum is taken in the same order as in the plain form and every pixel gets the
same class.
"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

_CHUNK_BYTES = 40 * 2**20
_RESIZE_BYTES = 8 * 2**20
_LANES = 8


def ensemble_scores(
    proposal_probs: Float[Tensor, "query class"],
    clip_probs: Float[Tensor, "valid class"],
    valid: Bool[Tensor, "query"],
    ensemble_weight: float | int,
) -> Float[Tensor, "query class"]:
    """Join what the proposal net and CLIP say of each proposal: ``p^(1 - weight) * p_clip^weight``.

    A proposal without a pixel above the mask threshold has no crop and so no CLIP probabilities. As in the reference it
    keeps ``p^(1 - weight)``, which is more than a proposal with a crop can get. At weight 1 that would be 1 for each
    class, a constant that says nothing; there such proposals score 0, as in the reference's CLIP-only mode. If no
    proposal has a crop, the proposal net decides alone below weight 1; at weight 1 nothing is known, all scores are 0,
    and `fused_labels` gives each pixel the first class. (The reference fails on such an image.)

    Args:
        proposal_probs: Softmax over the classes and no-object, without the no-object column.
        clip_probs: Softmax over the classes, for the valid proposals in order; there may be none.
        valid: Which proposals have a crop.
        ensemble_weight: 0 = proposal net only, 1 = CLIP only. (The reference's 0 means CLIP only.)

    Returns:
        Scores, 0..1; they don't sum to one.

    Raises:
        ValueError: If the weight is outside 0..1, or ``clip_probs`` hasn't one row per valid proposal.

    References:
        OVSeg, section 3.1, equation 2.
    """
    if not 0 <= ensemble_weight <= 1:
        raise ValueError(
            f"ensemble: ensemble_weight is {ensemble_weight}, "
            "0 (proposal net only) to 1 (CLIP only) is wanted; correct it"
        )
    if len(clip_probs) != int(valid.sum()):
        raise ValueError(
            f"ensemble: clip_probs has {len(clip_probs)} rows, {int(valid.sum())} (one per valid proposal) are wanted; "
            "pass the rows of the valid proposals only"
        )
    if ensemble_weight == 0:
        return proposal_probs
    if ensemble_weight == 1:
        clip_only = torch.zeros_like(proposal_probs)
        clip_only[valid] = clip_probs
        return clip_only
    clip_factors = torch.ones_like(proposal_probs)
    clip_factors[valid] = clip_probs**ensemble_weight
    return proposal_probs ** (1 - ensemble_weight) * clip_factors


@torch.no_grad()
def fused_labels(
    scores: Float[Tensor, "query class"], mask_probs: Float[Tensor, "query height width"], size: tuple[int, int]
) -> Int64[Tensor, "out_height out_width"]:
    """Give each pixel the class with the highest sum over the proposals of score times soft mask.

    The peak memory beyond arguments and result is about 50 MiB for 847 classes at 640 x 960 px. It grows with the size
    of images (16 maps at the masks' size beyond 0.6 million pixels, 3 at the result's), not with the number of classes.

    Args:
        scores: As `ensemble_scores` gives them.
        mask_probs: 0..1, at the proposal net's input size without its padding.
        size: Height and width of the result [px]; the sums are resized to it bilinearly, then compared.

    Returns:
        Class indices; of equal classes the first.

    Raises:
        ValueError: If there is no class, or the numbers of queries differ.

    References:
        OVSeg, section 3.1; MaskFormer's semantic inference.
    """
    best = torch.full(size, -math.inf, device=mask_probs.device)
    labels = torch.zeros(size, dtype=torch.int64, device=mask_probs.device)
    better = torch.empty(size, dtype=torch.bool, device=mask_probs.device)
    for index, class_map in enumerate(_class_maps(scores, mask_probs, size)):
        torch.gt(class_map, best, out=better)
        labels.masked_fill_(better, index)
        torch.maximum(best, class_map, out=best)
    return labels


@torch.no_grad()
def fused_scores(
    scores: Float[Tensor, "query class"], mask_probs: Float[Tensor, "query height width"], size: tuple[int, int]
) -> Float[Tensor, "class out_height out_width"]:
    """Give each pixel the sums that `fused_labels` compares; arguments and errors are the same.

    The result itself may be large: 4 bytes per class and pixel.
    """
    fused = torch.empty(scores.shape[1], *size, device=mask_probs.device)
    for index, class_map in enumerate(_class_maps(scores, mask_probs, size)):
        fused[index] = class_map
    return fused


def _class_maps(scores: Tensor, mask_probs: Tensor, size: tuple[int, int]) -> Iterator[Float[Tensor, "height width"]]:
    """Yield the fused map of each class in order; a map is valid until the next one is asked for."""
    if scores.shape[1] == 0 or len(scores) != len(mask_probs):
        raise ValueError(
            f"fusion: scores are {tuple(scores.shape)} [query class] for {len(mask_probs)} masks; "
            "one row per mask and at least one class are wanted"
        )
    height, width = mask_probs.shape[1:]
    starts = _chunk_starts(scores.shape[1], height * width)
    ends = [*starts[1:], scores.shape[1]]
    widest = max(end - start for start, end in zip(starts, ends, strict=True))
    buffer = mask_probs.new_empty(widest, height * width)
    for start, end in zip(starts, ends, strict=True):
        fused = torch.mm(scores[:, start:end].T, mask_probs.flatten(1), out=buffer[: end - start])
        for maps in _resized(fused.view(-1, height, width), size):
            yield from maps


def _chunk_starts(classes: int, pixels: int) -> list[int]:
    """Cut the classes into chunks so that each sum is rounded as it is without chunks.

    On a CPU the bits depend on the shape: narrow matrix products are summed in another order, and small resizes work on
    8 channels at a time and on the rest one by one. So chunks start at multiples of 8 and hold at least 8 classes. That
    holds for one thread; with several, a matrix product has such borders between its threads too, and of classes that
    tie to the last bits of a sum another one may win.
    """
    chunk = _LANES * max(2, _CHUNK_BYTES // (4 * _LANES * pixels))
    starts = list(range(0, classes, chunk))
    if len(starts) > 1 and classes - starts[-1] < _LANES:
        starts[-1] -= _LANES
    return starts


def _resized(maps: Float[Tensor, "class height width"], size: tuple[int, int]) -> Iterator[Tensor]:
    """Yield resized maps [some height width]: all at once if they are small or few, else one by one.

    A large resize treats channels alike, whatever their number, unless they are three.
    """
    if maps.shape[1:] == size:
        yield maps
        return
    at_once = len(maps) if len(maps) < _LANES or 4 * len(maps) * math.prod(size) <= _RESIZE_BYTES else 1
    for some in maps.split(at_once):
        yield functional.interpolate(some[None], size=size, mode="bilinear", align_corners=False)[0]
