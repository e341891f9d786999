import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ovseg_models.matching import LossWeights, matching_costs
from ovseg_models.matching import match_queries as match_outputs
from ovseg_models.targets import Targets, pack_targets

CLASSES = 5
SIZE = 4  # side of the mask logits; images are four times as wide


def draw(seed, queries, counts):
    """Random logits and targets of a batch with these numbers of targets."""
    generator = torch.Generator().manual_seed(seed)
    mask_logits = 3 * torch.randn(len(counts), queries, SIZE, SIZE, generator=generator)
    class_logits = 2 * torch.randn(len(counts), queries, CLASSES + 1, generator=generator)
    targets = [
        Targets(
            torch.randint(0, CLASSES, (count,), generator=generator),
            torch.rand(count, 4 * SIZE, 4 * SIZE, generator=generator) > 0.5,
        )
        for count in counts
    ]
    return mask_logits, class_logits, targets


def packed(targets):
    return pack_targets(
        targets,
        image_size=(4 * SIZE, 4 * SIZE),
        mask_size=(SIZE, SIZE),
        num_classes=CLASSES,
        device=torch.device("cpu"),
    )


def match_queries(mask_logits, class_logits, targets, *, weights):
    """Match one decoder output."""
    (matches,) = match_outputs([mask_logits], [class_logits], targets, weights=weights)
    return matches


def naive_cost(mask_logits, class_logits, class_id, mask, weights, counted=None):
    """The cost of one query for one target, pixel by pixel."""
    focal = overlap = area = 0.0
    pixels = list(itertools.product(range(SIZE), repeat=2))
    for row, column in pixels:
        if counted is not None and not counted[4 * row, 4 * column]:
            continue
        logit, truth = mask_logits[row, column].item(), mask[4 * row, 4 * column].item()
        prob = 1 / (1 + math.exp(-logit))
        if truth:
            focal += 0.25 * (1 - prob) ** 2 * -math.log(prob)
        else:
            focal += 0.75 * prob**2 * -math.log(1 - prob)
        overlap += prob * truth
        area += prob + truth
    exponentials = [math.exp(logit) for logit in class_logits.tolist()]
    class_prob = exponentials[class_id] / sum(exponentials)
    dice = 1 - (2 * overlap + 1) / (area + 1)
    return weights.focal * focal / len(pixels) + weights.dice * dice - weights.classification * class_prob


def assert_costs_equal_a_naive_twin(mask_logits, class_logits, targets, weights):
    costs = matching_costs(mask_logits, class_logits, packed(targets), weights=weights)
    for image, target in enumerate(targets):
        for query, slot in itertools.product(range(3), range(len(target.class_ids))):
            expected = naive_cost(
                mask_logits[image, query],
                class_logits[image, query],
                int(target.class_ids[slot]),
                target.masks[slot],
                weights,
                target.counted,
            )
            assert costs[image, query, slot].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("weights", [LossWeights(), LossWeights(classification=2.0, focal=0.5, dice=3.0)])
def test_costs_equal_a_naive_twin(weights):
    assert_costs_equal_a_naive_twin(*draw(0, queries=3, counts=(2, 0, 4)), weights)


