"""Measure the pairs of all four sources on the drawn world, where the truth is known: the table of docs/mining.md.

python -m tools.measure_mining --config flows/configs/demo.toml --set runs_dir=/tmp/mining

Each source is mined as far as that is not done; stage 1 is run first where its net is missing. A pair is right if its
mask has an IoU of at least 0.5 with the named thing: with one of its instances, or with all pixels of its class. The
truth is read here alone; the miner never sees it.
"""

import argparse
import io
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.settings import Source, load_settings
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.pairs import read_index
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

MIN_IOU = 0.5


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
    names = ScenesAttributes.of(scenes).class_names
    total, named, right = 0, 0, 0
    for unit in pairs.description.units:
        truths = {scene.key: scene for scene in SceneShard(scenes, unit).scenes()}
        for row in read_index(pairs, unit).to_pylist():
            if row["status"] != OK:
                continue
            total += 1
            if row["noun"] not in names:
                continue
            named += 1
            mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
            things = things_named(truths[row["key"]], names.index(row["noun"]))
            right += max((iou(mask, thing) for thing in things), default=0.0) >= MIN_IOU
    return Tally(total, named, right)


def things_named(scene: Scene, label: int) -> list[npt.NDArray[np.bool_]]:
    """Return all pixels of a class, and each of its instances, in a scene whose pictures are not resized."""
    labels, instances = (
        np.asarray(Image.open(io.BytesIO(png or b""))) for png in (scene.label_png, scene.instances_png)
    )
    of_class = labels == label
    if not of_class.any():
        return []
    numbers = np.unique(instances[of_class])
    return [of_class, *(of_class & (instances == number) for number in numbers.tolist() if number)]


def iou(mask: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> float:
    """Return intersection over union of two masks."""
    union = (mask | other).sum()
    return float((mask & other).sum() / union) if union else 0.0


if __name__ == "__main__":
    main()
