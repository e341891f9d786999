"""Pairs as COCO, LVIS, Hub and CSV files, read by the tools that read such files, and back."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pycocotools.coco import COCO

from pipeline.errors import PipelineError, StageError
from pipeline.mine.filter_pairs import PairRule, filter_pairs
from pipeline.mine.negatives import make_negatives
from pipeline.pair_files import import_pairs as importing
from pipeline.pair_files.export_pairs import export_pairs
from pipeline.pair_files.import_pairs import import_pairs
from pipeline.shard_runner import Limits
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.negatives import read_negatives
from storage_schemas.pairs import read_index, read_members
from storage_schemas.rle import decode_masks, encode_masks
from tests.pipeline.mine.mining_world import mining_settings, pair_rows


def members_of(artifact):
    """Read crop and mask of each pair, by name."""
    found = {}
    for unit in artifact.description.units:
        index = read_index(artifact, unit)
        usable = [row for row, status in enumerate(index["status"].to_pylist()) if status == "ok"]
        names = [index["pair"][row].as_py() for row in usable]
        found.update(zip(names, read_members(artifact, unit, index, usable), strict=True))
    return found


def ok_rows(artifact):
    return [row for row in pair_rows(artifact) if row["status"] == "ok"]


@pytest.fixture(scope="session")
def exported(drawn_pairs, tmp_path_factory):
    """All formats, with pictures."""
    out = tmp_path_factory.mktemp("exported")
    for to in ("coco", "lvis", "yolo-seg", "hub", "csv"):
        assert export_pairs(drawn_pairs, to, out / to) == len(ok_rows(drawn_pairs))
    return out


@pytest.mark.parametrize("name", ["coco/annotations/instances_pairs.json", "lvis/annotations/lvis_pairs.json"])
def test_pycocotools_reads_every_mask(exported, drawn_pairs, name, capsys):
    coco = COCO(str(exported / name))
    rows = {row["pair"]: row for row in ok_rows(drawn_pairs)}
    assert len(coco.anns) == len(rows)
    for annotation in coco.anns.values():
        row = rows[annotation["attributes"]["pair"]]
        expected = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
        assert np.array_equal(coco.annToMask(annotation).astype(bool), expected)
        assert coco.cats[annotation["category_id"]]["name"] == row["noun"]
        image = coco.imgs[annotation["image_id"]]
        with Image.open((exported / name).parents[1] / "images" / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"]) == (row["width_px"], row["height_px"])
        left, top, width, height = annotation["bbox"]
        assert [left, top, left + width, top + height] == row["box_xyxy"]
        assert annotation["area"] == expected.sum()
    assert sorted(coco.cats) == list(range(1, 1 + len({row["noun"] for row in rows.values()})))


def test_lvis_lists_are_federated(exported, drawn_pairs):
    document = json.loads((exported / "lvis" / "annotations" / "lvis_pairs.json").read_text())
    numbers = {category["name"]: category["id"] for category in document["categories"]}
    nouns: dict[str, set[int]] = {}
    for row in ok_rows(drawn_pairs):
        nouns.setdefault(row["key"], set()).add(numbers[row["noun"]])
    for image in document["images"]:
        assert image["not_exhaustive_category_ids"] == sorted(nouns[image["scene"]])
        assert image["neg_category_ids"] == []
        assert image["coco_url"].split("/")[-2:] == ["images", image["file_name"]]
    counts = {category["id"]: category["image_count"] for category in document["categories"]}
    assert counts == {number: sum(number in of for of in nouns.values()) for number in counts}
    assert {category["frequency"] for category in document["categories"]} == {"r"}
    assert not any("iscrowd" in annotation for annotation in document["annotations"])


def test_lvis_lists_what_negatives_say_is_absent(drawn_pairs, tmp_path):
    negatives = make_negatives(drawn_pairs).artifact
    export_pairs(drawn_pairs, "lvis", tmp_path / "lvis", pictures=False, negatives=negatives)
    document = json.loads((tmp_path / "lvis" / "annotations" / "lvis_pairs.json").read_text())
    names = {category["id"]: category["name"] for category in document["categories"]}
    found = {(image["scene"], names[number]) for image in document["images"] for number in image["neg_category_ids"]}
    rows = [row for unit in negatives.description.units for row in read_negatives(negatives, unit).to_pylist()]
    shown = {row["key"] for row in ok_rows(drawn_pairs)}
    assert found == {(row["key"], row["noun"]) for row in rows if row["status"] == "ok" and row["key"] in shown}
    assert found
    subset = filter_pairs(drawn_pairs, PairRule(max_per_noun=1), tmp_path / "subset").artifact
    again = filter_pairs(subset, PairRule(max_per_noun=1), tmp_path / "again").artifact
    (scenes,) = (Artifact.open(path) for path in (drawn_pairs.directory.parents[1] / "scenes").iterdir())
    export_pairs(subset, "lvis", tmp_path / "few", pictures=False, scenes=scenes, negatives=negatives)
    with pytest.raises(PipelineError, match=r"is of the pairs [0-9a-f]{12}, .*; give the negatives of these pairs"):
        export_pairs(again, "lvis", tmp_path / "fewer", pictures=False, scenes=scenes, negatives=negatives)


@pytest.mark.parametrize("crop_format", ["png", "jpg"])
def test_coco_and_back_gives_the_same_pairs(tmp_path, crop_format):
    settings = mining_settings(
        tmp_path, "mine.source=masks-1-caption", f"mine.pair.crop_format={crop_format}", scenes=3
    )
    pairs = run("mine", settings).artifact
    export_pairs(pairs, "coco", tmp_path / "coco")
    again = import_pairs(
        tmp_path / "coco" / "annotations" / "instances_pairs.json",
        tmp_path / "coco" / "images",
        tmp_path / "again",
        crop_format=crop_format,
    ).artifact
    kept = [name for name in ok_rows(pairs)[0] if name not in {"crop", "crop_mask"}]
    assert [[row[name] for name in kept] for row in ok_rows(again)] == [
        [row[name] for name in kept] for row in ok_rows(pairs)
    ]
    assert members_of(again) == members_of(pairs)
    assert (again.directory / "README.md").is_file()


def test_the_hub_folder_has_tables_of_their_own_and_a_copy_of_them_is_small(exported, drawn_pairs, tmp_path):
    hub = exported / "hub"
    assert sorted(path.name for path in hub.iterdir()) == ["README.md", "card", "croissant.json", "shards", "table"]
    tables = [pa.parquet.read_table(path) for path in sorted((hub / "table").glob("*.parquet"))]
    assert pa.concat_tables(tables)["pair"].to_pylist() == [row["pair"] for row in pair_rows(drawn_pairs)]
    for unit in drawn_pairs.description.units:
        assert (hub / "shards" / f"{unit}.tar").read_bytes() == (drawn_pairs.directory / f"{unit}.tar").read_bytes()
    export_pairs(drawn_pairs, "hub", tmp_path / "tables", pictures=False)
    names = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert names == ["README.md", "croissant.json", "pictures.csv", "table"]
    assert "contact_sheet" not in (tmp_path / "tables" / "README.md").read_text()


def test_datasets_loads_the_hub_folder_and_its_table(exported, drawn_pairs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="the environment is older than pyproject.toml; run make install")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    pairs = datasets.load_dataset(str(exported / "hub"), split="train", streaming=True)
    assert [pair["__key__"] for pair in pairs] == [row["pair"] for row in ok_rows(drawn_pairs)]
    table = datasets.load_dataset(str(exported / "hub"), data_dir="table", split="train")
    assert table["noun"] == [row["noun"] for row in pair_rows(drawn_pairs)]


def test_csv_has_a_line_per_pair(exported, drawn_pairs):
    with (exported / "csv" / "pairs.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = ok_rows(drawn_pairs)
    assert [line["caption"] for line in lines] == [row["caption"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert float(line["score"]) == row["score"]
        assert line["mask_counts"].encode() == row["mask_counts"]
        assert [int(line[f"{side}_px"]) for side in ("left", "top", "right", "bottom")] == row["box_xyxy"]


def test_no_file_holds_an_absolute_path(exported, drawn_pairs):
    for path in exported.rglob("*"):
        if path.suffix in {".json", ".csv", ".md", ".txt", ".yaml"}:
            text = path.read_text(encoding="utf-8")
            assert str(drawn_pairs.directory.parents[1]) not in text
            assert os.sep + "tmp" not in text


def test_without_pictures_images_are_named_as_the_data_set_does(drawn_pairs, tmp_path):
    export_pairs(drawn_pairs, "coco", tmp_path / "coco", pictures=False)
    assert [path.name for path in (tmp_path / "coco").iterdir()] == ["annotations"]
    document = json.loads((tmp_path / "coco" / "annotations" / "instances_pairs.json").read_text())
    assert {image["file_name"] for image in document["images"]} == {row["key"] for row in ok_rows(drawn_pairs)}


def test_a_subset_finds_the_scenes_of_its_pairs(drawn_pairs, tmp_path):
    runs = drawn_pairs.directory.parents[1]
    subset = filter_pairs(drawn_pairs, PairRule(max_per_noun=1), runs / "pairs" / "subset-of-test").artifact
    try:
        assert export_pairs(subset, "coco", tmp_path / "coco") == len(ok_rows(subset))
    finally:
        shutil.rmtree(subset.directory)
    moved = tmp_path / "elsewhere" / "pairs" / "subset"
    shutil.copytree(drawn_pairs.directory, moved)
    with pytest.raises(PipelineError, match=r"its scenes are not below .*name them by --scenes"):
        export_pairs(Artifact.open(moved), "coco", tmp_path / "other")
    (scenes,) = (Artifact.open(path) for path in (runs / "scenes").iterdir())
    assert export_pairs(Artifact.open(moved), "coco", tmp_path / "other", scenes=scenes) == len(ok_rows(drawn_pairs))


def test_pictures_of_a_subset_without_a_pair_in_some_shard(drawn_pairs, tmp_path):
    first = {row["noun"] for row in pair_rows(drawn_pairs) if row["pair"].startswith("00000-")}
    elsewhere = {row["noun"] for row in pair_rows(drawn_pairs) if not row["pair"].startswith("00000-")}
    subset = filter_pairs(drawn_pairs, PairRule(nouns=tuple(first - elsewhere)), tmp_path / "subset").artifact
    (scenes,) = (Artifact.open(path) for path in (drawn_pairs.directory.parents[1] / "scenes").iterdir())
    export_pairs(subset, "coco", tmp_path / "coco", scenes=scenes)
    pictures = {path.stem for path in (tmp_path / "coco" / "images").iterdir()}
    assert pictures == {row["key"] for row in pair_rows(subset)}
    assert pictures


def test_other_scenes_and_a_full_directory_are_refused(drawn_pairs, tmp_path):
    other = run("mine", mining_settings(tmp_path, "mine.source=masks-1-caption", scenes=2)).artifact
    (scenes,) = (Artifact.open(path) for path in (tmp_path / "scenes").iterdir())
    with pytest.raises(PipelineError, match=r"has the digest .*, the pairs are of scenes"):
        export_pairs(drawn_pairs, "coco", tmp_path / "coco", scenes=scenes)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(PipelineError, match="full: is not empty"):
        export_pairs(other, "csv", tmp_path / "full")


def coco_of(folder: Path, *annotations, **changes) -> Path:
    """Write a COCO file with a picture of 6 x 4 px and two categories."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (9, 8, 7)).save(buffer, format="PNG")
    (folder / "images" / "one.png").write_bytes(buffer.getvalue())
    document = {
        "images": [{"id": 1, "file_name": "one.png", "height": 4, "width": 6}],
        "categories": [{"id": 3, "name": "chien élégant"}, {"id": 7, "name": "cat"}],
        "annotations": list(annotations),
        **changes,
    }
    path = folder / "instances.json"
    path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return path


