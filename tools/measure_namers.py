"""Measure what naming by one pass is worth beside crops, on the same proposals, over several seeds.

``python -m tools.measure_namers --out DIR`` (``make namer-table``) mines, finetunes and evaluates what is missing, and
writes one line per seed and row to ``DIR/results.jsonl``; a run that was stopped goes on. ``--write PAGE`` writes them
into docs/results/drawn_world_results.md, beside the paper's tables. Seeds, scenes and settings are those of
`tools.measure_paper_tables`; rows that `tools.measure_recipes` has, too, are measured as there.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovseg_models.encoding import cut_regions, embed_crops
from ovseg_models.one_pass import OnePass
from pipeline.clip_loading import load_clip
from tools.measure_paper_tables import ORIGINAL, SEEDS, Row, made_by, settings_of
from tools.measure_recipes import FT, measured
from tools.namers_page import SPEED
from tools.paper_tables_page import page
from tools.seed_results import measure_missing, read_lines, read_results, seed_options

EVALUATED = "evaluate.namer='one-pass'"
POOLED = "evaluate.namer='pooled'"
TUNED = ("finetune.namer='one-pass'", EVALUATED)
QUERY = "finetune.mode='query'"
QUERY_RATE = "finetune.query={ epochs = 2, batch_pairs = 64, learning_rate = 1e-3, warmup_steps = 10 }"
BY_EMBEDDINGS = "finetune.holding={ form = 'embeddings', weight = 1.0 }"
BY_SIMILARITIES = "finetune.holding={ form = 'similarities', weight = 100.0 }"
TWICE_THE_SIDE = "one_pass.side_px=128"  # 16 x 16 patches in place of 8 x 8
ROWS = (
    Row("crops", (ORIGINAL,)),
    Row("one pass", (ORIGINAL, EVALUATED)),
    Row("crops, FT", (FT,)),
    Row("pooled tokens", (ORIGINAL, POOLED)),
    Row("pooled tokens at 128 px", (ORIGINAL, POOLED, TWICE_THE_SIDE)),
    Row("one pass at 128 px", (ORIGINAL, EVALUATED, TWICE_THE_SIDE)),
    Row("one pass at 128 px, FT", (FT, *TUNED, TWICE_THE_SIDE)),
    Row("one pass, FT", (FT, *TUNED)),
    Row("one pass, FT, held by embeddings", (FT, *TUNED, BY_EMBEDDINGS)),
    Row("one pass, queries", (QUERY, QUERY_RATE, *TUNED)),
    Row("one pass, queries, held by embeddings", (QUERY, QUERY_RATE, *TUNED, BY_EMBEDDINGS)),
    Row("one pass, FT, held by similarities", (FT, *TUNED, BY_SIMILARITIES)),
    Row("crops, FT then MPT"),
)
_MASKS, _ROUNDS = 100, 5


def speeds() -> dict[str, Any]:
    """Time both namers on one picture with many masks, on one core: the median of several rounds [s]."""
    model = load_clip(settings_of(ROWS[0], 1, Path("runs"), 1.0).clip).mask_adapted().eval()
    generator = torch.Generator().manual_seed(0)
    own, larger = OnePass(model), OnePass(model, side_px=128)
    picture = torch.randint(0, 256, (3, 160, 160), generator=generator, dtype=torch.uint8)
    masks = torch.zeros(_MASKS, 160, 160, dtype=torch.bool)
    for mask, (line, column, height, width) in zip(
        masks, torch.randint(8, 80, (_MASKS, 4), generator=generator).tolist(), strict=True
    ):
        mask[line : line + height, column : column + width] = True

    def by_crops() -> Tensor:
        cut = cut_regions(picture, masks, model.crop)
        return embed_crops(model, cut.crops, cut.patch_mask, at_once=_MASKS)

    @torch.no_grad()
    def in_one_pass(one_pass: OnePass) -> Tensor:
        features = one_pass.features(one_pass.resized(picture)[None])
        return one_pass.embed(features, one_pass.filled(masks)[None])

    ways: dict[str, Callable[[], Tensor]] = {
        "crops": by_crops,
        "one pass": partial(in_one_pass, own),
        "one pass at 128 px": partial(in_one_pass, larger),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(_ROUNDS):
        for name, embed in ways.items():
            started = time.perf_counter()
            embed()
            times[name].append(time.perf_counter() - started)
    seconds = {name: sorted(values)[_ROUNDS // 2] for name, values in times.items()}
    return {"seed": 0, "row": SPEED, "masks": _MASKS, "seconds": seconds}


def main() -> None:
    """Measure what is missing, or write the section."""
    options = seed_options(__doc__, SEEDS).parse_args()
    results = read_results(options.out)
    if options.write:
        names = ("drawn_world_results.jsonl", "recipe_results.jsonl", "trust_results.jsonl")
        stored = [read_lines(options.write.with_name(name)) for name in names]
        options.write.write_text(page(*stored, results), encoding="utf-8")
        return
    wanted: list[tuple[dict[str, Any], Callable[[], dict[str, Any]]]] = [({"seed": 0, "row": SPEED}, speeds)]
    wanted += [
        (
            {"seed": seed, "row": row.name, "made_by": made_by(row, seed, options.scale)},
            partial(measured, row, seed, options.out, options.scale),
        )
        for row in ROWS
        for seed in options.seeds
    ]
    measure_missing(options.out, wanted)


if __name__ == "__main__":
    main()
