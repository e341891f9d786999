"""Finding the named things in an image and leaving the rest unlabelled (OVSeg, figure 5).

The fused label map gives each pixel some class; here each class gets at most one region: the proposal that scores best
for it. What no such proposal covers stays unlabelled.

A softmax over one class is always 1, so a single name must have something to be compared with: `with_others` appends
"others", as the published demo does. "others" takes part in the scores and never gets a region. Callers who name more
things may name it too; with several names it isn't added, since they are each other's alternatives.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from ovseg_models.class_names import OTHERS, Vocabulary

UNLABELLED = -1
_NO_SCORE = -1.0
_CLASSES_AT_ONCE = 16  # bounds the memory
_INSIDE = 0.5  # of a resized mask: at least half of the pixel is covered


class FoundRegions(NamedTuple):
    """Where the named things are.

    Attributes:
        label_map: Class indices [height width], -1 (`UNLABELLED`) where nothing was found.
        queries: The proposal of each class, -1 for "others" and for a class that was not found.
    """

    label_map: Int64[Tensor, "height width"]
    queries: Int64[Tensor, "class"]


def with_others(vocabulary: Vocabulary) -> Vocabulary:
    """Append "others" to a single class that isn't "others" itself; return other vocabularies as they are."""
    names, words = vocabulary.class_names, vocabulary.words
    if len(names) != 1 or OTHERS in (*names, *words[0]):
        return vocabulary
    return Vocabulary((*names, OTHERS), (*words, (OTHERS,)))


@torch.no_grad()
def find_regions(
    scores: Float[Tensor, "query class"],
    masks: Bool[Tensor, "query height width"],
    class_names: Sequence[str],
    size: tuple[int, int],
    *,
    min_score: float = 0.0,
) -> FoundRegions:
    """Give each class the best proposal with a pixel, and each pixel the best of the classes whose proposal covers it.

    Args:
        scores: As `ensemble_scores` gives them, for any ensemble weight.
        masks: Hard masks (above the mask threshold), at the proposal net's input size without its padding.
        class_names: By class index; "others" gets no region.
        size: Height and width of the label map [px].
        min_score: A class whose best score is lower is not found. At 0, as in the published demo, each class gets a
            region, whether the thing is there or not.

    Raises:
        ValueError: If the number of names or masks doesn't fit the scores.

    References:
        OVSeg, figure 5. Ours differs from the published demo in that it takes any weight (theirs fails when the
        proposal net has a say) and any number of names, and in that borders lie where half a pixel is covered.
    """
    if scores.shape != (len(masks), len(class_names)):
        raise ValueError(
            f"find_regions: scores are {tuple(scores.shape)} [query class] for {len(masks)} masks and "
            f"{len(class_names)} names; one row per mask and one column per name are expected"
        )
    device = masks.device
    labels = torch.full(size, UNLABELLED, device=device)
    best = torch.full(size, _NO_SCORE, device=device)
    queries = torch.full((len(class_names),), UNLABELLED, device=device)
    if not len(masks):
        return FoundRegions(labels, queries)
    has_pixels = masks.flatten(1).any(dim=1)
    class_best = scores.masked_fill(~has_pixels[:, None], _NO_SCORE).max(dim=0)
    nameable = torch.tensor([name != OTHERS for name in class_names], device=device)
    found = (nameable & (class_best.values >= max(min_score, 0.0))).nonzero()[:, 0]
    queries[found] = class_best.indices[found]
    for start in range(0, len(found), _CLASSES_AT_ONCE):
        classes = found[start : start + _CLASSES_AT_ONCE]
        covered = functional.interpolate(masks[queries[classes]][None].float(), size=size, mode="bilinear")[0]
        of_pixels = torch.where(covered >= _INSIDE, class_best.values[classes][:, None, None], _NO_SCORE).max(dim=0)
        wins = of_pixels.values > best  # not where scores are equal: the class that was named first stays
        labels = torch.where(wins, classes[of_pixels.indices], labels)
        best = torch.where(wins, of_pixels.values, best)
    return FoundRegions(labels, queries)
