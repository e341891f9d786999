"""Which region a noun gets: against a naive twin, and what ties, gaps and given regions do."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.mine.best_regions import BestRegion, best_regions, cosine_scores


def naive(scores, usable, given_places):
    """One noun at a time, one region at a time."""
    chosen = []
    for noun, place in enumerate(given_places):
        candidates = [
            (score, -region)
            for region, score in enumerate(scores[noun].tolist())
            if usable[region] and math.isfinite(score)
        ]
        if place is not None:
            candidates_here = [one for one in candidates if -one[1] == place]
        else:
            candidates_here = sorted(candidates, reverse=True)[:1]
        if not candidates_here:
            chosen.append(None)
            continue
        score, region = candidates_here[0][0], -candidates_here[0][1]
        others = [one for one, other in candidates if -other != region]
        chosen.append((region, score, score - max(others) if others else None))
    order = sorted(
        (noun for noun, one in enumerate(chosen) if one is not None), key=lambda noun: (-chosen[noun][1], noun)
    )
    return [
        None
        if one is None
        else BestRegion(
            one[0],
            float(np.float32(one[1])),
            None if one[2] is None else float(np.float32(one[2])),
            order.index(noun),
        )
        for noun, one in enumerate(chosen)
    ]


# A few values only, so that ties are common.
_SCORE = st.sampled_from([-0.5, 0.0, 0.25, 0.3, 1.0, math.nan, math.inf, -math.inf])


@given(st.data(), st.integers(0, 4), st.integers(0, 5))
def test_equals_the_naive_twin(data, nouns, regions):
    scores = data.draw(arrays(np.float64, (nouns, regions), elements=_SCORE))
    usable = data.draw(arrays(np.bool_, regions))
    place = st.none() if regions == 0 else st.none() | st.integers(0, regions - 1)
    places = data.draw(st.lists(place, min_size=nouns, max_size=nouns))
    assert best_regions(scores, usable, places) == naive(scores, usable, places)


def test_of_equal_scores_the_lowest_query_wins():
    (best,) = best_regions(np.array([[0.1, 0.4, 0.4]]), np.ones(3, bool), [None])
    assert best == BestRegion(1, float(np.float32(0.4)), 0.0, 0)


def test_scores_are_cosines_whatever_the_batch():
    rng = np.random.default_rng(0)
    texts = rng.normal(size=(7, 96)).astype(np.float32)
    images = rng.normal(size=(11, 96)).astype(np.float16)
    scores = cosine_scores(texts, images)
    np.testing.assert_allclose(scores, texts.astype(float) @ images.astype(float).T, rtol=1e-12)
    np.testing.assert_array_equal(scores[2:5], cosine_scores(texts[2:5], images))
