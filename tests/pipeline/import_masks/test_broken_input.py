"""Broken masks of others end as rows with a reason, or as one clear message; the good ones beside them are taken."""

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import PipelineError
from pipeline.import_masks import sources
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings
from tests.pipeline.import_masks.masks_world import (
    blobs,
    box_of,
    coco_record,
    found_in,
    import_of,
    make_pictures,
    make_scenes,
    masks_of,
    uncompressed,
)

GOOD, OTHER = blobs((40, 60), 2, seed=5)
SWAPPED = {"size": [60, 40], "counts": coco_record(0, GOOD)["segmentation"]["counts"]}
WIDE = np.zeros((40, 60), bool)
WIDE[5:9, 3:50] = True  # its transposed twin hardly overlaps it
TINY = np.zeros((40, 60), bool)
FULL = np.ones((40, 60), bool)
FULL[:2, :] = FULL[:, 57:] = FULL[30:, :9] = False  # read along the wrong lines its box hardly changes


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    place = tmp_path_factory.mktemp("scenes")
    return make_scenes(place / "runs", place / "pictures")


def record(**changes):
    """A good record of the picture "low", with changes; None leaves a key out."""
    changed = coco_record("low", GOOD) | changes
    return {name: value for name, value in changed.items() if value is not None}


def rle(**changes):
    return record()["segmentation"] | changes


BROKEN_RECORDS = {
    "no segmentation": (record(segmentation=None), "mask_malformed", "has no segmentation"),
    "an empty list": (record(segmentation=[]), "mask_malformed", "has no segmentation"),
    "a box alone": (record(segmentation=[[]], bbox=[1, 2, 3, 4]), "mask_malformed", "a box alone is no mask"),
    "two points": (record(segmentation=[[1, 1, 5, 5]]), "mask_malformed", "at least 3 points"),
    "odd coordinates": (record(segmentation=[[1, 1, 5, 5, 9, 1, 3]]), "mask_malformed", "x, y, x, y"),
    "words as coordinates": (record(segmentation=[["1", 1, 5, 5, 9, 1]]), "mask_malformed", "x, y, x, y"),
    "beyond the border": (record(segmentation=[[50, 5, 75, 5, 75, 20]]), "mask_beyond_border", "[75.0, 5.0]"),
    "before the border": (record(segmentation=[[-5, 5, 20, 5, 20, 20]]), "mask_beyond_border", "60 x 40 px"),
    "a polygon without area": (record(segmentation=[[5, 5, 5, 5, 5, 5]]), "mask_empty", "has no pixel"),
    "no size": (record(segmentation={"counts": "x"}), "mask_malformed", "'size' is None"),
    "a size of three": (record(segmentation=rle(size=[40, 60, 3])), "mask_malformed", "[40, 60, 3]"),
    "a size in words": (record(segmentation=rle(size=["40", "60"])), "mask_malformed", "expected [height, width]"),
    "a size of zero": (record(segmentation=rle(size=[0, 60])), "mask_size", "60 x 0 px"),
    "a giant size": (record(segmentation=rle(size=[10**9, 10**9])), "mask_size", "1000000000 x 1000000000"),
    "another picture's size": (
        coco_record("low", blobs((30, 50), 1)[0]),
        "mask_size",
        "50 x 30 px, the picture of",
    ),
    "a swapped size without a box": (record(segmentation=SWAPPED), "mask_size", "height and width seem to be swapped"),
    "counts cut off": (record(segmentation=rle(counts=rle()["counts"][:-3])), "mask_malformed", "masks than 60 x 40"),
    "counts with other characters": (record(segmentation=rle(counts="~~é")), "mask_malformed", "low"),
    "counts of numbers in words": (record(segmentation=rle(counts=["1", 2])), "mask_malformed", "'counts' is list"),
    "counts of too few pixels": (
        record(segmentation={"size": [40, 60], "counts": [5, 6]}),
        "mask_malformed",
        "of 11 px",
    ),
    "negative counts": (record(segmentation={"size": [40, 60], "counts": [2500, -100]}), "mask_malformed", "lengths"),
    "no counts": (record(segmentation={"size": [40, 60]}), "mask_malformed", "NoneType"),
    "an empty mask": (coco_record("low", TINY), "mask_empty", "has no pixel"),
    "rows for columns": (
        record(segmentation=uncompressed(WIDE.T) | {"size": [40, 60]}, bbox=box_of(WIDE)),
        "mask_box",
        "[3, 5, 47, 4]",
    ),
    "the box of another mask": (record(bbox=[55, 35, 4, 4]), "mask_box", "states the box [55, 35, 4, 4]"),
    "the area of another mask": (record(area=9), "mask_area", "states an area of 9 px"),
    "rows for columns of a mask that fills its picture": (
        record(segmentation=uncompressed(FULL.T) | {"size": [40, 60]}, bbox=box_of(FULL), area=int(FULL.sum())),
        "mask_box",
        "rows and columns are swapped",
    ),
    "polygons with the box of another mask": (
        record(segmentation=[[5, 5, 25, 5, 25, 25, 5, 25]], bbox=[40, 30, 10, 8]),
        "mask_box",
        "its polygons have",
    ),
    "a score that is no number": (record(score="high"), "mask_malformed", "the score is 'high'"),
    "a score beyond 32 bits": (record(score=1e300), "mask_malformed", "the score is 1e+300"),
    "a score of hundreds of digits": (record(score=10**60), "mask_malformed", "of 32 bits"),
    "a score of NaN": (record(score=float("nan")), "mask_malformed", "the score is nan"),
    "a segmentation that is a number": (record(segmentation=3), "mask_malformed", "has no segmentation"),
}


