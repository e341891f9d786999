"""Which region each noun of a scene gets, from embeddings alone (OVSeg, section 3.2)."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class BestRegion(NamedTuple):
    """The region of one noun.

    Attributes:
        place: Which of the scene's regions.
        score: Cosine of image and text embedding, rounded to single precision.
        margin: Score minus that of the best other region; None where there is no other. Below 0 only where the region
            was given and another one is nearer.
        rank: Place of this noun among the scene's nouns by score, from 0; equal scores in order of the nouns.
    """

    place: int
    score: float
    margin: float | None
    rank: int


def cosine_scores(texts: npt.NDArray[np.float32], images: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """Return the cosine of each noun with each region [noun region].

    The sums are taken in double precision and without BLAS, whose order of summing depends on the machine's threads.

    Args:
        texts: L2-normalised [noun dim].
        images: L2-normalised [region dim].
    """
    scores: npt.NDArray[np.float64] = np.einsum("nd,rd->nr", texts.astype(np.float64), images.astype(np.float64))
    return scores


def best_regions(
    scores: npt.NDArray[np.float64], usable: npt.NDArray[np.bool_], given: Sequence[int | None]
) -> list[BestRegion | None]:
    """Give each noun the region with the highest score, the first of several.

    Args:
        scores: [noun region]; what is not finite counts for nothing.
        usable: Whether a region has an embedding [region].
        given: Place of a noun's region where that is known, as with ground truth; else None.

    Returns:
        Per noun its region; None if no usable region has a finite score, or the given one has none.
    """
    finite = np.isfinite(scores) & usable
    ranked = np.where(finite, scores, -np.inf)
    chosen = [
        _choice(ranked[noun], finite[noun], place) if finite.shape[1] else None for noun, place in enumerate(given)
    ]
    found = [noun for noun, choice in enumerate(chosen) if choice is not None]
    by_score = sorted(found, key=lambda noun: -ranked[noun, chosen[noun]])
    ranks = {noun: rank for rank, noun in enumerate(by_score)}
    return [
        None if place is None else BestRegion(place, *_score_and_margin(ranked[noun], place), ranks[noun])
        for noun, place in enumerate(chosen)
    ]


def _choice(ranked: npt.NDArray[np.float64], finite: npt.NDArray[np.bool_], given: int | None) -> int | None:
    """Choose a noun's region."""
    place = int(ranked.argmax()) if given is None else given
    return place if finite[place] else None


def _score_and_margin(ranked: npt.NDArray[np.float64], place: int) -> tuple[float, float | None]:
    """Return the score of a region, and how far it is above the best other one."""
    others = np.delete(ranked, place)
    best_other = others.max() if len(others) else -np.inf
    margin = float(np.float32(ranked[place] - best_other)) if np.isfinite(best_other) else None
    return float(np.float32(ranked[place])), margin