FULL = encode_masks(np.ones((1, 6, 4), bool))[0].decode()


def annotated(**changes):
    square = np.zeros((1, 4, 6), bool)
    square[0, 1:3, 2:5] = True
    counts = encode_masks(square)[0].decode()
    return {"id": 1, "image_id": 1, "category_id": 3, "segmentation": {"size": [4, 6], "counts": counts}, **changes}


def imported(path, folder, **options):
    return import_pairs(path, path.parent / "images", folder / "pairs", **options).artifact


def test_instances_of_any_tool_become_pairs(tmp_path):
    polygon = [[0.0, 0.0, 4.0, 0.0, 4.0, 3.0, 0.0, 3.0]]
    path = coco_of(tmp_path, annotated(), annotated(id=2, category_id=7, segmentation=polygon, iscrowd=1))
    first, second = ok_rows(imported(path, tmp_path))
    assert (first["noun"], second["noun"]) == ("chien élégant", "cat")
    assert (first["box_xyxy"], first["area_px"], first["score"]) == ([2, 1, 5, 3], 6, None)
    assert (second["box_xyxy"], second["area_px"]) == ([0, 0, 4, 3], 12)


@pytest.mark.parametrize(
    ("annotation", "status", "reason"),
    [
        ({"segmentation": {"size": [6, 4], "counts": FULL}}, "mask_size", "height and width seem to be swapped"),
        ({"segmentation": []}, "mask_malformed", "has no segmentation"),
        ({"segmentation": {"size": [4, 6], "counts": [24]}}, "mask_empty", "has no pixel"),
        ({"bbox": [0, 0, 1, 1]}, "mask_box", "states the box"),
        ({"area": 20}, "mask_area", "states an area of 20"),
        ({"image_id": 2}, "record_incomplete", "its image is not in the file"),
        ({"category_id": 4}, "record_incomplete", "its category is not in the file"),
    ],
)
def test_annotations_that_cannot_be_taken_are_rows(tmp_path, annotation, status, reason):
    path = coco_of(tmp_path, annotated(id=5, **annotation), annotated())
    with pytest.raises(StageError, match=rf"50\.0% of 2 rows failed \({{'{status}': 1}}\)"):
        imported(path, tmp_path)
    artifact = imported(path, tmp_path, limits=Limits(max_failed_share=0.5))
    bad, good = pair_rows(artifact)
    assert (bad["status"], good["status"]) == (status, "ok")
    assert bad["reason"].startswith("annotation 5")
    assert reason in bad["reason"]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"file_name": "none.png"}, "there is no such file"),
        ({"file_name": "../instances.json"}, "leads out of"),
        ({"file_name": "broken.png"}, "cannot be read as an image"),
    ],
)
def test_pictures_that_cannot_be_read_are_rows(tmp_path, image, reason):
    images = [{"id": 1, "height": 4, "width": 6, **image}]
    path = coco_of(tmp_path, annotated(), images=images)
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG")
    (row,) = pair_rows(imported(path, tmp_path, limits=Limits(max_failed_share=1)))
    assert row["status"] == "picture_missing"
    assert reason in row["reason"]


