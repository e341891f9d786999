"""Which pairs are right, where labels say so: for reports on pairs and on their signs, never for mining them.

A pair whose noun is a class name is right if its mask has an IoU of at least 0.5 with what the labels call so: with one
of the instances, or with all pixels of the class. Other pairs are not judged.
"""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ovseg_models.image_input import nearest_resized
from pipeline.stored_pictures import upright_labels
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.pairs import read_index
from storage_schemas.rle import encode_masks, iou_matrix
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard

MIN_IOU = 0.5

_COLUMNS = ("pair", "key", "status", "noun", "height_px", "width_px", "mask_counts")


def judged_pairs(pairs: Artifact, scenes: Artifact, *, most_pictures: int | None = None) -> dict[str, bool | None]:
    """Return by name of the pair whether it is right; None where labels cannot say, or where nobody looked.

    Args:
        pairs: Finished.
        scenes: Those that they were mined from, or of which they are a subset's.
        most_pictures: Pictures to look at, drawn by lot, evenly from all shards; None for all.
    """
    share = 1.0 if most_pictures is None else most_pictures / max(1, scenes.manifest().rows)
    labels = {name.strip(): label for label, name in reversed(list(enumerate(ScenesAttributes.of(scenes).class_names)))}
    verdicts: dict[str, bool | None] = {}
    for unit in pairs.description.units:
        rows = [row for row in read_index(pairs, unit, columns=_COLUMNS).to_pylist() if row["status"] == OK]
        keys = {row["key"] for row in rows if row["noun"] in labels and _lot(row["key"]) < share}
        shard = SceneShard(scenes, unit)
        numbers = [number for number, key in enumerate(shard.index["key"].to_pylist()) if key in keys]
        truths = {scene.key: scene for scene in shard.scenes(numbers)}
        for row in rows:
            scene = truths.get(row["key"])
            verdicts[row["pair"]] = None
            if scene is not None and scene.label_png is not None and row["noun"] in labels:
                size = row["height_px"], row["width_px"]
                things = encode_masks(things_named(scene, labels[row["noun"]], *size))
                verdicts[row["pair"]] = bool((iou_matrix([row["mask_counts"]], things, *size) >= MIN_IOU).any())
    return verdicts


def _lot(key: str) -> float:
    """Return a number, 0 to 1, that hangs on a picture's key alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64


def things_named(scene: Scene, label: int, height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    """Return what labels call by a class, at the size of the picture as it was mined [thing height width].

    All pixels of the class come first, then each of its instances; nothing where the scene does not show it.
    """
    labels, instances = (
        nearest_resized(upright_labels(png, scene.exif_orientation), height_px, width_px) if png is not None else None
        for png in (scene.label_png, scene.instances_png)
    )
    if labels is None or not (labels == label).any():
        return np.zeros((0, height_px, width_px), np.bool_)
    of_class = labels == label
    numbers = [] if instances is None else np.unique(instances[of_class]).tolist()
    return np.stack([of_class, *(of_class & (instances == number) for number in numbers if number)])


class Curve(NamedTuple):
    """Precision against yield of pairs that are taken one after the other.

    Attributes:
        yields: Share of all right pairs among those taken so far [pair].
        precisions: Share of right ones among those taken so far [pair].
    """

    yields: npt.NDArray[np.float64]
    precisions: npt.NDArray[np.float64]

    def precision_at(self, share: float) -> float:
        """Return the precision when the yield first reaches a share of the right pairs; NaN where nothing is right."""
        reached = np.flatnonzero(self.yields >= share - 1e-12)
        return float(self.precisions[reached[0]]) if len(reached) else float("nan")


def precision_against_yield(order: Sequence[float], right: Sequence[bool]) -> Curve:
    """Take pairs in descending order of a number, those of equal numbers together, and count the right ones.

    Args:
        order: What pairs are ordered by; NaN comes last.
        right: Whether each is right.
    """
    values = np.nan_to_num(np.asarray(order, np.float64), nan=-np.inf)
    descending = np.argsort(-values, kind="stable")
    taken = np.asarray(right, np.float64)[descending].cumsum()
    counts = np.arange(1, len(values) + 1)
    ordered = values[descending]
    ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], len(ordered) > 0))  # a bound keeps equal ones or none
    total = taken[-1] if len(taken) else 0.0
    shares = taken / total if total else np.full(len(taken), np.nan)
    return Curve(shares[ends], (taken / counts)[ends])