@pytest.mark.parametrize("kind", BROKEN_RECORDS)
def test_a_broken_record_is_a_row_with_a_reason(scenes, tmp_path, kind):
    broken, status, words = BROKEN_RECORDS[kind]
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(), broken, coco_record("low", OTHER)]))
    artifact = import_of(path, scenes, tmp_path / "runs")
    found = found_in(artifact)["low"]
    np.testing.assert_array_equal(masks_of(found), [GOOD, OTHER])
    ((refused_status, reason),) = found.refused
    assert refused_status == status
    assert words.replace("low", "") in reason
    assert "m.json, byte " in reason
    assert artifact.manifest().counts[status] == 1


def test_a_swapped_size_that_the_box_contradicts_is_put_right(scenes, tmp_path):
    """Swapped, it would decode to another picture of as many pixels without an error."""
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(segmentation=SWAPPED, bbox=box_of(GOOD), area=int(GOOD.sum()))]))
    artifact = import_of(path, scenes, tmp_path / "runs")
    np.testing.assert_array_equal(masks_of(found_in(artifact)["low"]), [GOOD])
    assert sum(unit.facts["swapped"] for unit in artifact.manifest().units) == 1


@pytest.mark.parametrize("box", [[], [0, 0, 0, 0], "x", [1, 2]])
def test_a_box_that_says_nothing_proves_no_swapped_size(scenes, tmp_path, box):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(), record(segmentation=SWAPPED, bbox=box)]))
    artifact = import_of(path, scenes, tmp_path / "runs")
    ((status, reason),) = found_in(artifact)["low"].refused
    assert status == "mask_size"
    assert "height and width seem to be swapped" in reason
    assert sum(unit.facts["swapped"] for unit in artifact.manifest().units) == 0


def test_sound_masks_with_their_own_boxes_are_never_doubted(scenes, tmp_path):
    """Whatever another reading of the same counts would give; boxes of detectors are looser than the masks."""
    rng, records, expected = np.random.default_rng(7), [], blobs((40, 60), 60, seed=9)
    for number, mask in enumerate(expected):
        x, y, w, h = box_of(mask)
        loose = number % 2 * rng.integers(0, 3, 4)
        box = [max(0, x - loose[0]), max(0, y - loose[1]), w + loose[2], h + loose[3]]
        records.append(coco_record("low", mask, bbox=[float(side) for side in box], area=int(mask.sum())))
    path = tmp_path / "m.json"
    path.write_text(json.dumps(records))
    found = found_in(import_of(path, scenes, tmp_path / "runs"))["low"]
    assert not found.refused
    np.testing.assert_array_equal(masks_of(found), expected)


