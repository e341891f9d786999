"""Measure how often the interval of an audit holds the truth, by auditors who know it, on pairs of drawn scenes.

``python -m tools.measure_audit --out DIR`` mines what is missing, lets 100 auditors look at 200 pairs of each of five
seeds' scenes, and writes one line per seed to ``DIR/audits.jsonl``; docs/results/audit_results.jsonl is such a file. A
pair is right as in `tools.measure_mining`: its mask has an IoU of at least 0.5 with the named thing.
"""

import argparse
import json
import logging
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipeline.audit.precision import StratumCount, stratified_share
from pipeline.audit.sample import order_of_looking, strata_of
from pipeline.dataflow import dataflow
from pipeline.mine.judged_pairs import judged_pairs
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.pairs import read_index
from tools.measure_paper_tables import SEEDS, Row, settings_of

COUNT, AUDITORS = 200, 100
_COLUMNS = ("pair", "status", "noun", "score", "area_px", "height_px", "width_px")


def pairs_and_truth(pairs: Artifact, scenes: Artifact) -> tuple[pa.Table, npt.NDArray[np.bool_]]:
    """Return the usable pairs, and whether each is right; one whose noun is no class of the world is not."""
    judged = judged_pairs(pairs, scenes)
    whole = pa.concat_tables([read_index(pairs, unit, columns=_COLUMNS) for unit in pairs.description.units])
    usable = whole.filter(pc.equal(whole["status"], OK))
    return usable, np.array([bool(judged[pair]) for pair in usable["pair"].to_pylist()])


def measured(seed: int, runs: Path) -> dict[str, Any]:
    """Mine, if that is not done, and let auditors with seeds of their own look at the pairs."""
    settings = settings_of(Row("FT then MPT"), seed, runs, 1.0)
    run("train-proposals", settings)
    pairs = run("mine", settings).artifact
    table, right = pairs_and_truth(pairs, dataflow(settings).scenes(settings.mine.dataset).artifact)
    held, widths = 0, []
    for auditor in range(AUDITORS):
        strata = strata_of(table, seed=auditor)
        looked_at = np.zeros(len(right), bool)
        looked_at[order_of_looking(strata, COUNT)] = True
        of_strata = [(len(each.rows), each.rows[looked_at[each.rows]]) for each in strata]
        counts = [StratumCount(size, len(rows), int(right[rows].sum())) for size, rows in of_strata]
        found = stratified_share(counts)
        if found is None:
            raise RuntimeError(f"seed {seed}: no pair was looked at")
        held += bool(found.low <= right.mean() <= found.high)
        widths.append(found.high - found.low)
    return {
        "seed": seed,
        "pairs": len(right),
        "precision": float(right.mean()),
        "verdicts": COUNT,
        "auditors": AUDITORS,
        "held": held,
        "mean_width": statistics.fmean(widths),
    }


def main() -> None:
    """Measure all seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    lines = []
    for seed in options.seeds:
        lines.append(json.dumps(measured(seed, options.out)) + "\n")
        print(lines[-1], end="", flush=True)
    (options.out / "audits.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
