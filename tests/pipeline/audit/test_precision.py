"""Precision from verdicts: against a naive sum, at its ends, and how often its interval holds the truth."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.precision import StratumCount, findings, stratified_share
from pipeline.audit.sample import order_of_looking, strata_of
from storage_schemas.verdicts import Verdict
from tests.pipeline.audit.test_sample import table

PAIRS, COUNT, SEEDS = 2000, 200, 200


def verdict(name: str, stratum: str, pairs: int, number: int) -> Verdict:
    return Verdict(pair=f"{number}", verdict=name, stratum=stratum, stratum_pairs=pairs, seed=0, manifest="m")


def test_the_share_is_that_of_the_strata_weighted_by_their_pairs():
    given_ = [verdict("right", "low score, small, rare noun", 300, number) for number in range(4)]
    given_ += [verdict("wrong mask", "low score, small, rare noun", 300, number) for number in range(4, 8)]
    given_ += [verdict("right", "high score, small, rare noun", 100, number) for number in range(8, 11)]
    given_ += [verdict("wrong noun", "high score, small, rare noun", 100, 11)]
    given_ += [verdict("skip", "high score, large, rare noun", 50, 12)]
    found = findings(given_)
    assert found.precision.share == pytest.approx((300 * 0.5 + 100 * 0.75) / 400)
    assert (found.precision.judged, found.precision.pairs, found.skipped) == (12, 400, 1)
    assert found.parts["high score"].share == found.strata["high score, small, rare noun"].share == 0.75
    assert found.parts["small"].share == found.precision.share
    assert found.verdicts == pytest.approx(
        {"right": 0.5625, "wrong mask": 0.375, "wrong noun": 0.0625, "names nothing": 0}
    )
    assert sum(found.verdicts.values()) == pytest.approx(1)


def test_no_verdict_or_none_but_skipped_ones_say_nothing():
    assert findings([]) is None
    assert findings([verdict("skip", "low score, small, rare noun", 9, 0)]) is None


def test_pairs_that_were_all_looked_at_have_no_interval():
    share = stratified_share([StratumCount(10, 10, 7), StratumCount(5, 5, 1)])
    assert share.share == share.low == share.high == pytest.approx(8 / 15)


@given(
    st.lists(
        st.tuples(st.integers(1, 500), st.integers(0, 40), st.integers(0, 40)).map(
            lambda row: StratumCount(row[0], min(row[0], row[1]), min(row[0], row[1], row[2]))
        ),
        min_size=1,
        max_size=12,
    )
)
def test_an_interval_lies_around_its_share_and_within_0_and_1(counts):
    share = stratified_share(counts)
    if share is None:
        assert all(count.judged == 0 for count in counts)
        return
    assert 0 <= share.low <= share.share + 1e-12
    assert share.share - 1e-12 <= share.high <= 1
    if any(0 < count.judged < count.pairs for count in counts):
        assert share.low < share.high


def test_a_few_verdicts_all_alike_leave_a_wide_interval():
    share = stratified_share([StratumCount(1000, 3, 3), StratumCount(1000, 3, 3)])
    assert share.share == 1
    assert share.low < 0.6


def test_the_interval_of_200_verdicts_holds_the_truth_in_at_least_93_of_100_seeds():
    """A simulated auditor, who knows the truth; tools/measure_audit.py does so on pairs of drawn scenes."""
    held, rules = Counter(), ("as mined", "nearly all right", "as the score")
    for seed in range(SEEDS):
        pairs, strata = table(PAIRS, seed), strata_of(table(PAIRS, seed), seed=seed)
        looked_at = np.zeros(PAIRS, bool)
        looked_at[order_of_looking(strata, COUNT)] = True
        place = pairs["score"].to_numpy().argsort().argsort() / PAIRS
        for rule, share in zip(rules, (0.4 + 0.44 * place, 0.9 + 0.1 * place, place), strict=True):
            right = np.random.default_rng([seed, 77, 5]).random(PAIRS) < share
            counts = [(len(each.rows), each.rows[looked_at[each.rows]]) for each in strata]
            found = stratified_share([StratumCount(size, len(rows), int(right[rows].sum())) for size, rows in counts])
            assert found.judged == COUNT
            assert found.high - found.low < 0.15
            held[rule] += bool(found.low <= right.mean() <= found.high)
    assert {rule: held[rule] >= 0.93 * SEEDS for rule in rules} == dict.fromkeys(rules, True), held