def test_masks_along_rows_are_refused_wherever_their_box_tells(scenes, tmp_path):
    masks = blobs((40, 60), 60, seed=11)
    path = tmp_path / "m.json"
    rows = [
        record(segmentation=uncompressed(mask.T) | {"size": [40, 60]}, bbox=box_of(mask), area=int(mask.sum()))
        for mask in masks
    ]
    path.write_text(json.dumps([record(), *rows]))
    found = found_in(import_of(path, scenes, tmp_path / "runs"))["low"]
    assert {status for status, _ in found.refused} == {"mask_box"}
    assert len(found.refused) >= 58  # a square in a corner is its own twin


def test_polygons_of_another_pictures_size_are_refused(scenes, tmp_path):
    """Drawn as they are they would be four times as large as what they mean."""
    images = [{"id": 1, "file_name": "low.jpg", "height": 80, "width": 120}]
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"images": images, "annotations": [annotation], "categories": []}))
    with pytest.raises(PipelineError, match="no mask is left"):
        import_of(path, scenes, tmp_path / "runs")
    images[0] |= {"height": 40, "width": 60}
    path.write_text(json.dumps({"images": images, "annotations": [annotation], "categories": []}))
    (mask,) = masks_of(found_in(import_of(path, scenes, tmp_path / "own"))["low"])
    assert mask.sum() == 400


def test_a_swapped_size_of_a_picture_that_exif_turns_is_found_by_the_box(scenes, tmp_path):
    """There the swapped size is that of the stored pixels, and fits."""
    mask = blobs((60, 40), 1, seed=3)[0]
    record_of = coco_record("turned", mask, bbox=box_of(mask))
    record_of["segmentation"]["size"].reverse()
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record_of]))
    np.testing.assert_array_equal(masks_of(found_in(import_of(path, scenes, tmp_path / "runs"))["turned"]), [mask])


@pytest.mark.parametrize("box", ["xywh", "xyxy", "shares"])
def test_boxes_are_understood_as_their_tools_write_them(scenes, tmp_path, box):
    x, y, w, h = box_of(GOOD)
    stated = {"xywh": [x, y, w, h], "xyxy": [x, y, x + w, y + h], "shares": [x / 60, y / 40, w / 60, h / 40]}[box]
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(bbox=stated)]))
    found = found_in(import_of(path, scenes, tmp_path / "runs"))["low"]
    assert not found.refused
    np.testing.assert_array_equal(masks_of(found), [GOOD])


def png(mask, mode="L") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8)).convert(mode).save(buffer, "PNG")
    return buffer.getvalue()


def npz(**arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def pickled() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], object), allow_pickle=True)
    return buffer.getvalue()


BROKEN_FILES = {
    "JSON cut off": ("low.json", b'{"annotations": [{', "file_unreadable", "is no JSON"),
    "JSON of no list": ("low.json", b'{"annotations": 7}', "file_unreadable", "expected a list of masks"),
    "JSON of a list of numbers": ("low.json", b"[1]", "mask_malformed", "is a int, expected an object"),
    "a PNG cut off": ("low.png", png(GOOD)[:60], "file_unreadable", "cannot be decoded"),
    "a JPEG called PNG": ("low.png", b"\xff\xd8\xff\xe0 jpeg", "file_unreadable", "cannot be decoded"),
    "a PNG of another size": ("low.png", png(np.ones((9, 9))), "mask_size", "9 x 9 px, the picture of 60 x 40"),
    "a PNG with transparency": ("low.png", png(GOOD, "LA"), "mask_malformed", "mode LA"),
    "arrays cut off": ("low.npz", npz(masks=GOOD[None])[:-30], "file_unreadable", "cannot be read as arrays"),
    "objects in an array": ("low.npy", pickled(), "file_unreadable", "pickle"),
    "a pickle": ("low.npy", pickle.dumps([GOOD]), "file_unreadable", "pickle"),
    "many arrays, none known": ("low.npz", npz(a=GOOD, b=GOOD), "file_unreadable", "called masks"),
    "scores in place of masks": ("low.npz", npz(masks=np.full((2, 40, 60), 0.3)), "mask_malformed", "your threshold"),
    "an array of another size": ("low.npz", npz(masks=np.ones((2, 9, 9), bool)), "mask_size", "9 x 9 px"),
    "an array of one dimension": ("low.npz", npz(masks=np.ones(9, bool)), "mask_malformed", "shape [9]"),
    "an array of many values": (
        "low.npz",
        npz(masks=np.arange(2400, dtype=np.uint8).reshape(1, 40, 60)),
        "mask_malformed",
        "values from 0 to 255",
    ),
    "an array of numbers of both signs": (
        "low.npz",
        npz(masks=np.where(GOOD, 1, np.where(OTHER, -1, 0)).astype(np.int8)[None]),
        "mask_malformed",
        "values from -1 to 1",
    ),
    "a score of an array beyond 32 bits": (
        "low.npz",
        npz(masks=GOOD[None], scores=np.array([1e300])),
        "mask_malformed",
        "the score is 1e+300",
    ),
    "too few scores": ("low.npz", npz(masks=GOOD[None], scores=np.ones(3)), "mask_malformed", "one each"),
    "a table without scores": ("low/metadata.csv", b"a,b\n1,2\n", "file_unreadable", "columns id and predicted_iou"),
}


