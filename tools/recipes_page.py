"""A section of docs/results/drawn_world_results.md: recipes of stage 3 on mined pairs, on ground truth, and on both."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tools.seed_results import earlier_net, half_width, with_interval

Results = Sequence[dict[str, Any]]
GROUPS = ("all", "seen", "unseen")
_ALIKE_NAMED = 6
SOURCES: Mapping[str, str] = {
    "mined": "proposals, nouns of 1 caption",
    "ground-truth": "ground-truth masks and names of seen classes",
    "both": "both",
}
ORIGINAL, OWN_TEMPERATURE = "original CLIP", "original CLIP at its own temperature"

_INTRODUCTION = """## Recipes of stage 3, on three sources of pairs

`make recipe-table` measures this anew and goes on where it stopped; the numbers come from
[recipe_results.jsonl](recipe_results.jsonl). Seeds, scenes, nets and settings are those of the tables above, but for
words such as "photo" and "view", which `flows/configs/demo.toml` has mining leave out since these were measured: fewer
pairs, so that rows of both must not be mixed. Each recipe is one setting of
[stage 3](../guides/finetuning.md#recipes-beside-ft-and-mpt). "Ground truth" are the masks and names of the classes that
stage 1 is shown, the closed set; no pair of it names an unseen class. Five seeds each, 50 rows.

OVSeg finds that tuning on ground truth harms unseen classes. MaskCLIP++ tunes on ground truth alone and reports the
best results of two-stage methods, with parameters that act on similarities (PSM), and a tower that learns slowly.
Here both run on the same pairs.

Read these tables with three things in mind:

* **Temperature.** Stage 4 multiplies cosines by 100, as published; PSM is evaluated at the scale that it trains,
  which begins at CLIP's own. The small CLIP's own is 19.6, and that alone changes the ensemble: the rows "at its own
  temperature" train no scale (its rate is 1e-12) and show by how much. PSM is to be compared with them.
* **Steps.** Two epochs of more pairs are more steps. "FT, twice the epochs" takes about as many on mined pairs as FT
  takes on both sources.
* **Nothing was tuned** on these scenes. Rates: FT 3e-4 and MPT 1e-2 as in the tables above; PSM 1e-2, the slow tower
  a hundredth of it; SimBaseline's 8 tokens 1e-2, where its configuration has 16 tokens and SGD
  ([why](../guides/finetuning.md#the-neighbours-in-the-papers-table-1)); 8 hard negatives; held by embeddings at weight
  1, by similarities at 100 (the mean square of differences of probabilities is some hundred times smaller than a
  contrastive loss: at MAFT's own weight of 0.1 to 1 it has no effect beside one, as a trial on seed 101 showed).

What these tables cannot say: whether any order holds for ViT-B/16 on photographs. The small CLIP was pretrained on
pictures of this very world, unseen classes too, and ground truth of 30 classes in 28 steps leaves it little time to
forget them; OVSeg's ground truth takes 965,000 pairs through five epochs. With this many comparisons, one in twenty is
apart by chance.
"""


def values_of(results: Results, row: str, group: str) -> dict[int, float]:
    """Return a row's mIoU [%] by seed."""
    return {line["seed"]: line[group] for line in results if line["row"] == row}


def differences(results: Results, row: str, other: str, group: str) -> list[float]:
    """Return the differences of two rows, seed by seed, of the seeds that have both [percentage points]."""
    ahead, behind = values_of(results, row, group), values_of(results, other, group)
    return [ahead[seed] - behind[seed] for seed in sorted(ahead.keys() & behind.keys())]


def is_apart(values: Sequence[float]) -> bool:
    """Return whether the 95 % interval of differences does not hold 0."""
    return len(values) > 1 and abs(statistics.fmean(values)) > half_width(list(values))


def marked(values: list[float]) -> str:
    """Write differences with their interval, bold where it does not hold 0."""
    text = with_interval(values, sign="+")
    return f"**{text}**" if is_apart(values) else text


def recipes_of(results: Results) -> list[str]:
    """Return the names of all rows without their sources, in order."""
    return list(dict.fromkeys(line["row"].partition(" | ")[0] for line in results))


def absolute_table(results: Results) -> str:
    """Write the mIoU of every row."""
    rows = [
        "| recipe | pairs | seeds | steps | all classes | seen classes | unseen classes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(line["row"] for line in results):
        recipe, _, source = row.partition(" | ")
        found = [list(values_of(results, row, group).values()) for group in GROUPS]
        steps = statistics.fmean(line["steps"] for line in results if line["row"] == row)
        cells = [recipe, SOURCES.get(source, "none"), str(len(found[0])), f"{steps:.0f}", *map(with_interval, found)]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def source_table(results: Results) -> str:
    """Write what ground truth and both give against mined pairs, recipe by recipe."""
    rows = [
        "| recipe | ground truth, seen | ground truth, unseen | both, seen | both, unseen |",
        "|---|---|---|---|---|",
    ]
    for recipe in recipes_of(results):
        found = [
            differences(results, f"{recipe} | {source}", f"{recipe} | mined", group)
            for source in ("ground-truth", "both")
            for group in ("seen", "unseen")
        ]
        if any(found):
            rows.append(f"| {recipe} | {' | '.join(map(marked, found))} |")
    return "\n".join(rows)


def baseline_table(results: Results) -> str:
    """Write what each row gives against FT on the same pairs, and against the original CLIP."""
    rows = [
        "| recipe | pairs | against FT, seen | against FT, unseen | against original CLIP, seen | unseen |",
        "|---|---|---|---|---|---|",
    ]
    for row in dict.fromkeys(line["row"] for line in results):
        recipe, _, source = row.partition(" | ")
        others = (f"FT | {source or 'mined'}", ORIGINAL)
        found = [
            "-" if row == other else marked(differences(results, row, other, group))
            for other in others
            for group in ("seen", "unseen")
        ]
        rows.append(f"| {recipe} | {SOURCES.get(source, 'none')} | {' | '.join(found)} |")
    return "\n".join(rows)


def temperature_table(results: Results) -> str:
    """Write what is left of recipes that train a scale when it is compared with CLIP's own, untrained."""
    rows = ["| recipe | against | pairs | seen classes | unseen classes |", "|---|---|---|---|---|"]
    for source, pairs in SOURCES.items():
        for recipe, other in (
            ("PSM", OWN_TEMPERATURE),
            ("PSM, 14 sentences", OWN_TEMPERATURE),
            ("PSM and slow tower", f"FT at CLIP's own temperature | {source}"),
            ("FT at CLIP's own temperature", OWN_TEMPERATURE),
        ):
            found = [differences(results, f"{recipe} | {source}", other, group) for group in ("seen", "unseen")]
            if any(found):
                cells = [recipe, other.partition(" | ")[0], pairs, *map(marked, found)]
                rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def best(results: Results, group: str) -> str:
    """Say which row has the highest mean, and from which others these seeds cannot tell it; of rows with all seeds."""
    seeds = {line["seed"] for line in results}
    rows = [
        row
        for row in dict.fromkeys(line["row"] for line in results)
        if len(values_of(results, row, group)) == len(seeds)
    ]
    means = {row: statistics.fmean(values_of(results, row, group).values()) for row in rows}
    first = max(means, key=lambda row: means[row])
    alike = [row for row in means if row != first and not is_apart(differences(results, first, row, group))]
    alike.sort(key=lambda row: -means[row])
    named = "; ".join(f"{_named(row)} {means[row]:.1f}" for row in alike[:_ALIKE_NAMED]) or "none"
    more = f"; and {len(alike) - _ALIKE_NAMED} more" if len(alike) > _ALIKE_NAMED else ""
    return (
        f"**Most on {group} classes:** {_named(first)}, {means[first]:.1f}. "
        f"These seeds cannot tell it from (the interval of the difference holds 0) {len(alike)} of {len(means) - 1} "
        f"others: {named}{more}."
    )


def contradiction(results: Results) -> str:
    """Say what ground truth does to unseen classes, recipe by recipe, in counts."""
    outcomes: dict[str, list[str]] = {"loses": [], "gains": [], "these seeds cannot tell": []}
    for recipe in recipes_of(results):
        values = differences(results, f"{recipe} | ground-truth", f"{recipe} | mined", "unseen")
        if len(values) > 1:
            apart = "gains" if statistics.fmean(values) > 0 else "loses"
            outcomes[apart if is_apart(values) else "these seeds cannot tell"].append(recipe)
    listed = "; ".join(f"{outcome} with {', '.join(recipes) or 'none'}" for outcome, recipes in outcomes.items())
    return f"**Ground truth in place of mined pairs, on unseen classes:** {listed}."


COMPARISONS = (
    (
        "FT | ground-truth",
        "FT | mined",
        "FT, on ground truth against mined pairs: OVSeg finds unseen classes harmed",
    ),
    (
        "FT at CLIP's own temperature | ground-truth",
        "FT at CLIP's own temperature | mined",
        "the same where classes are named at CLIP's own temperature",
    ),
    ("PSM | ground-truth", "PSM | mined", "PSM alone, on ground truth against mined pairs"),
    ("PSM | ground-truth", OWN_TEMPERATURE, "PSM alone on ground truth against the scale that it begins with"),
    (
        "PSM and slow tower | ground-truth",
        "FT at CLIP's own temperature | mined",
        "MaskCLIP++'s way (PSM and slow tower, ground truth) against OVSeg's (FT, mined), at CLIP's own temperature",
    ),
)
"""Rows that the contradiction is about: one, another, and what is compared."""


def answer(results: Results) -> str:
    """Write the comparisons that the contradiction is about, with their verdicts."""
    rows = ["| compared | seen classes | unseen classes |", "|---|---|---|"]
    for row, other, what in COMPARISONS:
        cells = []
        for group in ("seen", "unseen"):
            values = differences(results, row, other, group)
            verdict = ("gains" if statistics.fmean(values) > 0 else "loses") if is_apart(values) else "cannot tell"
            cells.append(f"{marked(values)}: {verdict}" if values else "not measured")
        rows.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(rows)


def section(results: Results) -> str:
    """Write the section; empty if nothing was measured."""
    if not results:
        return ""
    findings = "\n".join(
        f"* {text}" for text in (best(results, "seen"), best(results, "unseen"), contradiction(results))
    )
    return f"""
{_INTRODUCTION}
{earlier_net(results)}
### What gives most, and what these seeds cannot tell

{findings}

### What the contradiction comes to

{answer(results)}

### Ground truth and both against mined pairs

Differences seed by seed, in percentage points of mIoU, with 95 % intervals (Student's t); bold where the interval does
not hold 0.

{source_table(results)}

### Recipes against FT on the same pairs, and against the original CLIP

{baseline_table(results)}

### Recipes that train a scale, against CLIP's own

{temperature_table(results)}

### All rows

mIoU in percent, mean over the seeds and 95 % interval.

{absolute_table(results)}
"""


def _named(row: str) -> str:
    recipe, _, source = row.partition(" | ")
    return f"{recipe} on {SOURCES[source]}" if source else recipe
