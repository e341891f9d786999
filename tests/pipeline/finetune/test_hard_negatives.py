"""Hard negatives: the nearest nouns of other pictures, as a plain search finds them."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.finetune import hard_negatives
from pipeline.finetune.hard_negatives import NO_NOUN, HardNouns
from storage_schemas.pair_collection import PairCollection
from tests.pipeline.finetune.made_pairs import made_pairs


def plain_search(
    pairs: PairCollection, vectors: np.ndarray, number: int, *, count: int, max_cosine: float
) -> list[int]:
    noun, picture = pairs.noun_numbers[number], pairs.pictures[number]
    there = {pairs.noun_numbers[other] for other in range(len(pairs)) if pairs.pictures[other] == picture}
    cosines = {other: float(vectors[noun] @ vectors[other]) for other in range(len(vectors))}
    allowed = [other for other, cosine in cosines.items() if other not in there and cosine <= max_cosine]
    nearest = sorted(allowed, key=lambda other: (-cosines[other], other))[:count]
    return nearest + [NO_NOUN] * (count - len(nearest))


@pytest.mark.parametrize(("count", "max_cosine"), [(3, 0.4), (3, 1.0), (40, 0.2)])
def test_negatives_are_those_of_a_plain_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, max_cosine: float
) -> None:
    monkeypatch.setattr(hard_negatives, "_NOUNS_AT_ONCE", 4)
    pairs = PairCollection(made_pairs(tmp_path, scenes=8))
    vectors = np.random.default_rng(0).normal(size=(len(pairs.nouns), 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert len(pairs.nouns) > 10
    hard = HardNouns.of(pairs, vectors, count=count, max_cosine=max_cosine)
    count = min(count, len(vectors) - 1)  # no more than there are others
    for number, noun in enumerate(pairs.noun_numbers.tolist()):
        expected = plain_search(pairs, vectors, number, count=count, max_cosine=max_cosine)
        assert hard.of_pair(number, noun) == expected
        assert len(expected) == count
