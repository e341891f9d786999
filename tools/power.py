"""How many seeds and test scenes show a difference: the power of the comparisons of the drawn world's tables.

Rows are compared seed by seed, by Student's t on the differences (`tools.paper_tables_page`). Whether a difference
shows depends on its size, on the number of seeds and on how much it varies from seed to seed, which earlier seeds say.
"""

import math
import statistics
from collections.abc import Sequence

from scipy import stats

MOST_SEEDS = 10_000
POWERS = (0.8, 0.9)


def power(effect: float, deviation: float, seeds: int) -> float:
    """Return the probability that the whole 95 % interval of the mean difference is on the effect's side of 0.

    Args:
        effect: True difference [percentage points].
        deviation: Standard deviation of the differences between seeds [percentage points], above 0.
        seeds: At least 2.
    """
    freedom = seeds - 1
    shift = abs(effect) / deviation * math.sqrt(seeds)
    return float(stats.nct.sf(stats.t.ppf(0.975, freedom), freedom, shift))


def seeds_for(effect: float, deviation: float, at_least: float) -> int | None:
    """Return the fewest seeds with which `power` reaches a probability; None if more than ``MOST_SEEDS`` are needed."""
    low, high = 1, 2  # power at ``low`` is too small, as far as it is known
    while power(effect, deviation, high) < at_least:
        low, high = high, 2 * high
        if low >= MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(effect, deviation, middle) < at_least else (low, middle)
    return high if high <= MOST_SEEDS else None


def deviation_bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the standard deviation of normal values, by chi-square: a few seeds say little."""
    freedom = len(values) - 1
    squares = freedom * statistics.variance(values)
    low, high = (math.sqrt(squares / float(stats.chi2.ppf(share, freedom))) for share in (0.975, 0.025))
    return low, high


def smallest_shown(deviation: float, seeds: int, at_least: float) -> float:
    """Return the smallest true difference that shows with a probability [percentage points], to 0.05 upwards."""
    steps = 1
    while power(0.05 * steps, deviation, seeds) < at_least:
        steps += 1
    return 0.05 * steps


def power_table(comparisons: Sequence[tuple[str, float, Sequence[float]]]) -> str:
    """Write for each comparison how many seeds show the paper's difference, and half of it, and what these seeds show.

    Args:
        comparisons: In words, the paper's difference, and those seed by seed [percentage points]. One with fewer than
            two seeds, or without any spread, is left out.
    """
    heads = (
        *("comparison", "paper", "seeds", "deviation between seeds", "seeds for the paper's size: 80 %, 90 %"),
        *("for half of it: 80 %, 90 %", "these seeds show 80 % of the time"),
    )
    rows = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for text, of_paper, values in comparisons:
        if len(values) < 2 or statistics.stdev(values) == 0:
            continue
        deviation = statistics.stdev(values)
        low, high = deviation_bounds(values)
        needed = [
            ", ".join(_count(seeds_for(effect, deviation, at_least)) for at_least in POWERS)
            for effect in (of_paper, of_paper / 2)
        ]
        shown = smallest_shown(deviation, len(values), POWERS[0])
        cells = [
            *(text, f"{of_paper:+.1f}", f"{len(values)}", f"{deviation:.2f} ({low:.2f} to {high:.2f})"),
            *(*needed, f"{shown:.2f}"),
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _count(seeds: int | None) -> str:
    return f"over {MOST_SEEDS:,}" if seeds is None else f"{seeds:,}"
