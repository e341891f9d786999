"""Every format gives the masks that were written, all pixels of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.import_masks.sources import MaskFiles
from pipeline.prepare.prepare import prepare
from pipeline.settings import MasksSettings, PrepareSettings
from tests.pipeline.import_masks.masks_world import (
    TURNED_BY,
    UPRIGHT,
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

COUNT = 7


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    place = tmp_path_factory.mktemp("scenes")
    return make_scenes(place / "runs", place / "pictures")


@pytest.fixture
def masks():
    """Some masks of each picture, at the size at which it is shown."""
    return {name: blobs(size, COUNT, seed) for seed, (name, size) in enumerate(UPRIGHT.items())}


def as_numbers(masks) -> np.ndarray:
    """Put masks into one map; of those that overlap the last one is on top."""
    numbers = np.zeros(masks.shape[1:], np.int64)
    for number, mask in enumerate(masks, start=1):
        numbers[mask] = number
    return numbers


def assert_equal(proposals, expected) -> None:
    found = found_in(proposals)
    assert set(found) == set(expected)
    for name, masks in expected.items():
        np.testing.assert_array_equal(masks_of(found[name]), masks)
        assert found[name].areas_px.tolist() == masks.sum(axis=(1, 2)).tolist()
        boxes = [[x, y, x + w, y + h] for x, y, w, h in map(box_of, masks)]
        assert found[name].boxes_xyxy.tolist() == boxes
        assert not found[name].refused


def write(path: Path, document) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize("top", ["list", "object"])
@pytest.mark.parametrize("kind", ["compressed", "uncompressed"])
def test_coco_results_and_annotations(scenes, masks, tmp_path, kind, top):
    records = [
        coco_record(name, mask, bbox=box_of(mask), area=int(mask.sum()))
        | ({"segmentation": uncompressed(mask)} if kind == "uncompressed" else {})
        for mask_number in range(COUNT)  # pictures take turns: records of one lie anywhere in the file
        for name, mask in ((name, masks[name][mask_number]) for name in masks)
    ]
    if top == "object":  # ids that only its own list explains, after the annotations
        ids = {name: 70 + number for number, name in enumerate(masks)}
        document = {
            "info": {"a": [1, {"b": "]"}]},
            "annotations": [record | {"image_id": ids[record["image_id"]]} for record in records],
            "images": [{"id": number, "file_name": f"C:\\x\\{name}.png"} for name, number in ids.items()],
        }
    assert_equal(
        import_of(write(tmp_path / "m.json", document if top == "object" else records), scenes, tmp_path), masks
    )


def test_polygons_are_drawn_as_pycocotools_draws_them(scenes, tmp_path):
    square = [[10, 10, 30, 10, 30, 20, 10, 20], [40, 30, 50, 30, 50, 38]]
    records = [coco_record("low", blobs((40, 60), 1)[0]) | {"segmentation": square}]
    (found,) = masks_of(found_in(import_of(write(tmp_path / "m.json", records), scenes, tmp_path))["low"])
    assert found[10:20, 10:30].all()
    assert found.sum() == 200 + found[30:38, 40:51].sum()


@pytest.mark.parametrize("folder", ["named as the file", "beside", "set"])
def test_panoptic_masks_are_equal_in_all_pixels(scenes, masks, tmp_path, folder):
    place = {"named as the file": tmp_path / "p", "beside": tmp_path, "set": tmp_path / "elsewhere"}[folder]
    place.mkdir(exist_ok=True)
    factor, annotations, expected = 70_001, [], {}
    for name, own in masks.items():
        numbers = as_numbers(own) * factor
        rgb = np.stack([numbers % 256, numbers // 256 % 256, numbers // 65536], axis=2).astype(np.uint8)
        Image.fromarray(rgb).save(place / f"{name}_mask.png")
        ids = [int(number) for number in np.unique(numbers) if number]
        infos = [{"id": number, "category_id": 3, "isthing": True} for number in ids]
        annotations.append({"image_id": name, "file_name": f"{name}_mask.png", "segments_info": infos})
        expected[name] = np.stack([numbers == number for number in ids])
    path = write(tmp_path / "p.json", {"annotations": annotations, "categories": []})
    overrides = [f"png_dir={place}"] if folder == "set" else []
    assert_equal(import_of(path, scenes, tmp_path / "runs", *overrides), expected)


@pytest.mark.parametrize("kind", ["SA-1B", "list", "binary_mask", "folders"])
def test_sams_masks_as_they_are_saved(scenes, masks, tmp_path, kind):
    for name, own in masks.items():
        records = [
            coco_record(0, mask, bbox=box_of(mask), area=int(mask.sum()), predicted_iou=1 - 0.01 * number)
            for number, mask in enumerate(own)
        ]
        for record in records:
            del record["image_id"], record["category_id"], record["score"]
        if kind == "binary_mask":
            records = [record | {"segmentation": mask.tolist()} for record, mask in zip(records, own, strict=True)]
        if kind == "folders":
            (tmp_path / "m" / name).mkdir(parents=True)
            table = ["id,area,predicted_iou"]
            for number, mask in enumerate(own):
                Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "m" / name / f"{number}.png")
                table.append(f"{number},{mask.sum()},{1 - 0.01 * number}")
            (tmp_path / "m" / name / "metadata.csv").write_text("\n".join(table))
            continue
        size = {"height": own.shape[1], "width": own.shape[2]}
        image = {"image_id": 1, "file_name": f"{name}.jpg", **size}
        write(tmp_path / "m" / f"{name}.json", {"image": image, "annotations": records} if kind == "SA-1B" else records)
    proposals = import_of(tmp_path / "m", scenes, tmp_path / "runs")
    assert_equal(proposals, masks)
    for scene in found_in(proposals).values():
        np.testing.assert_allclose(scene.objectness, 1 - 0.01 * np.arange(COUNT), rtol=1e-6)


def test_one_file_of_sa_1b_says_itself_which_picture_it_is_of(scenes, masks, tmp_path):
    records = [coco_record(0, mask) for mask in masks["tall"]]
    document = {"image": {"file_name": "tall.jpg", "height": 60, "width": 40}, "annotations": records}
    found = found_in(import_of(write(tmp_path / "sa_7.json", document), scenes, tmp_path / "runs"))
    np.testing.assert_array_equal(masks_of(found["tall"]), masks["tall"])
    assert {found[name].status for name in ("low", "turned")} == {"no_proposals"}


@pytest.mark.parametrize("kind", ["masks", "arr_0", "sam 3", "label map", "npy"])
def test_arrays(scenes, masks, tmp_path, kind):
    (tmp_path / "m").mkdir()
    expected = dict(masks)
    for name, own in masks.items():
        if kind == "npy":
            np.save(tmp_path / "m" / f"{name}.npy", own)
            continue
        numbers = as_numbers(own)
        boxes = np.zeros((COUNT, 4))
        arrays = {
            "masks": {"masks": own.astype(np.uint8) * 255, "scores": np.linspace(0, 1, COUNT), "boxes": boxes},
            "arr_0": {"arr_0": own},
            "sam 3": {"masks": own[:, None], "scores": np.ones((COUNT, 1), np.float32), "boxes": boxes},
            "label map": {"arr_0": numbers.astype(np.uint16)},
        }[kind]  # fmt: skip
        np.savez_compressed(tmp_path / "m" / f"{name}.npz", **arrays)
        if kind == "label map":
            expected[name] = np.stack([numbers == value for value in np.unique(numbers) if value])
    assert_equal(import_of(tmp_path / "m", scenes, tmp_path / "runs"), expected)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "1"])
def test_label_maps(scenes, masks, tmp_path, mode):
    (tmp_path / "m" / "below").mkdir(parents=True)
    expected = {}
    for name, own in masks.items():
        numbers = as_numbers(own) if mode != "1" else own[0].astype(np.int64)
        picture = Image.fromarray(numbers.astype(np.uint16 if mode == "I;16" else np.uint8))
        if mode == "P":
            picture.putpalette(list(range(256)) * 3)
        if mode == "1":
            picture = Image.fromarray(own[0])
        picture.save(tmp_path / "m" / "below" / f"{name}.png")
        values = [value for value in np.unique(numbers) if value]
        expected[name] = np.stack([numbers == value for value in values])
    assert_equal(import_of(tmp_path / "m", scenes, tmp_path / "runs"), expected)
    without = import_of(tmp_path / "m", scenes, tmp_path / "runs", "background=[1, 2]")
    assert (
        len(masks_of(found_in(without)["low"])) == len({*np.unique(as_numbers(masks["low"])), 0} - {1, 2})
        or mode == "1"
    )


def test_masks_on_the_stored_pixels_of_a_turned_picture_are_turned(scenes, masks, tmp_path):
    turned = masks["turned"]
    exif = Image.Exif()
    exif[274] = TURNED_BY
    stored = [
        np.asarray(Image.fromarray(mask.astype(np.uint8)).transpose(Image.Transpose.ROTATE_90)) for mask in turned
    ]
    shown = Image.fromarray(stored[0])
    shown.getexif()[274] = TURNED_BY
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(shown)), turned[0])  # what EXIF means
    records = [coco_record("turned", mask.astype(bool), bbox=box_of(mask)) for mask in stored]
    found = found_in(import_of(write(tmp_path / "m.json", records), scenes, tmp_path / "runs"))["turned"]
    np.testing.assert_array_equal(masks_of(found), turned)


def test_masks_are_brought_to_the_size_at_which_the_net_sees_the_picture(scenes, masks, tmp_path):
    """As label maps are, by the nearest pixels; torch's own function is the twin."""
    import torch

    from pipeline.import_masks.import_masks import import_masks
    from pipeline.mine.regions import NetSize
    from pipeline.settings import ComputeSettings

    path = write(tmp_path / "m.json", [coco_record("low", mask) for mask in masks["low"]])
    size, compute = NetSize(23, 80), ComputeSettings(max_failed_share=1.0)
    made = import_masks(MasksSettings(path=path), scenes.directory, tmp_path / "runs", size=size, compute=compute)
    found = found_in(made.artifact)["low"]
    doubles = torch.from_numpy(masks["low"]).double()[None]
    expected = torch.nn.functional.interpolate(doubles, size=(23, 35), mode="nearest")[0].bool().numpy()
    np.testing.assert_array_equal(masks_of(found), expected)


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        ({"m.json": "[]"}, None),
        ({"m/a.npz": ""}, "npz"),
        ({"m/a.png": ""}, "png"),
        ({"m/a.json": ""}, "sam"),
        ({"m/a/metadata.csv": "", "m/a/0.png": ""}, "sam"),
        ({"m.json": '[{"segments_info": []}]'}, "panoptic"),
        ({"m.json": '{"images": [], "annotations": [{"image_id": 1}]}'}, "coco"),
        ({"m.json": '[{"file_name": "a.png", "category_id": 1}]'}, "coco"),
        ({"m.json": '[{"segmentation": {}, "predicted_iou": 1}]'}, "sam"),
    ],
)
def test_the_kind_of_files_is_found_out(tmp_path, files, kind):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    path = tmp_path / next(iter(files)).partition("/")[0]
    found = MaskFiles("masks", MasksSettings(path=path))
    if kind is None:
        with pytest.raises(Exception, match=r"holds no record of a mask; .*export it again"):
            _ = found.format
    else:
        assert found.format == kind


