"""Hard negatives of stage 3: nouns of other pictures that CLIP's text tower puts near a pair's own."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage_schemas.pair_collection import Pairs

_NOUNS_AT_ONCE = 1024
NO_NOUN = -1


@dataclass(frozen=True)
class HardNouns:
    """Which nouns a pair is compared with; picklable.

    Attributes:
        count: For each pair at most.
        nearest: Other nouns of each noun, the nearest first, ``NO_NOUN`` where there are fewer [noun candidate].
        in_picture: Nouns of each pair's picture, which may well be in its region too.
    """

    count: int
    nearest: npt.NDArray[np.int64]
    in_picture: tuple[frozenset[int], ...]

    @classmethod
    def of(cls, pairs: Pairs, noun_embeddings: npt.NDArray[Any], *, count: int, max_cosine: float) -> "HardNouns":
        """Rank the nouns of all pairs.

        Args:
            pairs: Of the training.
            noun_embeddings: L2-normalised, in the order of their nouns [noun dim].
            count: Negatives of a pair.
            max_cosine: A noun nearer than this to the pair's own is taken for the same thing and left out.
        """
        nouns_of: dict[str, set[int]] = defaultdict(set)
        for picture, noun in zip(pairs.pictures, pairs.noun_numbers.tolist(), strict=True):
            nouns_of[picture].add(noun)
        shared = {picture: frozenset(nouns) for picture, nouns in nouns_of.items()}
        count = min(count, len(noun_embeddings) - 1)
        # So many candidates that a picture's own nouns, left out pair by pair, leave enough.
        most = min(count + max(map(len, shared.values())), len(noun_embeddings))
        vectors = noun_embeddings.astype(np.float64)
        nearest = np.full((len(vectors), most), NO_NOUN)
        for first in range(0, len(vectors), _NOUNS_AT_ONCE):
            rows = np.arange(first, min(first + _NOUNS_AT_ONCE, len(vectors)))
            cosines = vectors[rows] @ vectors.T  # [row noun]
            cosines[np.arange(len(rows)), rows] = np.inf  # itself
            cosines[cosines > max_cosine] = -np.inf
            order = np.argsort(-cosines, axis=1, kind="stable")[:, :most]  # of equal ones the first by name
            found = np.isfinite(np.take_along_axis(cosines, order, axis=1))
            nearest[rows] = np.where(found, order, NO_NOUN)
        return cls(count, nearest, tuple(shared[picture] for picture in pairs.pictures))

    def of_pair(self, number: int, noun: int) -> list[int]:
        """Return the negatives of a pair, ``NO_NOUN`` in the places that are left."""
        others = [other for other in self.nearest[noun].tolist() if other not in self.in_picture[number]]
        return (others + [NO_NOUN] * self.count)[: self.count]