def test_pixels_that_do_not_count_add_nothing_to_the_costs():
    mask_logits, class_logits, (first, second) = draw(1, queries=3, counts=(2, 3))
    counted = torch.rand(4 * SIZE, 4 * SIZE, generator=torch.Generator().manual_seed(1)) > 0.5
    left_out = Targets(first.class_ids, first.masks & counted, counted)
    assert_costs_equal_a_naive_twin(mask_logits, class_logits, [left_out, second], LossWeights())


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    queries=st.integers(1, 6),
    counts=st.lists(st.integers(0, 6), min_size=1, max_size=3),
)
def test_assignment_is_the_cheapest_of_all(seed, queries, counts):
    mask_logits, class_logits, targets = draw(seed, queries, counts)
    batch = packed(targets)
    matches = match_queries(mask_logits, class_logits, batch, weights=LossWeights())
    costs = matching_costs(mask_logits, class_logits, batch, weights=LossWeights())
    first = 0
    for image, count in enumerate(counts):
        of_image = matches.images == image
        found_queries = matches.queries[of_image].tolist()
        found_slots = (matches.targets[of_image] - first).tolist()
        first += count
        assert len(found_queries) == len(set(found_queries)) == len(set(found_slots)) == min(queries, count)
        assert found_slots == sorted(found_slots)
        found = costs[image][found_queries, found_slots].sum().item()
        assert found == pytest.approx(cheapest(costs[image, :, :count].tolist()), rel=1e-5, abs=1e-5)


def cheapest(costs):
    """The smallest sum over all one-to-one assignments."""
    if not costs[0]:
        return 0.0
    if len(costs) < len(costs[0]):
        costs = [list(column) for column in zip(*costs, strict=True)]
    rows = itertools.permutations(range(len(costs)), len(costs[0]))
    return min(sum(costs[row][column] for column, row in enumerate(chosen)) for chosen in rows)


def pairs(matches):
    rows = zip(matches.images.tolist(), matches.targets.tolist(), matches.queries.tolist(), strict=True)
    return {(image, target): query for image, target, query in rows}


@given(seed=st.integers(0, 10_000), order=st.permutations(range(6)))
@settings(deadline=None, max_examples=20)
def test_permuted_queries_permute_the_matches(seed, order):
    mask_logits, class_logits, targets = draw(seed, 6, (3, 5))
    batch = packed(targets)
    plain = pairs(match_queries(mask_logits, class_logits, batch, weights=LossWeights()))
    moved = pairs(match_queries(mask_logits[:, order], class_logits[:, order], batch, weights=LossWeights()))
    assert {place: order[query] for place, query in moved.items()} == plain


def test_a_batch_equals_its_images_alone():
    mask_logits, class_logits, targets = draw(3, 6, (4, 0, 2))
    together = match_queries(mask_logits, class_logits, packed(targets), weights=LossWeights())
    first = 0
    for image, target in enumerate(targets):
        alone = match_queries(
            mask_logits[image, None], class_logits[image, None], packed([target]), weights=LossWeights()
        )
        of_image = together.images == image
        assert torch.equal(together.queries[of_image], alone.queries)
        assert torch.equal(together.targets[of_image] - first, alone.targets)
        first += len(target.class_ids)


def test_several_outputs_are_matched_as_each_alone():
    outputs = [draw(seed, 5, (4, 0, 7)) for seed in (3, 4, 5)]
    batch = packed(outputs[0][2])
    together = match_outputs(
        [masks for masks, _, _ in outputs], [classes for _, classes, _ in outputs], batch, weights=LossWeights()
    )
    assert [len(matches.images) for matches in together] == [4 + 5] * 3
    for matches, (masks, classes, _) in zip(together, outputs, strict=True):
        alone = match_queries(masks, classes, batch, weights=LossWeights())
        assert all(
            torch.equal(found, single)
            for found, single in zip(vars(matches).values(), vars(alone).values(), strict=True)
        )


def test_no_targets_at_all_match_nothing():
    mask_logits, class_logits, targets = draw(0, 3, (0, 0))
    matches = match_queries(mask_logits, class_logits, packed(targets), weights=LossWeights())
    assert matches.images.shape == matches.queries.shape == matches.targets.shape == (0,)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_costs_that_are_not_finite_are_refused(value):
    mask_logits, class_logits, targets = draw(0, 3, (2, 1))
    mask_logits[1, 2] = value
    with pytest.raises(FloatingPointError, match="cost of query 2 for target 0 of image 1 is nan"):
        match_queries(mask_logits, class_logits, packed(targets), weights=LossWeights())