NAMES = {"latin": "zürich", "other letters": "中文", "a sign of 4 bytes": "cat \N{GRINNING FACE}"}


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("escaped", [True, False])
@pytest.mark.parametrize("place", ["images", "images file", "file_name", "image_id"])
def test_names_beyond_ascii_are_read_as_json_writes_them(tmp_path, place, escaped, kind):
    """Python's `json.dump` escapes them, other tools write UTF-8."""
    root, name, mask = make_pictures(tmp_path / "pictures"), NAMES[kind], blobs((40, 60), 1)[0]
    (root / "images" / "low.jpg").rename(root / "images" / f"{name}.jpg")
    scenes = prepare(PrepareSettings(dataset="folder", root=root), tmp_path / "runs").artifact
    images = [{"id": 7, "file_name": f"{name}.jpg"}]
    document: object = {
        "images": {"annotations": [coco_record(7, mask)], "images": images},
        "images file": [coco_record(7, mask)],
        "file_name": [coco_record(7, mask, file_name=f"{name}.jpg")],
        "image_id": [coco_record(name, mask)],
    }[place]
    for file, written in (("m.json", document), ("images.json", {"images": images})):
        (tmp_path / file).write_text(json.dumps(written, ensure_ascii=escaped), encoding="utf-8")
    overrides = [f"images={tmp_path / 'images.json'}"] if place == "images file" else []
    found = found_in(import_of(tmp_path / "m.json", scenes, tmp_path / "runs", *overrides))
    taken = [scene for scene in found.values() if scene.status == "ok"]
    np.testing.assert_array_equal(masks_of(taken[0]), [mask])
    assert len(found) == len(UPRIGHT)  # none is unknown


