"""Measure which recipe of stage 3 tunes best, on mined pairs, on ground truth and on both, over several seeds.

``python -m tools.measure_recipes --out DIR`` mines, finetunes and evaluates what is missing, and writes one line per
seed and row to ``DIR/results.jsonl``; a run that was stopped goes on. ``--write PAGE`` writes them into
docs/results/drawn_world_results.md, beside the paper's tables. Seeds, scenes and settings are those of
`tools.measure_paper_tables`. A row is measured on all seeds before the next one begins, so that a run that was stopped
early has whole rows.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.adaptations import GROUPS
from pipeline.dataflow import dataflow
from pipeline.stages import run
from storage_schemas.checkpoints import ADAPTED_CLIP, REPORT
from storage_schemas.reports import read_numbers
from tools.measure_paper_tables import DATASET, ORIGINAL, SEEDS, Row, made_by, settings_of
from tools.paper_tables_page import page
from tools.seed_results import measure_missing, read_lines, read_results, seed_options

SOURCES = {
    "mined": (),
    "ground-truth": ("finetune.pair_source='ground-truth'",),
    "both": ("finetune.pair_source='both'",),
}
FT = "finetune.mode='ft'"
PSM_RATE = "finetune.psm={ epochs = 2, batch_pairs = 64, learning_rate = 1e-2, warmup_steps = 10 }"
UNTRAINED_PSM = "finetune.psm={ epochs = 1, batch_pairs = 64, learning_rate = 1e-12, warmup_steps = 0 }"
SLOW_TOWER = "finetune.ft.learning_rate=1e-4"  # a hundredth of that, as in MaskCLIP++
SIMBASELINE = (
    "finetune.mode='text'",
    "finetune.loss='noun-aware'",
    "finetune.text={ epochs = 2, batch_pairs = 64, learning_rate = 1e-2, warmup_steps = 10, length = 8 }",
    f"{DATASET}.ensemble_weight=0.8",
)
ZEGFORMER = (f"{DATASET}.ensemble_on='unseen'", f"{DATASET}.ensemble_weight=0.6666666666666666")
RECIPES = {
    "FT": (FT,),
    "PSM": ("finetune.mode='psm'", PSM_RATE),
    "FT at CLIP's own temperature": ("finetune.mode='ft+psm'", UNTRAINED_PSM),
    "PSM and slow tower": ("finetune.mode='ft+psm'", PSM_RATE, SLOW_TOWER),
    "FT, weights averaged 0.5": (FT, "finetune.tuned_share=0.5"),
    "FT, held by embeddings": (FT, "finetune.holding={ form = 'embeddings', weight = 1.0 }"),
    "FT, sigmoid loss": (FT, "finetune.loss='sigmoid'"),
    "FT, hard negatives": (FT, "finetune.hard_negatives.count=8"),
    "FT, held by similarities": (FT, "finetune.holding={ form = 'similarities', weight = 100.0 }"),
    "PSM, 14 sentences": ("finetune.mode='psm'", PSM_RATE, "finetune.prompt_templates='vild'"),
    "FT then MPT": (),
    "MPT": ("finetune.mode='mpt'",),
    "FT, weights averaged 0.25": (FT, "finetune.tuned_share=0.25"),
    "FT, weights averaged 0.75": (FT, "finetune.tuned_share=0.75"),
    "FT, noun-aware loss": (FT, "finetune.loss='noun-aware'"),
}
"""In the order of measuring: what the question is about comes first."""


def rows() -> Iterator[Row]:
    """Yield all rows in the order in which they are measured."""
    yield Row("original CLIP", (ORIGINAL,))
    yield Row("ZegFormer's ensemble, original CLIP", (ORIGINAL, *ZEGFORMER))
    yield Row("SimBaseline's prompts, original CLIP | ground-truth", (*SIMBASELINE, *SOURCES["ground-truth"]))
    yield Row("original CLIP at its own temperature", ("finetune.mode='psm'", UNTRAINED_PSM))
    for recipe, overrides in RECIPES.items():
        for source, of_source in SOURCES.items():
            yield Row(f"{recipe} | {source}", (*overrides, *of_source))
        if recipe == "FT":  # as many steps as with both sources, or nearly so
            yield Row("FT, twice the epochs | mined", (FT, "finetune.ft.epochs=8"))


def measured(row: Row, seed: int, runs: Path, scale: float) -> dict[str, Any]:
    """Run the stages for a row, as far as they are not done, and read its numbers from the reports [percent]."""
    settings = settings_of(row, seed, runs, scale)
    run("train-proposals", settings)
    trained: dict[str, Any] = {"pairs": 0, "steps": 0}
    if settings.evaluate.clip == "adapted":
        run("mine", settings)
        run("finetune", settings)
        tuned = dataflow(settings).of_kind(ADAPTED_CLIP)[0]  # of an average, what was trained
        card: Any = next(unit.facts for unit in tuned.manifest().units if unit.unit == REPORT)
        trained = {"pairs": card["pairs"]["pairs"], "steps": sum(phase["steps"] for phase in card["phases"])}
    (dataset,) = read_numbers(run("evaluate", settings).artifact)["datasets"]
    metrics = dataset["variants"][0]["metrics"]
    return {
        "seed": seed,
        "row": row.name,
        **{group: 100 * metrics[name] for group, name in GROUPS.items()},
        **trained,
        "images": dataset["images"],
        "made_by": made_by(row, seed, scale),
    }


def main() -> None:
    """Measure what is missing, or write the section."""
    options = seed_options(__doc__, SEEDS).parse_args()
    results = read_results(options.out)
    if options.write:
        others = ("drawn_world_results.jsonl", "trust_results.jsonl")
        tables, trust = (read_lines(options.write.with_name(name)) for name in others)
        namers = read_lines(options.write.with_name("namer_results.jsonl"))
        options.write.write_text(page(tables, results, trust, namers), encoding="utf-8")
        return
    measure_missing(
        options.out,
        (
            (
                {"seed": seed, "row": row.name, "made_by": made_by(row, seed, options.scale)},
                partial(measured, row, seed, options.out, options.scale),
            )
            for row in rows()
            for seed in options.seeds
        ),
    )


if __name__ == "__main__":
    main()
