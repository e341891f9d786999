"""Measure what masks that share embeddings save in mining, and what they cost: a table of docs/guides/mining.md.

python -m tools.measure_sharing --config flows/configs/demo.toml --set runs_dir=/tmp/mining

The pairs of each `mine.embed.share_above_iou` are compared with those of the exact run: which share of them keeps its
mask, or one that overlaps it by an IoU of at least 0.95. All is mined as far as that is not done; stage 1 is run first
where its net is missing.
"""

import argparse
from pathlib import Path
from typing import Any

from pipeline.dataflow import dataflow
from pipeline.settings import load_settings
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.embeddings import read_embeddings
from storage_schemas.pairs import read_index
from storage_schemas.rle import iou_matrix
from tools.measure_mining import tally_of

ALIKE_IOU = 0.95


def main() -> None:
    """Mine, and print a line for each IoU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="settings that mine the drawn world")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--ious", type=float, nargs="+", default=[0.99, 0.98, 0.97, 0.95, 0.9])
    options = parser.parse_args()
    run("train-proposals", load_settings(options.config, options.overrides))
    print(f"| `share_above_iou` | masks embedded | crops saved | same mask | IoU at least {ALIKE_IOU} | right |")
    print("|---|---|---|---|---|---|")
    exact: dict[tuple[str, str], dict[str, Any]] = {}
    for above_iou in (1.0, *options.ious):
        settings = load_settings(options.config, [*options.overrides, f"mine.embed.share_above_iou={above_iou}"])
        report = run("mine", settings)
        masks, embedded = embedded_masks(report.of_kind("embeddings")[0].artifact)
        pairs = {(row["key"], row["noun"]): row for row in rows_of(report.artifact)}
        exact = exact or pairs
        ious = [overlap(pairs[place], exact[place]) for place in exact]
        same, alike = (sum(iou >= least for iou in ious) / len(ious) for least in (1.0, ALIKE_IOU))
        tally = tally_of(report.artifact, dataflow(settings).scenes(settings.mine.dataset).artifact)
        saved = f"{embedded:,} of {masks:,} | {masks / embedded:.2f} times"
        print(f"| {above_iou} | {saved} | {same:.1%} | {alike:.1%} | {tally.right / tally.pairs:.1%} |", flush=True)


def embedded_masks(embeddings: Artifact) -> tuple[int, int]:
    """Return how many masks have an embedding, and how many of these are not those of another mask of their scene."""
    masks = embedded = 0
    for unit in embeddings.description.units:
        for scene in read_embeddings(embeddings, unit):
            vectors = [
                vector.tobytes()
                for vector, status in zip(scene.embeddings, scene.statuses, strict=True)
                if status == OK
            ]
            masks += len(vectors)
            embedded += len(set(vectors))
    return masks, embedded


def rows_of(pairs: Artifact) -> list[dict[str, Any]]:
    """Read the rows that are pairs."""
    rows = [row for unit in pairs.description.units for row in read_index(pairs, unit).to_pylist()]
    return [row for row in rows if row["status"] == OK]


def overlap(pair: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the intersection over union of the masks of two pairs of one picture."""
    counts = [pair["mask_counts"]], [other["mask_counts"]]
    return float(iou_matrix(*counts, pair["height_px"], pair["width_px"])[0, 0])


if __name__ == "__main__":
    main()