@pytest.mark.parametrize("count", [1, 2])
def test_sa_1b_files_that_are_named_otherwise_are_of_the_picture_that_they_name(scenes, masks, tmp_path, count):
    """As one file or in a folder; a file with the picture's own name goes first."""
    names = ["low", "tall"][:count]
    for number, name in enumerate(names):
        annotations = [coco_record(0, mask) for mask in masks[name]]
        document = {"image": {"file_name": f"{name}.jpg"}, "annotations": annotations}
        write(tmp_path / "m" / f"sa_{number}.json", document)
    if count == 2:
        write(tmp_path / "m" / "turned.json", [coco_record(0, mask) for mask in masks["turned"]])
        write(tmp_path / "m" / "again.json", {"image": {"file_name": "turned.jpg"}, "annotations": []})
        write(tmp_path / "m" / "none.json", {"image": {"file_name": 3}, "annotations": []})
    found = found_in(import_of(tmp_path / "m" if count == 2 else tmp_path / "m" / "sa_0.json", scenes, tmp_path))
    for name in [*names, "turned"] if count == 2 else names:
        np.testing.assert_array_equal(masks_of(found[name]), masks[name])
    if count == 2:
        assert "turned.json is of the same picture" in found["again.json"].reason
        assert found["none.json"].status == "picture_unknown"
