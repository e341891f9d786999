"""Pairs as Ultralytics trains on them: a text file of polygons per picture, and ``data.yaml``.

A line is one pair: the number of its noun, then the corners of its mask's outline along pixel edges, divided by width
and height. The format has one polygon a line and no holes: parts and holes of a mask are joined by bridges of no width,
as Ultralytics' own converter joins parts. Filled by the even-odd rule such a polygon is the very mask; Ultralytics
draws the pixels on its line too, and resamples lines to about a thousand points.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.pair_files.outlines import Loop, joined, outlines
from pipeline.pair_files.pictures import mined_sizes, write_picture_list, write_pictures
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.commit import Disk, make_directories, write_file
from storage_schemas.pairs import read_index
from storage_schemas.rle import decode_masks

logger = logging.getLogger(__name__)

DATA_FILE = "data.yaml"
VALIDATION_SHARE = 0.1

_COLUMNS = ("key", "status", "noun", "height_px", "width_px", "mask_counts", "box_xyxy")


def write_yolo(pairs: Artifact, scenes: Artifact, out: Path, *, pictures: bool) -> int:
    """Write pairs for Ultralytics.

    Args:
        pairs: Finished.
        scenes: Those that they were mined from.
        out: Directory, new or empty.
        pictures: Whether pictures are written; else ``pictures.csv`` says which file of the data set each is.

    Returns:
        The number of pairs.

    Raises:
        PipelineError: If a picture cannot be decoded, or a scene is missing.
        WriteError: If the operating system refuses.
    """
    sizes = mined_sizes(pairs)
    splits = splits_of(sizes)
    for split in ("train", "val"):
        make_directories(out / "labels" / split, Disk())
    nouns = sorted(
        {
            noun
            for unit in pairs.description.units
            for row in read_index(pairs, unit, columns=("status", "noun")).to_pylist()
            if row["status"] == OK and (noun := row["noun"])
        }
    )
    numbers = {noun: number for number, noun in enumerate(nouns)}
    count = holed = parted = 0
    for unit in pairs.description.units:
        rows = [row for row in read_index(pairs, unit, columns=_COLUMNS).to_pylist() if row["status"] == OK]
        for key, of_picture in groupby(rows, key=lambda row: row["key"]):
            lines = []
            for row in of_picture:
                parts = _parts(row)
                count += 1
                parted += len(parts) > 1
                holed += any(len(loops) > 1 for loops in parts)
                polygon = joined([loop for loops in parts for loop in loops]) / (row["width_px"], row["height_px"])
                places = " ".join(f"{value:.6f}" for value in polygon.ravel().tolist())
                lines.append(f"{numbers[row['noun']]} {places}\n")
            write_file(out / "labels" / splits[key] / f"{key}.txt", "".join(lines).encode(), Disk())
    if pictures:
        paths = {key: out / "images" / split / f"{key}.png" for key, split in splits.items()}
        write_pictures(sizes, scenes, paths)
    else:
        write_picture_list(sizes, scenes, out)
    lost = (
        f"{parted} of {count} masks have several parts and {holed} have holes, joined by bridges of no width; "
        "captions, scores and run lengths have no place in this format"
    )
    logger.info("%s: %s", out, lost)
    write_file(out / DATA_FILE, _data_yaml(pairs, nouns, lost).encode(), Disk())
    return count


def splits_of(keys: Iterable[str]) -> Mapping[str, str]:
    """Return by picture ``"train"`` or ``"val"``: a tenth by lot, at least one of two or more, is for validation.

    The lot falls by digests of the keys, so that a picture's split does not hang on the order, and all pairs of a
    picture are in one split.
    """
    by_lot = sorted(keys, key=lambda key: hashlib.sha256(key.encode()).hexdigest())
    validation = max(round(VALIDATION_SHARE * len(by_lot)), len(by_lot) > 1)
    return {key: "val" if place < validation else "train" for place, key in enumerate(by_lot)}


def _parts(row: Mapping[str, Any]) -> list[list[Loop]]:
    """Trace the mask of a pair, part by part; px in the picture."""
    left, top, right, bottom = row["box_xyxy"]
    mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0, top:bottom, left:right]
    return [[loop + np.array([left, top]) for loop in loops] for loops in outlines(mask)]


def _data_yaml(pairs: Artifact, nouns: list[str], lost: str) -> str:
    """Write what Ultralytics reads; without ``path``, the folders lie beside the file, wherever it is."""
    names = "".join(f"  {number}: {json.dumps(noun, ensure_ascii=False)}\n" for number, noun in enumerate(nouns))
    return (
        f"# Mined pairs {pairs.identity.name}, manifest {pairs.manifest().digest()}\n"
        f"# {lost}.\n"
        "# Nouns are not exhaustive: a picture may show more of what its lines name, and things that no line names.\n"
        "# A tenth of the pictures, by lot, is for validation; all lines of a picture are in one split.\n"
        f"train: images/train\nval: images/val\nnames:\n{names}"
    )
