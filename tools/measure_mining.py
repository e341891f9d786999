"""Measure the pairs of all four sources on the drawn world, where truth is known: the table of docs/guides/mining.md.

python -m tools.measure_mining --config flows/configs/demo.toml --set runs_dir=/tmp/mining

Each source is mined as far as that is not done; stage 1 is run first where its net is missing. A pair is right if its
mask has an IoU of at least 0.5 with the named thing: with one of its instances, or with all pixels of its class. The
truth is read here alone; the miner never sees it.
"""

import argparse
from pathlib import Path
from typing import NamedTuple, get_args

from pipeline.dataflow import dataflow
from pipeline.mine.judged_pairs import judged_pairs
from pipeline.settings import Source, load_settings
from pipeline.stages import run
from storage_schemas.artifact import Artifact


class Tally(NamedTuple):
    """How many pairs there are, how many name a class of the world, and how many are right."""

    pairs: int
    named: int
    right: int


def main() -> None:
    """Mine, and print the share of right pairs for each source."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="settings that mine the drawn world")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    options = parser.parse_args()
    print("| source | pairs | per image | right | right, of those that name a class |\n|---|---|---|---|---|")
    for source in get_args(Source):
        settings = load_settings(options.config, [*options.overrides, f"mine.source={source}"])
        if not settings.mine.uses_ground_truth_masks:
            run("train-proposals", settings)
        pairs = run("mine", settings).artifact
        scenes = dataflow(settings).scenes(settings.mine.dataset).artifact
        tally = tally_of(pairs, scenes)
        per_image = tally.pairs / scenes.manifest().rows
        shares = (f"{tally.right / whole:.1%}" for whole in (tally.pairs, max(1, tally.named)))
        print(f"| `{source}` | {tally.pairs:,} | {per_image:.2f} | {' | '.join(shares)} |", flush=True)


def tally_of(pairs: Artifact, scenes: Artifact) -> Tally:
    """Judge all pairs."""
    verdicts = judged_pairs(pairs, scenes).values()
    named = [verdict for verdict in verdicts if verdict is not None]
    return Tally(len(verdicts), len(named), sum(named))


if __name__ == "__main__":
    main()
