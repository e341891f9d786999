"""Pairs for other tools: COCO and LVIS instances, YOLO's polygons, the Hub's layout with a folder for tables, CSV.

Masks lie on pictures of ``height_px`` x ``width_px``, as the proposal net saw them, and stay the very run lengths;
pictures that are written beside them have this size. No file holds an absolute path.
"""

import csv
import io
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import PipelineError
from pipeline.mine.card import SHEET_FILE, make_card, readme_of
from pipeline.pair_files.croissant import CROISSANT_FILE, croissant_json
from pipeline.pair_files.pictures import (
    PICTURES_FILE,
    mined_sizes,
    source_paths,
    write_picture_list,
    write_pictures,
)
from pipeline.pair_files.yolo import write_yolo
from pipeline.scenes_of_pairs import scenes_of
from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.commit import Disk, make_directories, published_file, write_file
from storage_schemas.negatives import KIND as NEGATIVES
from storage_schemas.negatives import read_negatives
from storage_schemas.pairs import KIND, read_index
from storage_schemas.status import CARD_DIRECTORY, README_FILE

logger = logging.getLogger(__name__)

Format: TypeAlias = Literal["coco", "lvis", "yolo-seg", "hub", "csv"]

COCO_FILE, LVIS_FILE, CSV_FILE = "annotations/instances_pairs.json", "annotations/lvis_pairs.json", "pairs.csv"
IMAGES = "images"

_IN_ATTRIBUTES = (
    *("pair", "image_id", "noun_text", "noun_start", "noun_end", "caption_id", "caption"),
    *("region", "score", "margin", "rank"),
)
"""Columns that COCO has no place of its own for, and that do not follow from others."""
_RARE, _COMMON = 10, 100
"""Images of a category at most by which LVIS calls it rare, and common."""


def export_pairs(
    pairs: Artifact,
    to: Format,
    out: Path,
    *,
    scenes: Artifact | None = None,
    pictures: bool = True,
    negatives: Artifact | None = None,
) -> int:
    """Write pairs in the files of other tools.

    Args:
        pairs: Finished.
        to: ``"coco"`` and ``"lvis"``: instances with compressed run lengths, their pictures in ``images``;
            ``"yolo-seg"``: what Ultralytics trains on; ``"hub"``: ``shards`` and ``table`` with a ``README.md``;
            ``"csv"``: one table.
        out: Directory, new or empty.
        scenes: Those that the pairs were mined from; None to look for them beside the pairs. For pictures and
            their names.
        pictures: Whether pictures are written; without them the files take some percent of the space, and go with the
            data set's own pictures, resized.
        negatives: Of these pairs, for LVIS's ``neg_category_ids``.

    Returns:
        The number of pairs.

    Raises:
        PipelineError: If something is in the directory, the scenes are not found, or are other ones.
        WriteError: If the operating system refuses.
    """
    pairs.require(KIND)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise PipelineError(f"{out}: is not empty; give a new directory, or delete what is in it")
    if to == "hub":
        return _hub(pairs, out, scenes, pictures=pictures)
    if to == "csv":
        return _csv(pairs, out)
    found = scenes_of(pairs, scenes)
    if to == "yolo-seg":
        return write_yolo(pairs, found, out, pictures=pictures)
    if pictures:
        sizes = mined_sizes(pairs)
        write_pictures(sizes, found, {key: out / IMAGES / f"{key}.png" for key in sizes})
    absent = _absent(pairs, negatives) if negatives is not None else {}
    return _instances(pairs, found, out, lvis=to == "lvis", pictures=pictures, absent=absent)


def _absent(pairs: Artifact, negatives: Artifact) -> dict[str, set[str]]:
    """Return by scene the nouns that it does not show.

    Raises:
        PipelineError: If the negatives are of other pairs.
    """
    negatives.require(NEGATIVES)
    expected = negatives.identity.inputs["pairs"]
    if expected not in {pairs.manifest().digest(), pairs.identity.inputs.get("pairs")}:
        raise PipelineError(
            f"{negatives.directory}: is of the pairs {expected[:12]}, {pairs.directory} has the digest "
            f"{pairs.manifest().digest()[:12]}; give the negatives of these pairs, or of those they were chosen from"
        )
    absent: dict[str, set[str]] = {}
    for unit in negatives.description.units:
        for row in _rows(read_negatives(negatives, unit)):
            absent.setdefault(row["key"], set()).add(row["noun"])
    return absent


