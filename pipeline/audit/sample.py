"""Which pairs are looked at: drawn by lot from each stratum, in proportion to its pairs.

A stratum is a third of the scores, a half of the areas and a half of the nouns' frequencies: up to twelve. Each has an
order of its own, drawn by the seed alone. So a larger sample begins with the smaller one, a resumed audit goes on with
the same pairs, and one that ends early has looked at all strata nearly in proportion.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_SCORES = ("low score", "middle score", "high score")
_AREAS = ("small", "large")
_NOUNS = ("rare noun", "frequent noun")
PARTS = (*_SCORES, *_AREAS, *_NOUNS)
STRATA = tuple(f"{score}, {area}, {noun}" for score in _SCORES for area in _AREAS for noun in _NOUNS)


@dataclass(frozen=True, eq=False)
class Stratum:
    """A part of the pairs.

    Attributes:
        name: Its parts of score, area and noun, joined by commas.
        rows: Rows of its pairs in the table that was sampled, in the order of the draw [pair].
    """

    name: str
    rows: npt.NDArray[np.int64]


def strata_of(pairs: pa.Table, *, seed: int) -> list[Stratum]:
    """Part pairs into strata, and draw the order of each.

    Args:
        pairs: The columns ``noun``, ``score``, ``area_px``, ``height_px`` and ``width_px`` of usable pairs.
    """
    if not pairs.num_rows:
        return []
    numbers = {name: pairs[name].cast(pa.float64()).to_numpy() for name in ("area_px", "height_px", "width_px")}
    score = np.nan_to_num(pairs["score"].cast(pa.float64()).to_numpy(), nan=0.0)  # imported pairs may have none
    share = numbers["area_px"] / (numbers["height_px"] * numbers["width_px"])
    nouns, of_pair = np.unique(np.array(pairs["noun"].to_pylist(), object).astype(str), return_inverse=True)
    frequency = np.bincount(of_pair, minlength=len(nouns))[of_pair]
    parts = [_parts(score, _SCORES), _parts(share, _AREAS), _parts(frequency.astype(np.float64), _NOUNS)]
    numbered = np.ravel_multi_index(tuple(parts), (len(_SCORES), len(_AREAS), len(_NOUNS)))
    found = []
    for number, name in enumerate(STRATA):
        rows = np.flatnonzero(numbered == number)
        if len(rows):
            found.append(Stratum(name, np.random.default_rng([seed, number]).permutation(rows)))
    return found


def _parts(values: npt.NDArray[np.float64], names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return the quantile's number of each value; equal values are in one part."""
    edges = np.quantile(values, np.arange(1, len(names)) / len(names))
    return np.searchsorted(edges, values, side="left")


def allocation(sizes: Sequence[int], count: int) -> list[int]:
    """Share a sample out among strata in proportion to their pairs, at least one of each if the sample suffices.

    Args:
        sizes: Pairs of each stratum.
        count: Pairs to look at; more than there are is all of them.
    """
    total, count = sum(sizes), min(count, sum(sizes))
    least = 1 if count >= len(sizes) else 0
    exact = [count * size / total for size in sizes]
    shares = [max(least, int(share)) for share in exact]
    while (missing := count - sum(shares)) != 0:
        step = 1 if missing > 0 else -1
        open_to_it = [
            place
            for place, size in enumerate(sizes)
            if least <= shares[place] + step <= size  # what ``least`` took is given back by the largest
        ]
        shares[max(open_to_it, key=lambda place: step * (exact[place] - shares[place]))] += step
    return shares


def order_of_looking(strata: Sequence[Stratum], count: int, skipped: Collection[int] = ()) -> list[int]:
    """Return the rows to look at, in turn from all strata; for one that was skipped its stratum's next one is taken.

    Args:
        count: Pairs to look at.
        skipped: Rows of pairs of which nothing could be said.
    """
    shares = allocation([len(stratum.rows) for stratum in strata], count)
    turns = []
    for number, (stratum, share) in enumerate(zip(strata, shares, strict=True)):
        usable = [row for row in stratum.rows[: share + len(skipped)].tolist() if row not in skipped][:share]
        turns += [((place + 0.5) / share, number, row) for place, row in enumerate(usable)]
    return [row for _, _, row in sorted(turns)]
