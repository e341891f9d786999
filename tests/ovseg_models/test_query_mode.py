"""Each name gets its best proposal; the rest stays unlabelled."""

import pytest
import torch

from ovseg_models.class_names import Vocabulary
from ovseg_models.query_mode import UNLABELLED, find_regions, with_others


def left_right_masks() -> torch.Tensor:
    masks = torch.zeros(3, 4, 6, dtype=torch.bool)
    masks[0, :, :2] = True
    masks[1, :, 4:] = True
    return masks  # the third is empty


def naive_labels(scores, masks, names, size):
    """Section 2.5, a pixel at a time at the masks' own size."""
    labels = torch.full(size, UNLABELLED)
    for y in range(size[0]):
        for x in range(size[1]):
            best = -1.0
            for c, name in enumerate(names):
                candidates = [(float(scores[q, c]), -q) for q in range(len(masks)) if masks[q].any()]
                if name == "others" or not candidates:
                    continue
                score, query = max(candidates)
                if masks[-query, y, x] and score > best:
                    labels[y, x], best = c, score
    return labels


def test_regions_lie_where_their_proposals_are():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.6], [1.0, 1.0]])
    found = find_regions(scores, left_right_masks(), ["cat", "dog"], (4, 6))
    assert found.queries.tolist() == [0, 1]
    assert found.label_map.tolist() == [[0, 0, -1, -1, 1, 1]] * 4


def test_random_cases_equal_the_pixelwise_rule():
    generator = torch.Generator().manual_seed(0)
    for names in (["a"], ["a", "others"], ["a", "b", "c"], ["others", "b", "c", "d"]):
        masks = torch.rand(5, 6, 7, generator=generator) > 0.7
        masks[2] = False
        scores = torch.rand(5, len(names), generator=generator)
        found = find_regions(scores, masks, names, (6, 7))
        assert torch.equal(found.label_map, naive_labels(scores, masks, names, (6, 7)))


def test_others_competes_and_gets_no_region():
    scores = torch.tensor([[0.1, 0.9], [0.05, 0.95], [0.0, 1.0]])
    found = find_regions(scores, left_right_masks(), ["cat", "others"], (4, 6))
    assert found.queries.tolist() == [0, UNLABELLED]
    assert set(found.label_map.unique().tolist()) == {0, UNLABELLED}


def test_a_class_below_the_least_score_is_not_found():
    scores = torch.tensor([[0.9, 0.1], [0.2, 0.3], [0.0, 0.0]])
    found = find_regions(scores, left_right_masks(), ["cat", "dog"], (4, 6), min_score=0.5)
    assert found.queries.tolist() == [0, UNLABELLED]


def test_where_two_regions_overlap_the_higher_score_wins_and_equal_scores_give_the_first_class():
    masks = torch.ones(1, 2, 2, dtype=torch.bool)
    assert find_regions(torch.tensor([[0.4, 0.6]]), masks, ["a", "b"], (2, 2)).label_map.unique().tolist() == [1]
    assert find_regions(torch.tensor([[0.5, 0.5]]), masks, ["a", "b"], (2, 2)).label_map.unique().tolist() == [0]


def test_without_any_mask_nothing_is_found():
    for count in (0, 2):
        found = find_regions(torch.ones(count, 1), torch.zeros(count, 3, 3, dtype=torch.bool), ["cat"], (5, 5))
        assert found.queries.tolist() == [UNLABELLED]
        assert found.label_map.unique().tolist() == [UNLABELLED]


def test_regions_keep_their_area_at_another_size():
    scores = torch.tensor([[0.9], [0.1], [0.0]])
    found = find_regions(scores, left_right_masks(), ["cat"], (40, 60))
    assert int((found.label_map == 0).sum()) == 40 * 20


def test_a_single_name_is_compared_with_others():
    assert with_others(Vocabulary.of(["oculus"])) == Vocabulary.of(["oculus", "others"])
    assert with_others(Vocabulary.of(["eye|oculus"])) == Vocabulary.of(["eye|oculus", "others"])
    for several in (["oculus", "ukulele"], ["others"]):
        assert with_others(Vocabulary.of(several)) == Vocabulary.of(several)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"scores are \(3, 1\) .* for 3 masks and 2 names"):
        find_regions(torch.ones(3, 1), left_right_masks(), ["cat", "dog"], (4, 6))