def _instances(
    pairs: Artifact,
    scenes: Artifact,
    out: Path,
    *,
    lvis: bool,
    pictures: bool,
    absent: Mapping[str, set[str]],
) -> int:
    """Write the JSON file of COCO or LVIS; annotations go to the file as they are read."""
    tables = {
        unit: _usable(read_index(pairs, unit, columns=("key", "status", "noun", "width_px", "height_px")))
        for unit in pairs.description.units
    }
    whole = pa.concat_tables(tables.values())
    categories = {noun: number for number, noun in enumerate(sorted(set(whole["noun"].to_pylist())), start=1)}
    nouns_of: dict[str, set[int]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for row in whole.to_pylist():
        nouns_of.setdefault(row["key"], set()).add(categories[row["noun"]])
        sizes[row["key"]] = row["height_px"], row["width_px"]
    names = {key: f"{key}.png" for key in sizes} if pictures else source_paths(scenes)
    image_ids = {key: number for number, key in enumerate(sizes, start=1)}
    images = [
        {"id": image_ids[key], "file_name": names[key], "height": height, "width": width, "scene": key}
        | (_federated(names[key], nouns, [categories.get(noun, 0) for noun in absent.get(key, ())]) if lvis else {})
        for (key, (height, width)), nouns in zip(sizes.items(), nouns_of.values(), strict=True)
    ]
    head = {
        "info": {"description": f"Mined pairs {pairs.identity.name}, manifest {pairs.manifest().digest()}"},
        "licenses": [],
        "images": images,
        "categories": _categories(categories, whole, nouns_of)
        if lvis
        else [{"id": number, "name": noun, "supercategory": ""} for noun, number in categories.items()],
    }
    count = 0
    make_directories(out / "annotations", Disk())
    with published_file(out / (LVIS_FILE if lvis else COCO_FILE), Disk()) as file:
        file.write(json.dumps(head, ensure_ascii=False).encode()[:-1] + b', "annotations": [')
        for unit in pairs.description.units:
            for row in _rows(read_index(pairs, unit)):
                count += 1
                document = _annotation(row, count, image_ids[row["key"]], categories[row["noun"]], lvis=lvis)
                file.write(b",\n" if count > 1 else b"\n")
                file.write(json.dumps(document, ensure_ascii=False).encode())
        file.write(b"\n]}\n")
    return count


def _federated(name: str, nouns: set[int], absent: Sequence[int]) -> dict[str, Any]:
    """Return what LVIS asks of an image: a caption's nouns are not exhaustive; absent are those of negatives alone."""
    return {
        "coco_url": f"{IMAGES}/{name}",
        "neg_category_ids": sorted({number for number in absent if number} - nouns),  # 0: a noun of no pair
        "not_exhaustive_category_ids": sorted(nouns),
    }


def _annotation(row: Mapping[str, Any], number: int, image: int, category: int, *, lvis: bool) -> dict[str, Any]:
    """Return the annotation of a pair; what COCO has no place for is in ``attributes``, which tools keep."""
    left, top, right, bottom = row["box_xyxy"]
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": {"size": [row["height_px"], row["width_px"]], "counts": row["mask_counts"].decode("ascii")},
        "bbox": [left, top, right - left, bottom - top],
        "area": row["area_px"],
        **({} if lvis else {"iscrowd": 0}),
        "attributes": {name: row[name] for name in _IN_ATTRIBUTES},
    }


def _categories(
    categories: Mapping[str, int], rows: pa.Table, nouns_of: Mapping[str, set[int]]
) -> list[dict[str, Any]]:
    """Return LVIS's categories. Synsets are left empty: a noun of a caption has none that anybody chose."""
    images = Counter(number for numbers in nouns_of.values() for number in numbers)
    instances = Counter(rows["noun"].to_pylist())
    return [
        {
            "id": number,
            "name": noun,
            "synset": "",
            "synonyms": [noun],
            "def": "",
            "image_count": images[number],
            "instance_count": instances[noun],
            "frequency": "r" if images[number] <= _RARE else "c" if images[number] <= _COMMON else "f",
        }
        for noun, number in categories.items()
    ]


def _hub(pairs: Artifact, out: Path, scenes: Artifact | None, *, pictures: bool) -> int:
    """Copy shards and tables into folders of their own, with a README that names the ones to load first.

    Tables alone come with a list of the data set's pictures, if the scenes that name them are found.
    """
    folders = {"parquet": "table", **({"tar": "shards"} if pictures else {})}
    for suffix, folder in folders.items():
        make_directories(out / folder, Disk())
        for unit in pairs.description.units:
            with (
                published_file(out / folder / f"{unit}.{suffix}", Disk()) as file,
                (pairs.directory / f"{unit}.{suffix}").open("rb") as source,
            ):
                while data := source.read(1 << 20):
                    file.write(data)
    if pictures:
        make_card(pairs)
        make_directories(out / CARD_DIRECTORY, Disk())
        sheet = f"{CARD_DIRECTORY}/{SHEET_FILE}"
        write_file(out / sheet, (pairs.directory / sheet).read_bytes(), Disk())
    else:
        try:
            write_picture_list(mined_sizes(pairs), scenes_of(pairs, scenes), out)
        except PipelineError as error:
            if scenes is not None:
                raise
            logger.warning("%s is left out, image_id alone says which picture is meant: %s", PICTURES_FILE, error)
    write_file(out / CROISSANT_FILE, croissant_json(pairs, folders), Disk())
    readme = readme_of(pairs, "shards/shard-*.tar" if pictures else "table/shard-*.parquet", has_sheet=pictures)
    write_file(out / README_FILE, readme.encode(), Disk())
    return pairs.manifest().counts.get(OK, 0)


def _csv(pairs: Artifact, out: Path) -> int:
    """Write one table of pairs as CSV; run lengths as text, boxes as four columns."""
    make_directories(out, Disk())
    count = 0
    with published_file(out / CSV_FILE, Disk()) as file:
        for unit in pairs.description.units:
            text = io.StringIO(newline="")
            for row in _rows(read_index(pairs, unit)):
                box = dict(zip(("left_px", "top_px", "right_px", "bottom_px"), row["box_xyxy"], strict=True))
                kept = {name: value for name, value in row.items() if name not in {"box_xyxy", "crop", "crop_mask"}}
                flat = {**kept, "mask_counts": row["mask_counts"].decode("ascii"), **box}
                writer = csv.DictWriter(text, list(flat))
                if not count:
                    writer.writeheader()
                writer.writerow(flat)
                count += 1
            file.write(text.getvalue().encode())
    return count


def _usable(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["status"], OK))


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the pairs of a table; rows that say why there is none are left out."""
    rows: list[dict[str, Any]] = _usable(table).to_pylist()
    return rows