@pytest.mark.parametrize("kind", BROKEN_FILES)
def test_a_broken_file_is_a_row_with_a_reason(scenes, tmp_path, kind):
    name, data, status, words = BROKEN_FILES[kind]
    good = {
        ".json": json.dumps([coco_record(0, blobs((60, 40), 1)[0])]).encode(),
        ".png": png(blobs((60, 40), 1)[0]),
        ".npz": npz(masks=blobs((60, 40), 1)),
        ".npy": npz(masks=blobs((60, 40), 1)),
        ".csv": b"id,predicted_iou\n0,0.5\n",
    }
    for file, content in ((name, data), (name.replace("low", "tall"), good[Path(name).suffix])):
        (tmp_path / "m" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "m" / file).write_bytes(content)
        if file.endswith(".csv"):
            (tmp_path / "m" / file).with_name("0.png").write_bytes(png(blobs((60, 40), 1)[0]))
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))
    assert found["low"].status == "no_proposals"
    ((refused_status, reason),) = found["low"].refused
    assert refused_status == status
    assert words in reason
    assert reason.startswith("low")
    np.testing.assert_array_equal(masks_of(found["tall"]), blobs((60, 40), 1))


def test_only_the_mask_of_many_values_is_refused(scenes, tmp_path):
    """The others of its array are 0 and 1, or 0 and 255."""
    many = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "m" / "low.npz", masks=np.stack([GOOD.astype(np.uint8), many, OTHER.astype(np.uint8) * 255]))
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))["low"]
    np.testing.assert_array_equal(masks_of(found), [GOOD, OTHER])
    ((status, reason),) = found.refused
    assert status == "mask_malformed"
    assert reason.startswith("low.npz, mask 1: ")


def test_only_the_png_of_a_mask_that_is_none_is_refused(scenes, tmp_path):
    """A PNG of many values, and one whose score is no number, beside a good one."""
    (tmp_path / "m" / "low").mkdir(parents=True)
    many = np.arange(2400).reshape(40, 60) % 256
    for number, values in enumerate((GOOD, many, 255 * OTHER.astype(int))):
        (tmp_path / "m" / "low" / f"{number}.png").write_bytes(png(values))
    (tmp_path / "m" / "low" / "metadata.csv").write_text("id,predicted_iou\n0,high\n1,0.5\n2,0.25\n")
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))["low"]
    np.testing.assert_array_equal(masks_of(found), [OTHER])
    assert found.objectness.tolist() == [0.25]
    assert ["the score is 'high'" in found.refused[0].reason, "from 0 to 255" in found.refused[1].reason] == [True] * 2


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_tables_of_scores_as_programs_write_them(scenes, tmp_path, ends, quote):
    (tmp_path / "m" / "low").mkdir(parents=True)
    for number, mask in enumerate((GOOD, OTHER)):
        (tmp_path / "m" / "low" / f"{number}.png").write_bytes(png(mask))
    rows = [("id", "area", "predicted_iou"), ("0", "1", "0.25"), ("1", "2", "0.75")]
    lines = [",".join(f"{quote}{cell}{quote}" for cell in row) for row in rows]
    (tmp_path / "m" / "low" / "metadata.csv").write_bytes(ends.join([*lines, ""]).encode())
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))["low"]
    assert not found.refused
    assert found.objectness.tolist() == [0.25, 0.75]


