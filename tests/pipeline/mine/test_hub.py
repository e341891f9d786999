"""Pairs open with ``datasets.load_dataset(directory)``: every pair, its picture and its mask, streamed or not."""

import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import yaml
from PIL import Image

from pipeline.mine.card import make_card
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.rle import decode_masks, encode_masks
from tests.pipeline.mine.mining_world import pair_rows


@pytest.fixture
def load_dataset(tmp_path, monkeypatch):
    """The function, with a cache of its own and no network."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    datasets = pytest.importorskip("datasets", reason="the environment is older than pyproject.toml; run make install")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    return datasets.load_dataset


def made(directory, *shards):
    """Write pairs, a shard for each list, and their card."""
    identity = Identity(kind="pairs", name="few", schema_version=SCHEMA_VERSION, producer_version=1, settings={})
    units = tuple(f"shard-{number:05d}" for number in range(len(shards)))
    artifact = Artifact.planned(directory, Description(identity=identity, units=units))
    with artifact.writing():
        sidecars = {}
        for name, pairs in zip(units, shards, strict=True):
            with artifact.write_unit(name) as unit:
                writer = PairShardWriter(unit)
                for pair in pairs:
                    writer.add(pair)
                sidecars[name] = writer.commit()
        artifact.finish(artifact.manifest_of(sidecars))
    make_card(artifact)
    return artifact


def pair(number, *, suffix="png", **fields):
    """One pair whose picture's colour is its number."""
    picture, mask = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (5, 4), (number, 0, 0)).save(picture, format="JPEG" if suffix == "jpg" else "PNG")
    Image.new("L", (5, 4), 255).save(mask, format="PNG")
    return Pair(
        **{
            "pair": f"00000-{number:07d}",
            "key": "scene",
            "image_id": "7",
            "noun": f"noun {number}",
            "score": 0.5,
            "height_px": 4,
            "width_px": 5,
            "mask_counts": encode_masks(np.ones((1, 4, 5), bool))[0],
            "area_px": 20,
            "box_xyxy": (0, 0, 5, 4),
            "crop_suffix": suffix,
            "crop": picture.getvalue(),
            "crop_mask_png": mask.getvalue(),
            **fields,
        }
    )


@pytest.mark.parametrize("streaming", [False, True])
def test_one_line_loads_every_pair_with_picture_and_mask(load_dataset, drawn_pairs, streaming):
    rows = [row for row in pair_rows(drawn_pairs) if row["status"] == "ok"]
    found = list(load_dataset(str(drawn_pairs.directory), streaming=streaming)["train"])
    assert [sample["__key__"] for sample in found] == [row["pair"] for row in rows]
    for sample, row in zip(found, rows, strict=True):
        left, top, right, bottom = row["box_xyxy"]
        whole = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
        assert np.array_equal(np.asarray(sample["mask.png"]) == 255, whole[top:bottom, left:right])
        assert (sample["png"].mode, sample["png"].size) == ("RGB", (right - left, bottom - top))
        assert sample["txt"] == row["noun"]
        assert {name: sample["json"][name] for name in ("caption", "box_xyxy", "margin", "noun_start")} == {
            name: row[name] for name in ("caption", "box_xyxy", "margin", "noun_start")
        }


def test_the_tables_load_by_naming_them(load_dataset, drawn_pairs):
    found = load_dataset(str(drawn_pairs.directory), data_files="shard-*.parquet", split="train")
    assert found["pair"] == [row["pair"] for row in pair_rows(drawn_pairs)]


def test_fields_that_are_missing_in_the_first_pairs_load_later(load_dataset, tmp_path):
    pairs = [pair(number) for number in range(6)]
    pairs.append(replace(pair(6), margin=0.25, caption="a dog", caption_id=2**40, noun_start=2, noun_end=5))
    found = load_dataset(str(made(tmp_path, pairs[:3], pairs[3:]).directory), split="train")
    assert [sample["json"]["margin"] for sample in found] == [None] * 6 + [0.25]
    assert found[6]["json"]["caption_id"] == 2**40


def test_jpeg_crops_and_shards_without_a_pair_load(load_dataset, tmp_path):
    failed = Pair(pair="00000-0000009", key="scene", image_id="7", status="no-noun", reason="no noun")
    found = load_dataset(str(made(tmp_path, [pair(1, suffix="jpg")], [failed]).directory), split="train")
    assert [(sample["jpg"].size, sample["txt"]) for sample in found] == [((5, 4), "noun 1")]


def test_the_readme_says_what_the_hub_asks_for(drawn_pairs, tmp_path):
    _, head, text = (drawn_pairs.directory / "README.md").read_text().split("---\n", maxsplit=2)
    metadata = yaml.safe_load(head)
    assert (metadata["license"], metadata["size_categories"]) == ("apache-2.0", ["n<1K"])
    assert metadata["task_categories"] == ["image-segmentation", "zero-shot-image-classification"]
    assert metadata["configs"] == [
        {"config_name": "default", "data_files": [{"split": "train", "path": "shard-*.tar"}]}
    ]
    assert "![pairs, drawn by lot, the nearest first](card/contact_sheet.png)" in text
    assert (drawn_pairs.directory / "card" / "contact_sheet.png").is_file()
    assert str(drawn_pairs.directory.parent) not in json.dumps(metadata)


def test_a_copy_elsewhere_loads_as_well(load_dataset, drawn_pairs, tmp_path):
    shutil.copytree(drawn_pairs.directory, tmp_path / "val" / "copy of pairs")
    assert len(load_dataset(str(tmp_path / "val" / "copy of pairs"), split="train")) == sum(
        row["status"] == "ok" for row in pair_rows(drawn_pairs)
    )
