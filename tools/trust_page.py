"""The section of docs/results/drawn_world_results.md on signs of trust: precision, finetuning, negatives."""

import statistics
from collections.abc import Sequence
from typing import Any

from pipeline.charts import share_curves
from tools.recipes_page import marked
from tools.seed_results import earlier_net, with_interval

Results = Sequence[dict[str, Any]]

SIGNS, NEGATIVES, INSTANCES = "signs", "negatives", "instances"
ALL_PAIRS = "all pairs"
FIGURE = "precision_against_yield.png"
ORDERS = {
    "trust": "`trust`: the sum of the two below",
    "noun_margin": "`noun_margin`: ahead of the nouns of other pictures",
    "region_margin": "`region_margin`: ahead of masks elsewhere in the picture",
    "score": "`score`: similarity alone",
    "margin": "`margin`: ahead of any other mask, duplicates too",
    "area_share": "`area_share`: large masks first",
    "captions_naming": "`captions_naming`: many captions first",
}
YIELDS = (0.2, 0.4, 0.6, 0.8, 1.0)
GROUPS = ("all", "seen", "unseen")


def lines_of(results: Results, row: str) -> list[dict[str, Any]]:
    """Return the lines of a row, in order of the seeds."""
    return sorted((line for line in results if line["row"] == row), key=lambda line: int(line["seed"]))


def precision_table(results: Results) -> str:
    """Write how many of the pairs that a sign puts first are right, by the share of right ones among them."""
    lines = lines_of(results, SIGNS)
    rows = [
        f"| pairs in the order of | {' | '.join(f'{share:.0%}' for share in YIELDS)} |",
        f"|---|{'---|' * len(YIELDS)}",
    ]
    for name, title in ORDERS.items():
        cells = [
            with_interval([100 * line["precision"][name][round(10 * share) - 1] for line in lines]) for share in YIELDS
        ]
        rows.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(rows)


def figure(results: Results) -> bytes:
    """Draw the same for every tenth, the mean over the seeds, as a PNG file."""
    lines = lines_of(results, SIGNS)
    tenths = range(1, 11)
    curves = {
        name: [(tenth / 10, statistics.fmean(line["precision"][name][tenth - 1] for line in lines)) for tenth in tenths]
        for name in ORDERS
    }
    return share_curves(
        curves,
        x_label="right pairs that are kept, of all right ones [%]",
        y_label="right ones among the pairs that are kept [%]",
        mark=(1.0, statistics.fmean(line["right"] for line in lines), "all pairs"),
    )


def tuning_table(results: Results) -> str:
    """Write what a finetuning on each subset gives, and how far it is from one on all pairs, seed by seed."""
    rows = [
        "| finetuned on | pairs | right | steps | all | seen | unseen | against all pairs: all | seen | unseen |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    whole = {line["seed"]: line for line in lines_of(results, ALL_PAIRS)}
    for row in dict.fromkeys(line["row"] for line in results):
        if row in (SIGNS, NEGATIVES, INSTANCES):
            continue
        lines = lines_of(results, row)
        cells = [
            f"{statistics.fmean(line['pairs'] for line in lines):.0f}",
            f"{statistics.fmean(line['right'] for line in lines):.1%}",
            f"{statistics.fmean(line['steps'] for line in lines):.0f}",
            *(with_interval([line[group] for line in lines]) for group in GROUPS),
            *(
                "-" if row == ALL_PAIRS else marked([line[group] - whole[line["seed"]][group] for line in lines])
                for group in GROUPS
            ),
        ]
        rows.append(f"| {row} | {' | '.join(cells)} |")
    return "\n".join(rows)


def section(results: Results) -> str:
    """Write the section; empty if nothing was measured."""
    if not results:
        return ""
    signs, negatives, instances = (lines_of(results, row) for row in (SIGNS, NEGATIVES, INSTANCES))
    right = with_interval([100 * line["right"] for line in signs])
    absent = with_interval([100 * line["absent"] for line in negatives])
    pairs, several, marked, both = (
        sum(line[name] for line in instances) for name in ("pairs", "several", "marked", "marked_and_several")
    )
    found, pictures = (sum(line[name] for line in negatives) for name in ("negatives", "pictures"))
    return f"""
## Signs of trust

`python -m tools.measure_trust` measures this anew; the numbers come from
[trust_results.jsonl](trust_results.jsonl). Of the mined pairs, `proposals-1-caption` of the five seeds, {right} %
are right. What the signs are: [using_pairs.md](../start/using_pairs.md#signs-of-trust). Nothing is fitted: trust is a
plain sum, chosen on the scenes of three other seeds.

{earlier_net(results)}
### Precision against yield

Right ones among the pairs that are kept, in percent, when the share of all right pairs that the head says is kept;
mean over the seeds and 95 % interval.

{precision_table(results)}

![right ones among the pairs that are kept, by the share of the right ones](../images/{FIGURE})

### Finetuning on the most trusted pairs, at equal steps

FT with the settings of the tables above; a subset is shown as often as makes its steps those of two epochs of all
pairs. "By lot" is the control: as few pairs, no choice. "Right ones first" is what a perfect filter would keep.
mIoU in percent, and differences seed by seed in percentage points, with 95 % intervals; bold where the interval does
not hold 0.

{tuning_table(results)}

### Negatives and more instances

{found:,} negatives of {pictures:,} pictures, by the default rule: {absent} % are truly absent. Of {pairs:,} right
pairs that name a thing, {several:,} are in scenes that show several of it; the mark `more_instances` is on
{marked:,}, {both:,} of them rightly. Captions of the drawn world never count or use a plural, so that this is what
masks alone say.
"""