def test_a_file_that_unpacks_to_too_much_is_a_row(scenes, tmp_path, monkeypatch):
    """Zeros pack a thousandfold: what a file would take in memory is asked first."""
    monkeypatch.setattr("pipeline.import_masks.sources._ARRAY_BYTES_MAX", 100_000)
    (tmp_path / "m").mkdir()
    np.savez_compressed(tmp_path / "m" / "low.npz", masks=np.zeros((1000, 40, 60), bool))
    np.savez_compressed(tmp_path / "m" / "tall.npz", masks=blobs((60, 40), 1))
    ((status, reason),) = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))["low"].refused
    assert status == "file_unreadable"
    assert "unpacks to 2400128 bytes, at most 100000" in reason


PANOPTIC = {
    "a segment that is not listed": ([1], "mask_malformed", "has segment 2, which its JSON does not list"),
    "a segment without a pixel": ([1, 2, 9], "mask_empty", "no pixel of segment 9"),
    "the id of void": ([1, 2, 0], "mask_malformed", "the id 0"),
    "an id that is no number": ([1, 2, "3"], "mask_malformed", "the id '3'"),
}


@pytest.mark.parametrize("kind", PANOPTIC)
def test_a_panoptic_map_and_its_json_have_to_agree(scenes, tmp_path, kind):
    ids, status, words = PANOPTIC[kind]
    numbers = np.zeros((40, 60), np.uint8)
    numbers[:9], numbers[20:] = 1, 2
    Image.fromarray(np.stack([numbers, 0 * numbers, 0 * numbers], axis=2)).save(tmp_path / "low.png")
    infos = [{"id": number, "category_id": 1} for number in ids]
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"annotations": [{"image_id": "low", "file_name": "low.png", "segments_info": infos}]}))
    found = found_in(import_of(path, scenes, tmp_path / "runs"))["low"]
    assert len(found.queries) == len({1, 2} & {number for number in ids if number in (1, 2)})
    assert [(mask.status, words in mask.reason) for mask in found.refused] == [(status, True)]


def test_a_panoptic_map_that_is_not_there_is_a_row(scenes, tmp_path):
    path = tmp_path / "p.json"
    listed = [{"image_id": name, "file_name": f"{name}.png", "segments_info": [{"id": 1}]} for name in ("low", "tall")]
    path.write_text(json.dumps(listed))
    Image.fromarray(np.ones((60, 40, 3), np.uint8) * np.array([1, 0, 0], np.uint8)).save(tmp_path / "tall.png")
    found = found_in(import_of(path, scenes, tmp_path / "runs"))
    assert found["low"].refused[0].status == "file_unreadable"
    assert "low.png is not there" in found["low"].refused[0].reason


def test_pictures_that_are_no_scene_are_rows_of_their_own(scenes, tmp_path):
    records = [record(), coco_record(17, GOOD), coco_record("else", GOOD), coco_record("else", OTHER)]
    path = tmp_path / "m.json"
    path.write_text(json.dumps(records))
    artifact = import_of(path, scenes, tmp_path / "runs", failed=0.0)  # no failure: others' files hold more pictures
    found = found_in(artifact)
    assert {name: scene.status for name, scene in found.items() if name not in ("low", "tall", "turned")} == {
        "17": "picture_unknown",
        "else": "picture_unknown",
    }
    assert "it has 2 records" in found["else"].reason
    assert artifact.manifest().counts == {"no_proposals": 2, "ok": 1, "picture_unknown": 2}


def test_two_files_of_one_picture(scenes, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "m" / folder).mkdir(parents=True)
        np.savez(tmp_path / "m" / folder / "low.npz", masks=GOOD[None])
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))
    assert "one/low.npz is of the same picture" in found["two/low.npz"].reason


def test_links_that_leave_the_folder_are_not_followed(scenes, tmp_path):
    (tmp_path / "m").mkdir()
    np.savez(tmp_path / "secret.npz", masks=GOOD[None])
    (tmp_path / "m" / "low.npz").symlink_to(tmp_path / "secret.npz")
    np.savez(tmp_path / "m" / "tall.npz", masks=blobs((60, 40), 1))
    found = found_in(import_of(tmp_path / "m", scenes, tmp_path / "runs"))
    assert found["low"].refused[0].status == "file_unreadable"
    assert "outside the root" in found["low"].refused[0].reason