def test_names_that_repeat_do_not_count(tmp_path):
    attributes = {"pair": "00000-0000001", "caption": "a dog", "score": "high"}
    path = coco_of(tmp_path, annotated(attributes=attributes), annotated(id=2, attributes=attributes))
    rows = ok_rows(imported(path, tmp_path))
    assert [(row["pair"], row["caption"], row["score"]) for row in rows] == [
        ("000000000", "a dog", None),
        ("000000001", "a dog", None),
    ]


def test_shards_are_made_once_and_a_changed_file_is_another_import(tmp_path, monkeypatch):
    monkeypatch.setattr(importing, "ANNOTATIONS_PER_UNIT", 2)
    path = coco_of(tmp_path, *(annotated(id=number) for number in range(5)))
    artifact = imported(path, tmp_path)
    assert [unit.rows for unit in artifact.manifest().units] == [2, 2, 1]
    digest = artifact.manifest().digest()
    (artifact.directory / "shard-00001.json").unlink()
    report = import_pairs(path, tmp_path / "images", tmp_path / "pairs")
    assert (report.units_done, report.artifact.manifest().digest()) == (1, digest)
    path.write_text(path.read_text() + "\n")
    with pytest.raises(PipelineError, match="holds something else than these pairs"):
        imported(path, tmp_path)


@pytest.mark.parametrize("text", ["", "[", "{}", '{"annotations": []}'])
def test_files_without_annotations_are_refused(tmp_path, text):
    path = tmp_path / "instances.json"
    path.write_text(text)
    with pytest.raises(PipelineError, match=r"instances\.json"):
        imported(path, tmp_path)
