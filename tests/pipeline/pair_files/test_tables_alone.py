"""Pairs without their pictures: a fiftieth of the bytes, and whole again with the data set's own pictures."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image, ImageOps

from pipeline.pair_files.croissant import CROISSANT_FILE
from pipeline.pair_files.export_pairs import export_pairs
from pipeline.pair_files.pictures import write_picture_list
from pipeline.scenes_of_pairs import scenes_of
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.digests import sha256_of_file
from storage_schemas.manifest import Description, Identity
from storage_schemas.rle import decode_masks
from storage_schemas.scenes import KIND as SCENES
from storage_schemas.scenes import SCHEMA_VERSION as SCENES_VERSION
from storage_schemas.scenes import Scene, SceneShard, SceneShardWriter
from tests.pipeline.mine.mining_world import mining_settings, pair_rows

REAL_SIZE = "{dataset='drawn-world', split='val', drawn_world={scenes=8, size_px=512}}"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Pairs of pictures of the size of COCO's; drawn ones, which compress better than photographs."""
    size = ("mine.propose.short_side_px=512", "mine.propose.max_side_px=640")
    settings = mining_settings(
        tmp_path_factory.mktemp("large"), "mine.source=masks-1-caption", *size, dataset=REAL_SIZE
    )
    return run("mine", settings).artifact


@pytest.fixture(scope="module")
def tables(large, tmp_path_factory):
    out = tmp_path_factory.mktemp("tables") / "tables"
    export_pairs(large, "hub", out, pictures=False)
    return out


def test_tables_alone_are_a_fiftieth_of_the_bytes(large, tables):
    whole = sum(record.size_bytes for unit in large.manifest().units for record in unit.files)
    alone = sum(path.stat().st_size for path in tables.rglob("*") if path.is_file())
    assert alone <= 0.02 * whole


def test_with_the_data_sets_pictures_they_are_the_pairs_again(large, tables, tmp_path):
    for unit in scenes_of(large, None).description.units:  # the pictures as a data set has them
        for scene in SceneShard(scenes_of(large, None), unit).scenes(labels=False):
            (tmp_path / scene.key).write_bytes(scene.image)
    with (tables / "pictures.csv").open(newline="") as file:
        pictures = {row["key"]: row for row in csv.DictReader(file)}
    rows = [row for path in sorted((tables / "table").glob("*.parquet")) for row in _rows(path)]
    assert [row["pair"] for row in rows] == [row["pair"] for row in pair_rows(large)]
    tar = (large.directory / f"{large.description.units[0]}.tar").read_bytes()
    for row in rows:
        listed = pictures[row["key"]]
        size = int(listed["width_px"]), int(listed["height_px"])
        picture = ImageOps.exif_transpose(Image.open(tmp_path / listed["file_name"])).convert("RGB")
        crop = picture.resize(size, Image.Resampling.BILINEAR).crop(row["box_xyxy"])
        left, top, right, bottom = row["box_xyxy"]
        mask = decode_masks([row["mask_counts"]], size[1], size[0])[0, top:bottom, left:right]
        for place, expected in ((row["crop"], crop), (row["crop_mask"], 255 * mask.astype(np.uint8))):
            stored = Image.open(io.BytesIO(tar[place["offset"] : place["offset"] + place["size_bytes"]]))
            assert np.array_equal(np.asarray(stored), np.asarray(expected))


def _rows(path):
    return pyarrow.parquet.read_table(path).to_pylist()


def test_without_the_scenes_tables_are_written_and_the_missing_list_is_reported(drawn_pairs, tmp_path, caplog):
    moved = tmp_path / "elsewhere" / "pairs" / "moved"
    shutil.copytree(drawn_pairs.directory, moved)
    export_pairs(Artifact.open(moved), "hub", tmp_path / "tables", pictures=False)
    assert "pictures.csv is left out" in caplog.text
    assert "--scenes" in caplog.text
    assert not (tmp_path / "tables" / "pictures.csv").exists()


@pytest.mark.filterwarnings("ignore")  # of pandas and rdflib, in mlcroissant
@pytest.mark.parametrize("pictures", [True, False])
def test_croissant_is_valid_and_lists_every_file_with_its_digest(drawn_pairs, tmp_path, pictures):
    mlcroissant = pytest.importorskip("mlcroissant", reason="the environment is older than pyproject.toml")
    export_pairs(drawn_pairs, "hub", tmp_path / "hub", pictures=pictures)
    document = json.loads((tmp_path / "hub" / CROISSANT_FILE).read_text())
    suffixes = ("parquet", "tar") if pictures else ("parquet",)
    files = {path.relative_to(tmp_path / "hub").as_posix() for end in suffixes for path in tmp_path.rglob(f"*.{end}")}
    assert {entry["contentUrl"] for entry in document["distribution"]} == files
    for entry in document["distribution"]:
        assert entry["sha256"] == sha256_of_file(tmp_path / "hub" / entry["contentUrl"])
    dataset = mlcroissant.Dataset(jsonld=str(tmp_path / "hub" / CROISSANT_FILE))
    issues = dataset.metadata.issues
    assert not issues.errors
    assert len(issues.warnings) == 1  # the date of publication, which is not known when the file is written
    assert "datePublished" in str(issues.warnings)
    found = [
        record[f"{unit}/noun"].decode() for unit in drawn_pairs.description.units for record in dataset.records(unit)
    ]
    assert found == [row["noun"] for row in pair_rows(drawn_pairs)]


def test_pictures_are_listed_as_the_data_set_has_them(tmp_path):
    identity = Identity(kind=SCENES, name="few", schema_version=SCENES_VERSION, producer_version=1, settings={})
    scenes = Artifact.planned(tmp_path, Description(identity=identity, units=("shard-00000",)))
    with scenes.writing(), scenes.write_unit("shard-00000") as unit:
        writer = SceneShardWriter(unit)
        for key, path in (("a", "train/a 1.jpg"), ("b", ""), ("c", "c.jpg")):
            scene = {"image_id": f"id {key}", "image": b"x", "image_suffix": "jpg", "width_px": 4, "height_px": 3}
            writer.add(Scene(key=key, exif_orientation=6, source_path=path, **scene))
        scenes.finish(scenes.manifest_of({"shard-00000": writer.commit()}))
    write_picture_list({"a": (30, 40), "b": (3, 4)}, scenes, tmp_path)
    with (tmp_path / "pictures.csv").open(newline="") as file:
        rows = list(csv.reader(file))[1:]
    assert rows == [["a", "id a", "train/a 1.jpg", "6", "30", "40"], ["b", "id b", "b", "6", "3", "4"]]