def test_masks_that_vanish_at_the_nets_size_are_no_failure(scenes, tmp_path):
    from pipeline.import_masks.import_masks import import_masks
    from pipeline.mine.regions import NetSize
    from pipeline.settings import ComputeSettings, MasksSettings

    thin = TINY.copy()
    thin[1, 1] = True
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(), coco_record("low", thin)]))
    made = import_masks(MasksSettings(path=path), scenes.directory, tmp_path / "runs", size=NetSize(20, 80),
                        compute=ComputeSettings(max_failed_share=0.0))  # fmt: skip
    ((status, reason),) = found_in(made.artifact)["low"].refused
    assert status == "mask_lost"
    assert "its 1 px have none left at 30 x 20 px" in reason


WHOLE = {
    "nothing there": (None, "there is nothing at"),
    "an empty list": (b"[]", "holds no record of a mask"),
    "an empty file": (b"", "ends where '[' or '{' is expected"),
    "no JSON": (b"\x89PNG\r\n", "where '[' or '{' is expected"),
    "a list cut off": (json.dumps([record()]).encode()[:-1], "ends where ',' or ']' is expected"),
    "a record cut off": (json.dumps([record()]).encode()[:-9], "is no JSON after byte 1"),
    "an object cut off": (b'{"annotations": [{"image_id": 1}]', "ends where ',' or '}' is expected"),
    "two lists": (b'[{"image_id": "low"} {}]', "where ',' or ']' is expected"),
    "pictures of another data set": (json.dumps([coco_record(7, GOOD)]).encode(), "names the pictures 7, none of them"),
    "records that are no objects": (b'[{"image_id": 3}, 5, "x"]', "none of them is one of the 3 scenes"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_of_no_use_is_one_message(scenes, tmp_path, kind):
    data, words = WHOLE[kind]
    path = tmp_path / "m.json"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(PipelineError) as raised:
        import_of(path, scenes, tmp_path / "runs")
    assert words in str(raised.value)
    assert str(path) in str(raised.value)
    assert "; " in str(raised.value)  # what to do


FOLDERS = {
    "an empty folder": ((), (), "no file that ends in .json, .npz, .npy, .png"),
    "files of two kinds": (("a.npz", "a.png"), (), "files of several kinds (npz, png); name the format"),
    "other files": (("a.txt",), ("format=png",), "no file that ends in .png"),
    "a folder for a file": (("a.json",), ("format=coco",), "'coco' is one JSON file"),
    "names of no scene": (("a.npz", "b.npz"), (), "has masks of a.npz, b.npz, none of them is one of the 3 scenes"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_of_no_use_is_one_message(scenes, tmp_path, kind):
    names, overrides, words = FOLDERS[kind]
    (tmp_path / "m").mkdir()
    for name in names:
        (tmp_path / "m" / name).write_bytes(npz(masks=GOOD[None]))
    with pytest.raises(PipelineError) as raised:
        import_of(tmp_path / "m", scenes, tmp_path / "runs", *overrides)
    assert words in str(raised.value)
    assert str(tmp_path / "m") in str(raised.value)


@pytest.mark.parametrize("kind", ["of no scene", "cut off"])
def test_a_file_of_no_use_is_read_once_whatever_the_number_of_shards(tmp_path, monkeypatch, caplog, kind):
    scenes = prepare(
        PrepareSettings(dataset="folder", root=make_pictures(tmp_path / "pictures"), scenes_per_shard=1), tmp_path
    ).artifact
    assert len(scenes.description.units) == 3
    path = tmp_path / "m.json"
    text = json.dumps([coco_record(7, GOOD)] if kind == "of no scene" else [record()] * 3)
    path.write_text(text if kind == "of no scene" else text[:-9])
    read, before = [], sources.json_records
    monkeypatch.setattr(sources, "json_records", lambda path: read.append(path) or before(path))
    with caplog.at_level("WARNING"), pytest.raises(sources.MaskSourceError) as raised:
        import_of(path, scenes, tmp_path / "runs", "format=coco")
    words = {"of no scene": "none of them is one of the 3 scenes", "cut off": "is no JSON after byte"}[kind]
    assert str(raised.value).count(words) == 1
    assert len(read) == 1
    assert not [record for record in caplog.records if record.levelname != "INFO"]


def test_too_many_masks_that_do_not_fit_fail_the_import(scenes, tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps([record(), record(area=9), record(area=8)]))
    with pytest.raises(PipelineError, match=r"40.0% of 5 rows failed .*'mask_area': 2"):
        import_of(path, scenes, tmp_path / "runs", failed=0.3)
