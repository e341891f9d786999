"""The rules that sift masks, against plain twins on arrays of pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.import_masks.rules import RankedMask, sifted
from pipeline.settings import MaskRuleSettings
from storage_schemas.rle import decode_masks, encode_masks

SIZE = (12, 10)


def ranked(masks, scores=None, categories=None) -> list[RankedMask]:
    counts = encode_masks(np.array(masks, bool))
    scores = scores or [1.0] * len(masks)
    categories = categories or [None] * len(masks)
    return [
        RankedMask(query, code, int(np.sum(mask)), score, category)
        for query, (code, mask, score, category) in enumerate(zip(counts, masks, scores, categories, strict=True))
    ]


def applied(masks, scores=None, categories=None, **rules):
    kept, counted = sifted(ranked(masks, scores, categories), MaskRuleSettings(**rules), *SIZE)
    return [mask.query for mask in kept], dict(counted)


def box(top, left, height, width) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def test_no_rule_drops_nothing():
    masks = [box(0, 0, 12, 10), box(0, 0, 1, 1), box(0, 0, 12, 10)]
    assert applied(masks) == ([0, 1, 2], {})


def test_shares_of_the_picture():
    masks = [box(0, 0, 12, 10), box(0, 0, 6, 10), box(0, 0, 1, 6), box(0, 0, 1, 5)]  # 100 %, 50 %, 5 %, 4.2 %
    assert applied(masks, min_share=0.05, max_share=0.5) == ([1, 2], {"min_share": 1, "max_share": 1})


def test_of_duplicates_the_one_with_the_higher_score_stays_then_the_larger_then_the_earlier():
    masks = [box(0, 0, 5, 10), box(0, 0, 6, 10), box(0, 0, 5, 10)]
    assert applied(masks, [0.5, 0.5, 0.9], duplicate_iou=0.8) == ([2], {"duplicate_iou": 2})
    assert applied(masks, [0.5, 0.5, 0.5], duplicate_iou=0.8)[0] == [1]
    assert applied([masks[0], masks[2]], duplicate_iou=0.8)[0] == [0]


def test_what_lies_in_a_larger_mask_is_dropped_whatever_its_score():
    masks = [box(0, 0, 3, 3), box(0, 0, 6, 6), box(5, 5, 3, 3)]
    assert applied(masks, [0.9, 0.1, 0.5], contained_share=0.9) == ([1, 2], {"contained_share": 1})


def test_parts_are_joined_to_their_whole():
    masks = [box(0, 0, 3, 3), box(0, 0, 6, 6), box(2, 0, 5, 3), box(9, 9, 1, 1)]
    kept, counted = sifted(ranked(masks, [0.2, 0.1, 0.7, 0.3]), MaskRuleSettings(merge_overlap=0.7), *SIZE)
    assert [mask.query for mask in kept] == [0, 3]
    assert counted == {"merge_overlap": 2}
    np.testing.assert_array_equal(decode_masks([kept[0].counts], *SIZE)[0], masks[1] | masks[2])
    assert (kept[0].score, kept[0].area_px) == (0.7, int((masks[1] | masks[2]).sum()))


def test_masks_of_one_category_become_one_region():
    masks = [box(0, 0, 2, 2), box(5, 5, 2, 2), box(9, 9, 1, 1), box(8, 0, 1, 1)]
    kept, counted = sifted(ranked(masks, None, ["7", "7", None, None]), MaskRuleSettings(merge_categories=True), *SIZE)
    assert [mask.query for mask in kept] == [0, 2, 3]
    assert kept[0].area_px == 8
    assert counted == {"merge_categories": 1}


def test_at_most_so_many_masks_the_best_ones_in_the_order_of_the_source():
    masks = [box(row, 0, 1, 1) for row in range(5)]
    assert applied(masks, [0.1, 0.9, 0.5, 0.7, 0.2], max_masks=3) == ([1, 2, 3], {"max_masks": 2})


def test_shares_that_exclude_each_other_are_refused():
    with pytest.raises(ValidationError, match=r"max_share 0.1 should be at least min_share 0.2"):
        MaskRuleSettings(min_share=0.2, max_share=0.1)


@given(st.integers(0, 2**31), st.sampled_from([0.2, 0.5, 0.8]))
@settings(max_examples=40)
def test_rules_equal_twins_on_pixels(seed, limit):
    rng = np.random.default_rng(seed)
    masks = [box(rng.integers(0, 8), rng.integers(0, 7), rng.integers(1, 5), rng.integers(1, 4)) for _ in range(9)]
    scores = rng.permutation(9).astype(float).tolist()
    order = sorted(range(9), key=lambda place: -scores[place])
    expected: list[int] = []
    for place in order:
        same = [(masks[place] & masks[one]).sum() / (masks[place] | masks[one]).sum() for one in expected]
        expected += [place] if all(overlap <= limit for overlap in same) else []
    assert applied(masks, scores, duplicate_iou=limit)[0] == sorted(expected)
    kept: list[int] = []
    for place in sorted(order, key=lambda place: -masks[place].sum()):
        if all((masks[place] & masks[one]).sum() / masks[place].sum() <= limit for one in kept):
            kept.append(place)
    assert applied(masks, scores, contained_share=limit)[0] == sorted(kept)
    groups = {place: {place} for place in range(9)}
    for one in range(9):
        for other in range(one):
            shared, smaller = (masks[one] & masks[other]).sum(), min(masks[one].sum(), masks[other].sum())
            if shared / smaller > limit:
                union = groups[one] | groups[other]
                groups |= dict.fromkeys(union, union)
    found, _ = sifted(ranked(masks, scores), MaskRuleSettings(merge_overlap=limit), *SIZE)
    expected_masks = {min(group): np.logical_or.reduce([masks[place] for place in group]) for group in groups.values()}
    assert [mask.query for mask in found] == sorted(expected_masks)
    for mask in found:
        np.testing.assert_array_equal(decode_masks([mask.counts], *SIZE)[0], expected_masks[mask.query])


@given(st.integers(0, 2**31))
@settings(max_examples=20)
def test_the_order_of_the_source_does_not_matter_where_scores_differ(seed):
    rng = np.random.default_rng(seed)
    masks = [box(rng.integers(0, 8), rng.integers(0, 7), rng.integers(1, 5), rng.integers(1, 4)) for _ in range(8)]
    rules = MaskRuleSettings(min_share=0.02, duplicate_iou=0.7, contained_share=0.8, max_masks=5)
    of_source = ranked(masks, rng.permutation(8).astype(float).tolist())
    shuffled = [of_source[place] for place in rng.permutation(8)]
    assert sifted(of_source, rules, *SIZE) == sifted(shuffled, rules, *SIZE)
