"""``ovseg compare``: whether one evaluation is better than another."""

import json as json_format
import math
import sys
from pathlib import Path
from typing import Annotated

import tyro


def compare(
    run_a: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_A")],
    run_b: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_B")],
    *,
    variant_a: str = "",
    variant_b: str = "",
    rounds: int = 1000,
    json: bool = False,
) -> None:
    """Show for each metric whether RUN_B is better or worse than RUN_A, or whether these images cannot tell.

    Both must have scored the same scenes. Images are resampled, the same ones for both runs; B is better where 95 % of
    the resamplings say so.

    Args:
        run_a: Directory of scores, or of a report.
        run_b: Likewise.
        variant_a: Way of predicting in A, such as clip-only; by default its main one.
        variant_b: Way of predicting in B.
        rounds: Number of resamplings.
        json: Print JSON instead of a table.

    Raises:
        PipelineError: If a directory holds neither, or the two share no scenes or images.
        SettingsError: If the number of rounds is below one.
    """
    from pipeline.evaluate.compare import compare_runs
    from pipeline.settings import SettingsError
    from pipeline.text_tables import text_table

    if rounds < 1:
        raise SettingsError([f"compare: --rounds: should be at least 1 (got {rounds})"])
    comparisons = compare_runs(run_a, run_b, variants=(variant_a, variant_b), rounds=rounds)
    if json:
        found = [comparison.to_json() for comparison in comparisons]
        sys.stdout.write(json_format.dumps(found, indent=2, allow_nan=False) + "\n")
        return
    for comparison in comparisons:
        first, second = comparison.variants
        left_out = f", {comparison.left_out} left out that only one run has scored" if comparison.left_out else ""
        sys.stdout.write(
            f"{comparison.dataset}: {comparison.images} images{left_out}; A predicts by {first}, B by {second}\n"
        )
        rows = []
        for name, difference in comparison.differences.items():
            if math.isnan(difference.first) and math.isnan(difference.second):  # in neither run a class counts
                continue
            a, b = 100 * difference.first, 100 * difference.second
            interval = f"{100 * difference.interval.low:+.1f} to {100 * difference.interval.high:+.1f}"
            rows.append((name, f"{a:.1f}", f"{b:.1f}", f"{b - a:+.1f}", interval, difference.verdict))
        columns = ("metric [%]", "A", "B", "B - A", "95 % interval", "B is")
        sys.stdout.write(text_table(columns, rows, words=("metric [%]", "B is")).rstrip() + "\n")
