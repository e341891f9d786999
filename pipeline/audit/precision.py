"""From verdicts to the share of right pairs, with an interval that holds it.

Of each stratum the share among those looked at, weighted by the stratum's pairs: the usual stratified estimate. Its
interval is Wilson's, for as many pairs drawn from the whole as would have the same variance. Few verdicts in a stratum,
all of them alike, would seem to have no variance: there the share is drawn a little towards that of the whole. How
often the interval holds the truth is measured by tools/measure_audit.py; see docs/start/using_pairs.md.

References:
    Cochran, Sampling Techniques, 1977, chapter 5; Wilson, 1927.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import NamedTuple

from pipeline.audit.sample import PARTS, STRATA
from storage_schemas.digests import Json
from storage_schemas.verdicts import NAMES, RIGHT, SKIP, Verdict

_CONFIDENCE = 0.95
_FREEDOM_MIN = 8  # fewer verdicts are for a beginning's sake, and Student's t would answer 0 % to 100 %
_DRAWN_TO_THE_WHOLE = 2.0  # verdicts' worth, in each stratum; measured: 1 holds the truth too rarely at 50 verdicts


class StratumCount(NamedTuple):
    """Verdicts of one stratum.

    Attributes:
        pairs: It has so many.
        judged: Of these were looked at, and something could be said.
        right: Of these were found right.
    """

    pairs: int
    judged: int
    right: int


class Share(NamedTuple):
    """A share of pairs, and the 95 % interval around it.

    Attributes:
        pairs: Of so many pairs.
        judged: Verdicts that it follows from.
    """

    share: float
    low: float
    high: float
    judged: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What verdicts say of pairs.

    Attributes:
        precision: Share of right pairs.
        verdicts: Share of each verdict, skipped pairs left out.
        parts: Precision of the parts by score, area and frequency of the noun.
        strata: Precision of each stratum.
        skipped: Pairs of which nothing could be said.
    """

    precision: Share
    verdicts: Mapping[str, float]
    parts: Mapping[str, Share]
    strata: Mapping[str, Share]
    skipped: int

    def to_json(self) -> dict[str, Json]:
        """Return them as JSON values."""
        shares: dict[str, Json] = {
            "precision": self.precision._asdict(),
            "parts": {name: share._asdict() for name, share in self.parts.items()},
            "strata": {name: share._asdict() for name, share in self.strata.items()},
        }
        return {**asdict(self), **shares}


def stratified_share(counts: Sequence[StratumCount]) -> Share | None:
    """Estimate the share of right pairs in some strata; those without a verdict are left out.

    Returns:
        None where no stratum has a verdict.
    """
    from scipy import stats  # takes a second, and a run is planned without

    counts = [count for count in counts if count.judged]
    if not counts:
        return None
    pairs, judged = sum(count.pairs for count in counts), sum(count.judged for count in counts)
    share = math.fsum(count.pairs / pairs * count.right / count.judged for count in counts)
    variance, of_a_half = 0.0, 0.0  # of the estimate; and what it would be at most
    for count in counts:
        drawn = (count.right + _DRAWN_TO_THE_WHOLE * share) / (count.judged + _DRAWN_TO_THE_WHOLE)
        unseen = 1 - count.judged / count.pairs  # a stratum that was looked at whole has no variance
        per_verdict = (count.pairs / pairs) ** 2 * unseen / count.judged
        variance += per_verdict * drawn * (1 - drawn)
        of_a_half += per_verdict / 4
    if of_a_half == 0:
        return Share(share, share, share, judged, pairs)
    spread = share * (1 - share)
    # At a share of 0 or 1 no variance is seen: there the weights alone decide.
    effective = spread / variance if variance > 0 and 0 < share < 1 else 0.25 / of_a_half
    quantile = float(stats.t.ppf((1 + _CONFIDENCE) / 2, max(_FREEDOM_MIN, judged - len(counts))))
    return Share(share, *_wilson(share, effective, quantile), judged, pairs)


def _wilson(share: float, count: float, quantile: float) -> tuple[float, float]:
    """Return the ends of Wilson's interval."""
    squared = quantile**2 / count
    middle, half = share + squared / 2, math.sqrt(share * (1 - share) * squared + squared**2 / 4)
    return max(0.0, (middle - half) / (1 + squared)), min(1.0, (middle + half) / (1 + squared))


def findings(verdicts: Sequence[Verdict]) -> Findings | None:
    """Sum verdicts up; None if none of them says anything."""
    judged = [verdict for verdict in verdicts if verdict.verdict != SKIP]
    sizes = {verdict.stratum: verdict.stratum_pairs for verdict in judged}
    found: Counter[tuple[str, str]] = Counter((verdict.stratum, verdict.verdict) for verdict in judged)
    looked_at = Counter(verdict.stratum for verdict in judged)

    def share(name: str, belongs: Callable[[str], bool]) -> Share | None:
        return stratified_share(
            [StratumCount(sizes[each], looked_at[each], found[each, name]) for each in sizes if belongs(each)]
        )

    whole = share(RIGHT, lambda _: True)
    if whole is None:
        return None
    of_parts = {part: share(RIGHT, lambda stratum, part=part: part in stratum.split(", ")) for part in PARTS}  # type: ignore[misc]
    of_strata = {name: share(RIGHT, name.__eq__) for name in STRATA if name in sizes}
    of_verdicts = {name: share(name, lambda _: True) for name in NAMES if name != SKIP}
    return Findings(
        precision=whole,
        verdicts={name: each.share for name, each in of_verdicts.items() if each is not None},
        parts={name: each for name, each in of_parts.items() if each is not None},
        strata={name: each for name, each in of_strata.items() if each is not None},
        skipped=len(verdicts) - len(judged),
    )


def in_lines(found: Findings) -> list[tuple[str, str, str, str]]:
    """Return what is shown of findings, as rows of a table: name, precision, its interval, verdicts of pairs."""
    rows = {"all": found.precision, **found.parts, **found.strata}
    return [
        (name, f"{row.share:.1%}", f"{row.low:.1%} to {row.high:.1%}", f"{row.judged:,} of {row.pairs:,}")
        for name, row in rows.items()
    ]
