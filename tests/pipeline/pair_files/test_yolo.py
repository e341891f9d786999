"""YOLO-seg files: polygons that are the very masks, names, relative places, and one split for each picture."""

from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from pipeline.pair_files.export_pairs import export_pairs
from pipeline.pair_files.outlines import joined, outlines
from pipeline.pair_files.yolo import splits_of
from storage_schemas.rle import decode_masks
from tests.pipeline.mine.mining_world import pair_rows


def filled(polygon, height, width):
    """Fill a polygon by the even-odd rule: of a pixel inside, a line from its middle crosses an odd number of edges."""
    x, y = (axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(width), np.arange(height)))
    inside = np.zeros(height * width, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        crosses = (y0 <= y) != (y1 <= y)
        inside[crosses] ^= (x0 + (y[crosses] - y0) * (x1 - x0) / (y1 - y0)) > x[crosses]
    return inside.reshape(height, width)


def rings(*sizes):
    """Draw squares in squares, each of the other colour than the one around it."""
    mask = np.zeros((sizes[0], sizes[0]), bool)
    for number, size in enumerate(sizes):
        edge = (sizes[0] - size) // 2
        mask[edge : edge + size, edge : edge + size] = number % 2 == 0
    return mask


@pytest.mark.parametrize(
    ("mask", "loops"),
    [
        (np.ones((1, 1), bool), [1]),
        (np.ones((3, 5), bool), [1]),
        (np.eye(4, dtype=bool), None),  # corners that touch
        (rings(9, 5), [2]),
        (rings(13, 9, 5, 1), [2, 2]),  # a part with a hole inside a hole
        (np.array([[1, 0, 1, 1]], bool), [1, 1]),
    ],
)
def test_outlines_are_the_very_mask(mask, loops):
    parts = outlines(mask)
    if loops is not None:
        assert sorted(map(len, parts)) == loops
    polygon = joined([loop for part in parts for loop in part])
    assert np.array_equal(filled(polygon, *mask.shape), mask)


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 14), st.integers(1, 14))
def test_outlines_of_any_mask_are_that_mask_to_pycocotools_too(seed, height, width):
    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    mask[0, 0] = True
    polygon = joined([loop for part in outlines(mask) for loop in part])
    assert np.array_equal(filled(polygon, height, width), mask)
    drawn = coco_mask.decode(coco_mask.frPyObjects([polygon.ravel().tolist()], height, width)[0])
    assert np.array_equal(drawn.astype(bool), mask)


def test_every_line_is_a_pair_and_its_polygon_the_mask(drawn_pairs, tmp_path):
    rows = [row for row in pair_rows(drawn_pairs) if row["status"] == "ok"]
    assert export_pairs(drawn_pairs, "yolo-seg", tmp_path / "yolo") == len(rows)
    data = yaml.safe_load((tmp_path / "yolo" / "data.yaml").read_text())
    assert (data["train"], data["val"], "path" in data) == ("images/train", "images/val", False)
    assert list(data["names"].values()) == sorted({row["noun"] for row in rows})
    assert list(data["names"]) == list(range(len(data["names"])))
    by_picture = {}
    for row in rows:
        by_picture.setdefault(row["key"], []).append(row)
    labels = {path.stem: path for path in (tmp_path / "yolo" / "labels").rglob("*.txt")}
    assert labels.keys() == by_picture.keys()
    for key, path in labels.items():
        with Image.open(tmp_path / "yolo" / "images" / path.parent.name / f"{key}.png") as picture:
            width, height = picture.size
        for line, row in zip(path.read_text().splitlines(), by_picture[key], strict=True):
            number, *places = line.split()
            assert data["names"][int(number)] == row["noun"]
            polygon = np.array(places, float).reshape(-1, 2)
            assert len(polygon) >= 3
            assert 0 <= polygon.min() <= polygon.max() <= 1
            mask = decode_masks([row["mask_counts"]], row["height_px"], row["width_px"])[0]
            assert np.array_equal(filled((polygon * (width, height)).round(3), height, width), mask)


def test_a_tenth_of_the_pictures_is_for_validation_whatever_the_order():
    keys = [f"scene-{number}" for number in range(100)]
    splits = splits_of(keys)
    assert Counter(splits.values()) == {"train": 90, "val": 10}
    assert splits_of(reversed(keys)) == splits
    assert Counter(splits_of(keys[:2]).values()) == {"train": 1, "val": 1}
    assert splits_of(keys[:1]) == {keys[0]: "train"}


def test_what_the_format_cannot_hold_is_reported(drawn_pairs, tmp_path, caplog):
    caplog.set_level("INFO")
    export_pairs(drawn_pairs, "yolo-seg", tmp_path / "yolo", pictures=False)
    head = (tmp_path / "yolo" / "data.yaml").read_text()
    for text in (caplog.text, head):
        assert "masks have several parts" in text
        assert "have holes" in text
    assert not (tmp_path / "yolo" / "images").exists()
    assert (tmp_path / "yolo" / "pictures.csv").read_text().startswith("key,image_id,file_name,")
