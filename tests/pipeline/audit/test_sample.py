"""The draw: every stratum in proportion, the same again, a larger sample begins with the smaller one."""

from collections import Counter

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline.audit.sample import allocation, order_of_looking, strata_of


def table(pairs: int, seed: int = 0) -> pa.Table:
    """Draw pairs whose scores, areas and nouns differ."""
    draw = np.random.default_rng(seed)
    return pa.table(
        {
            "noun": [f"noun {number}" for number in draw.geometric(0.2, pairs)],
            "score": draw.normal(0.25, 0.05, pairs).astype(np.float32),
            "area_px": draw.integers(1, 160 * 160, pairs),
            "height_px": np.full(pairs, 160, np.int32),
            "width_px": np.full(pairs, 160, np.int32),
        }
    )


def test_strata_hold_each_pair_once_and_are_what_their_names_say():
    pairs = table(900)
    strata = strata_of(pairs, seed=3)
    assert len(strata) == 12
    assert sorted(np.concatenate([stratum.rows for stratum in strata]).tolist()) == list(range(900))
    scores, counts = pairs["score"].to_numpy(), Counter(pairs["noun"].to_pylist())
    low = [row for stratum in strata if "low score" in stratum.name for row in stratum.rows]
    high = [row for stratum in strata if "high score" in stratum.name for row in stratum.rows]
    assert len(low) == len(high) == 300
    assert scores[low].max() <= scores[high].min()
    rare = [counts[pairs["noun"][int(row)].as_py()] for each in strata if "rare" in each.name for row in each.rows]
    often = [counts[pairs["noun"][int(row)].as_py()] for each in strata if "frequent" in each.name for row in each.rows]
    assert max(rare) < min(often)


def test_pairs_without_scores_are_one_part():
    pairs = table(40).drop_columns(["score"]).append_column("score", pa.nulls(40, pa.float32()))
    assert {stratum.name.split(", ")[0] for stratum in strata_of(pairs, seed=0)} == {"low score"}


def test_the_draw_is_of_the_seed_alone():
    orders = [order_of_looking(strata_of(table(500), seed=seed), 100) for seed in (1, 1, 2)]
    assert orders[0] == orders[1]
    assert set(orders[0]) != set(orders[2])


@given(st.lists(st.integers(1, 400), min_size=1, max_size=12), st.integers(1, 600))
def test_a_sample_is_shared_out_in_proportion(sizes, count):
    shares = allocation(sizes, count)
    total, least = min(count, sum(sizes)), 1 if count >= len(sizes) else 0
    assert sum(shares) == total
    assert all(least <= share <= size for share, size in zip(shares, sizes, strict=True))
    exact = [total * size / sum(sizes) for size in sizes]
    raised = sum(max(0.0, least - part) for part in exact)  # what the small strata took from the large ones
    assert all(abs(share - part) < 1 + raised for share, part in zip(shares, exact, strict=True))


def test_a_larger_sample_looks_at_the_smaller_ones_pairs_and_any_beginning_is_mixed():
    strata = strata_of(table(900), seed=0)
    assert set(order_of_looking(strata, 100)) < set(order_of_looking(strata, 300))
    of_row = {row: number for number, stratum in enumerate(strata) for row in stratum.rows.tolist()}
    beginning = Counter(of_row[row] for row in order_of_looking(strata, 240)[:60])
    expected = {number: 60 * len(stratum.rows) / 900 for number, stratum in enumerate(strata)}
    assert all(abs(beginning[number] - share) < 2 for number, share in expected.items())


def test_a_skipped_pair_is_replaced_by_one_of_its_stratum():
    strata = strata_of(table(900), seed=0)
    order = order_of_looking(strata, 60)
    of_row = {row: number for number, stratum in enumerate(strata) for row in stratum.rows.tolist()}
    again = order_of_looking(strata, 60, {order[7]})
    (new,) = set(again) - set(order)
    assert set(order) - set(again) == {order[7]}
    assert of_row[new] == of_row[order[7]]
