"""From 1 to 1,000 names on one encoded picture: times and memory of naming it again.

Run alone: ``python -m tests.benchmarks.bench_names``; about a minute. A picture of 640 x 961 px, 100 masks as a trained
net gives them, vectors of the names in memory; all that is left of `Segmenter.segment` for an encoded picture: logits
of both branches, ensemble, fusion, labels. The ratio is of CPU times on two threads, taken in turns, to one name's,
which goes the same way; memory is the process's beyond what it held before, from Linux's /proc. Vectors are around
those of the masks' own classes, as texts are, or random, which no model gives: the hard case, in which all names are
about as likely. Classes left per tile are counted, too. Set OMP_WAIT_POLICY=passive where the machine does other work.
"""

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

import torch
from torch.nn import functional

from ovseg_models import fusion
from ovseg_models.fusion import classify, fused_labels, fused_scores
from tests.benchmarks.bench_fusion import NET_SIZE, PHOTO_SIZE, QUERIES, Cost, cost_of
from tests.proposal_shapes import ellipse_logits

DIM, OWN_CLASSES, REPEATS = 512, 40, 5
COUNTS = (1, 10, 100, 1000)


class Case(NamedTuple):
    """What is named.

    Attributes:
        name: In words.
        masks: Logits of the masks.
        regions: Embedding of each mask, of unit length [query dim].
        texts: Of all names [name dim].
    """

    name: str
    masks: torch.Tensor
    regions: torch.Tensor
    texts: torch.Tensor


def cases() -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    ellipses = ellipse_logits(QUERIES, *NET_SIZE)
    noise = 3 * torch.randn(1, QUERIES, 21, 31, generator=generator)
    noisy = ellipses + functional.interpolate(noise, size=ellipses.shape[1:], mode="bilinear")[0]
    texts = functional.normalize(torch.randn(max(COUNTS), DIM, generator=generator), dim=1)
    own = torch.randint(OWN_CLASSES, (QUERIES,), generator=generator)
    # A mask's cosine with its own class is some 0.3, with others about 0: 20 of logits of 100 times the cosine.
    regions = torch.randn(QUERIES, DIM, generator=generator) / DIM**0.5 + 0.3 * texts[own]
    named = functional.normalize(regions, dim=1)
    random = functional.normalize(torch.randn(QUERIES, DIM, generator=generator), dim=1)
    yield Case("masks as a net's, names as CLIP's", ellipses, named, texts)
    yield Case("noisy masks, names as CLIP's", noisy, named, texts)
    yield Case("masks as a net's, random vectors at a tenth of the temperature", ellipses, random / 10, texts)


def labels_of(case: Case, names: int) -> torch.Tensor:
    """Name the masks, as the segmenter does for an encoded picture."""
    return fused_labels(scores_of(case, names), case.masks, net_size=NET_SIZE, size=PHOTO_SIZE)


def scores_of(case: Case, names: int) -> torch.Tensor:
    logits = 100 * case.regions @ case.texts[:names].T
    with_none = functional.pad(logits, (0, 1), value=10.0)
    return classify(with_none, logits, torch.ones(QUERIES, dtype=torch.bool), ensemble_weight=0.7).scores


def main() -> None:
    torch.set_num_threads(2)
    for case in cases():
        costs: dict[int, list[Cost]] = {names: [] for names in COUNTS}
        labels = {}
        for _ in range(REPEATS):
            for names in COUNTS:
                cost, labels[names] = cost_of(lambda c=case, n=names: labels_of(c, n))
                costs[names].append(cost)
        print(f"{case.name}:")
        for names, of in costs.items():
            ratio = median(cost.seconds / one.seconds for cost, one in zip(of, costs[1], strict=True))
            more_mib = max(cost.peak_mib for cost in of) - max(cost.peak_mib for cost in costs[1])
            scores = scores_of(case, names)
            edged = functional.pad(case.masks[None], (1, 1, 1, 1), mode="replicate")[0]
            left = fusion._windows_and_classes(scores, edged)[1].sum(dim=1).double().mean()
            # In double precision: in single, classes whose sums are equal but for rounding may win here or there.
            best = fused_scores(scores.double(), case.masks.double(), net_size=NET_SIZE, size=PHOTO_SIZE)
            lower = best.gather(0, labels[names][None])[0] < best.amax(dim=0) * (1 - 1e-5)
            print(
                f"  {names} names: {median(cost.seconds for cost in of):.2f} CPU seconds, {ratio:.2f} times one "
                f"name's, {more_mib:+.0f} MiB; {left:.1f} classes left per tile; {int(lower.sum())} wrong pixels"
            )


if __name__ == "__main__":
    main()
