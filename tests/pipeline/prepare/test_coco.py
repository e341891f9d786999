"""COCO: miniature copies of the official layout, and everything that can be wrong with one."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from pipeline.prepare.coco import CocoSource
from pipeline.prepare.coco_labels import runs_of_numbers
from pipeline.prepare.data_root import DataRoot, LayoutError
from storage_schemas.scenes import Caption, Scene
from tests.pipeline.prepare.layouts import coco_json, decoded, encoded, identity_of, jpeg, make_coco, put

SPLIT = "val2017"
FIRST = "000000000139"


@pytest.fixture
def root(tmp_path):
    make_coco(tmp_path)
    return tmp_path


def source_of(root, labels="stuff", *, captions=True, max_image_px=10_000) -> CocoSource:
    return CocoSource(DataRoot("coco", root, max_image_px), split=SPLIT, labels=labels, captions=captions)


def scenes_of(root, labels="stuff", **options) -> dict[str, Scene]:
    source = source_of(root, labels, **options)
    return {scene.key: scene for scene in map(source.scene, source.keys())}


def edit(root, name: str, change) -> None:
    path = root / "annotations" / f"{name}_{SPLIT}.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def statuses(scenes: dict[str, Scene]) -> dict[str, int]:
    found: dict[str, int] = {}
    for scene in scenes.values():
        found[scene.status] = found.get(scene.status, 0) + 1
    return found


def test_images_keep_their_bytes_and_captions_their_ids(root):
    scenes = scenes_of(root)
    assert list(scenes) == ["000000000139", "000000000146", "000000000153"]
    scene = scenes[FIRST]
    assert scene.image == (root / SPLIT / f"{FIRST}.jpg").read_bytes()
    assert (scene.image_id, scene.image_suffix, scene.width_px, scene.height_px) == ("139", "jpg", 24, 16)
    assert scene.captions == (Caption(1390, "a cat 0 on 139"), Caption(1391, "a cat 1 on 139"))
    assert scene.source_path == f"{SPLIT}/{FIRST}.jpg"


def test_stuff_labels_become_indices_and_unused_ids_are_ignored(root):
    scene = scenes_of(root)[FIRST]
    expected = np.full((16, 24), 255, np.uint8)
    expected[:, :8], expected[:, 8:12] = 0, 170  # pixel value 200 is no class's
    assert np.array_equal(decoded(scene.label_png), expected)
    assert scene.classes == (0, 170)
    assert scene.instances_png is None
    assert source_of(root).vocabulary.class_names[170] == "wood"


def test_panoptic_segments_become_indices_and_instance_numbers(root):
    scene = scenes_of(root, "panoptic")[FIRST]
    names = source_of(root, "panoptic").vocabulary.class_names
    columns = [decoded(scene.label_png)[:, start] for start in (0, 1, 6, 11, 16, 21)]
    classes = [column[0] for column in columns]
    assert all((column == column[0]).all() for column in columns)
    assert classes == [255, names.index("person"), names.index("person"), 16, names.index("rug-merged"), 255]
    instances = decoded(scene.instances_png)
    assert instances.dtype == np.uint16
    assert [instances[0, start] for start in (0, 1, 6, 11, 16, 21)] == [0, 1, 2, 0, 0, 0]  # the crowd has none
    assert scene.classes == (0, 16, 132)


def test_of_overlapping_instances_the_smaller_lies_on_top_and_crowds_below(root):
    scene = scenes_of(root, "instances")[FIRST]
    label, instances = decoded(scene.label_png), decoded(scene.instances_png)
    cat, dog, person = 15, 16, 0
    assert (label[5, 5], instances[5, 5]) == (dog, 2)
    assert (label[3, 3], instances[3, 3]) == (cat, 1)
    assert (label[15, 1], instances[15, 1]) == (person, 0)
    assert (label[0, 21], instances[0, 21]) == (255, 0)
    assert scene.classes == (person, cat, dog)


def test_without_labels_and_captions_images_alone_are_taken(root):
    scene = scenes_of(root, "none", captions=False)[FIRST]
    assert (scene.status, scene.label_png, scene.captions, scene.classes) == ("ok", None, (), ())
    assert source_of(root, "none").vocabulary.class_names == ()


def test_an_image_without_some_annotation_is_kept_with_that_part_empty(root):
    put(root / SPLIT / "000000000999.jpg", jpeg(seed=9))
    (root / "stuffthingmaps" / SPLIT / f"{FIRST}.png").unlink()
    for labels in ("stuff", "panoptic", "instances"):
        scene = scenes_of(root, labels)["000000000999"]
        assert (scene.status, scene.image_id, scene.label_png, scene.captions) == ("ok", "999", None, ())
    scene = scenes_of(root)[FIRST]
    assert (scene.status, scene.label_png, len(scene.captions)) == ("ok", None, 2)


def test_images_with_ids_of_2014_names_and_without_ids(root):
    put(root / SPLIT / "COCO_val2014_000000000042.jpg", jpeg())
    put(root / SPLIT / "holiday photo.jpg", jpeg())
    scenes = scenes_of(root)
    assert scenes["COCO_val2014_000000000042"].image_id == "42"
    odd = [scene for key, scene in scenes.items() if key.startswith("holiday_photo-")]
    assert [scene.status for scene in odd] == ["ok"]


@pytest.mark.parametrize(
    ("labels", "gone", "message"),
    [
        ("stuff", "stuffthingmaps", "has no stuffthingmaps/val2017; download stuffthingmaps"),
        (
            "panoptic",
            "annotations/panoptic_val2017.json",
            "has no .*/panoptic_val2017.json; download panoptic",
        ),
        ("panoptic", "annotations/panoptic_val2017", "has no annotations/panoptic_val2017; it should hold the PNGs"),
        (
            "instances",
            "annotations/instances_val2017.json",
            "has no .*/instances_val2017.json; download annotations",
        ),
        ("none", "annotations/captions_val2017.json", r"has no annotations/captions_val2017.json; .*--no-captions"),
        ("none", "val2017", "has no val2017; give the directory of the pictures"),
    ],
)
def test_what_is_asked_for_must_be_there(root, labels, gone, message):
    (root / gone).rename(root / "elsewhere")
    with pytest.raises(LayoutError, match=message):
        source_of(root, labels)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds a list, expected an object"),
        ('{"images": []}', "has no list 'annotations'"),
        ('{"annotations": []}', "has no list 'images'"),
        ('{"images": [{"id": 1}], "annotations": []}', "record 0 of 'images' lacks 'file_name'"),
        ('{"images": [{"id": "1", "file_name": "a"}], "annotations": []}', "has id '1', of the wrong type"),
        ('{"images": [], "annotations": [{"id": 1, "image_id": 2}]}', "record 0 of 'annotations' lacks 'caption'"),
    ],
)
def test_broken_annotation_files_are_errors(root, content, message):
    put(root / "annotations" / f"captions_{SPLIT}.json", content)
    with pytest.raises(LayoutError, match=message):
        source_of(root)


def test_faulty_images_become_rows_and_the_others_stay(root):
    put(root / SPLIT / f"{FIRST}.jpg", jpeg()[:200])
    (root / SPLIT / "000000000146.jpg").unlink()
    scenes = scenes_of(root)
    assert statuses(scenes) == {"image_truncated": 1, "image_missing": 1, "ok": 1}
    assert scenes["000000000146"].reason == "val2017/000000000146.jpg is not there"
    assert scenes[FIRST].image == b""


def test_too_large_images_become_rows(root):
    assert statuses(scenes_of(root, max_image_px=24 * 16 - 1)) == {"image_too_large": 3}


@pytest.mark.parametrize("labels", ["stuff", "panoptic", "instances"])
def test_labels_of_another_size_become_rows(root, labels):
    put(root / SPLIT / f"{FIRST}.jpg", jpeg(16, 24))
    scenes = scenes_of(root, labels)
    assert statuses(scenes) == {"label_size_mismatch": 1, "ok": 2}
    assert "24 x 16 px, the image 16 x 24" in scenes[FIRST].reason
    assert (scenes[FIRST].width_px, scenes[FIRST].height_px) == (16, 24)


def test_labels_of_a_photo_turned_by_exif_lie_on_the_stored_pixels(root):
    put(root / SPLIT / f"{FIRST}.jpg", jpeg(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"))
    scene = scenes_of(root)[FIRST]
    assert (scene.status, scene.exif_orientation) == ("ok", 6)
    assert decoded(scene.label_png).shape == (16, 24)


def test_captions_that_are_empty_are_kept(root):
    edit(root, "captions", lambda document: document["annotations"][0].update(caption="  "))
    scenes = scenes_of(root)
    assert statuses(scenes) == {"ok": 3}
    assert sum(len(scene.captions) for scene in scenes.values()) == 6
    assert scenes[FIRST].captions[0] == Caption(1390, "  ")


def test_a_caption_that_is_not_utf8_makes_its_scene_a_row(root):
    path = root / "annotations" / f"captions_{SPLIT}.json"
    path.write_bytes(path.read_bytes().replace(b"a cat 0 on 139", b"a caf\xe9 0 on 139"))
    scenes = scenes_of(root)
    assert statuses(scenes) == {"caption_not_utf8": 1, "ok": 2}
    assert "caption 1390 is not UTF-8 at character 5" in scenes[FIRST].reason
    scenes[FIRST].reason.encode()


def test_a_caption_that_is_no_text_makes_its_scene_a_row(root):
    edit(root, "captions", lambda document: document["annotations"][0].update(caption=None))
    assert statuses(scenes_of(root)) == {"caption_malformed": 1, "ok": 2}


def test_duplicate_caption_ids_make_both_scenes_rows(root):
    edit(root, "captions", lambda document: document["annotations"][2].update(id=1390))
    scenes = scenes_of(root)
    assert statuses(scenes) == {"duplicate_caption_id": 2, "ok": 1}
    assert "caption id 1390 occurs 2 times" in scenes[FIRST].reason


def test_an_image_id_of_two_files_makes_its_scene_a_row(root):
    edit(root, "captions", lambda document: document["images"].append({"id": 139, "file_name": "other.jpg"}))
    scenes = scenes_of(root)
    assert statuses(scenes) == {"duplicate_image_id": 1, "ok": 2}
    edit(root, "captions", lambda document: document["images"].pop())
    edit(root, "captions", lambda document: document["images"].append(document["images"][0]))
    assert statuses(scenes_of(root)) == {"ok": 3}  # a record that is there twice does no harm


def test_a_file_of_two_image_ids_makes_its_scene_a_row(root):
    edit(root, "captions", lambda document: document["images"].append({"id": 7, "file_name": f"{FIRST}.jpg"}))
    assert "image ids [7, 139] are all of" in scenes_of(root)[FIRST].reason


def test_files_that_differ_in_their_ending_only_make_a_row(root):
    put(root / SPLIT / f"{FIRST}.png", encoded(np.zeros((16, 24, 3), np.uint8)))
    assert statuses(scenes_of(root, "none")) == {"duplicate_key": 1, "ok": 2}


def test_an_annotation_of_an_unknown_image_becomes_a_row(root):
    edit(root, "captions", lambda d: d["annotations"].append({"id": 5, "image_id": 4711, "caption": "who"}))
    scenes = scenes_of(root)
    assert statuses(scenes) == {"ok": 3, "image_id_unknown": 1}
    assert scenes["unknown-4711"].reason == "an annotation names image id 4711, which no image has"


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/passwd.jpg"])
def test_a_file_name_that_leaves_the_root_becomes_a_row(root, name):
    put(root.parent / "secret.jpg", jpeg())
    edit(root, "captions", lambda document: document["images"].append({"id": 5, "file_name": name}))
    assert statuses(scenes_of(root, "none")) == {"ok": 3, "path_outside_root": 1}


def test_panoptic_faults_become_rows(root):
    def change(document):
        first, second, third = document["annotations"]
        first["segments_info"].pop()
        second["segments_info"][0]["category_id"] = 12
        third["file_name"] = "none.png"

    edit(root, "panoptic", change)
    scenes = scenes_of(root, "panoptic")
    assert statuses(scenes) == {"label_outside_vocabulary": 2, "label_missing": 1}
    assert "has segment 5000000, which its annotation does not list" in scenes[FIRST].reason
    assert scenes["000000000146"].reason == "category id 12 is none of the file's categories"


@given(npst.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3)), elements=st.integers(0, 2)))
def test_runs_of_numbers_expand_to_the_numbers_of_all_pixels(rgb):
    numbers, lengths = runs_of_numbers(rgb)
    expected = [r + 256 * g + 65536 * b for r, g, b in rgb.reshape(-1, 3).tolist()]
    assert np.repeat(numbers, lengths).tolist() == expected
    assert (lengths > 0).all()


def test_two_panoptic_annotations_of_an_image_become_a_row(root):
    edit(root, "panoptic", lambda document: document["annotations"].append(document["annotations"][0]))
    assert statuses(scenes_of(root, "panoptic")) == {"duplicate_image_id": 1, "ok": 2}


@pytest.mark.parametrize(
    ("segmentation", "status", "reason"),
    [
        ([[1, 2, 3, 4]], "label_unreadable", "polygons of less than 3 points"),
        ([], "label_unreadable", "has no segmentation (a box only)"),
        ({"size": [16, 24], "counts": [5, 5]}, "label_unreadable", "RLE of 10 px, expected 384"),
        ({"size": [24, 16], "counts": [384]}, "label_size_mismatch", "16 x 24 px, the image 24 x 16"),
        ({"counts": [384]}, "label_unreadable", "cannot be drawn"),
        ("polygon", "label_unreadable", "polygons of less than 3 points"),
    ],
)
def test_instances_that_cannot_be_drawn_become_rows(root, segmentation, status, reason):
    edit(root, "instances", lambda document: document["annotations"][0].update(segmentation=segmentation))
    scene = scenes_of(root, "instances")[FIRST]
    assert scene.status == status
    assert reason in scene.reason


def test_instances_of_an_unknown_category_become_rows(root):
    edit(root, "instances", lambda document: document["annotations"][0].update(category_id=12))
    assert statuses(scenes_of(root, "instances")) == {"label_outside_vocabulary": 1, "ok": 2}


def test_identity_knows_annotations_images_and_labels_but_not_the_place(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("copy")
    make_coco(other)
    for labels in ("stuff", "panoptic", "instances", "none"):
        assert identity_of(source_of(root, labels)) == identity_of(source_of(other, labels))
    for name in (f"{SPLIT}/{FIRST}.jpg", f"stuffthingmaps/{SPLIT}/{FIRST}.png", f"annotations/captions_{SPLIT}.json"):
        before = identity_of(source_of(root))
        put(root / name, (root / name).read_bytes() + b" ")
        assert identity_of(source_of(root)) != before


def test_notes_name_labels_without_image(root):
    put(root / "stuffthingmaps" / SPLIT / "000000000001.png", encoded(np.zeros((2, 2), np.uint8)))
    (passed,) = source_of(root).found().passed_over
    assert (passed.count, passed.example) == (1, f"stuffthingmaps/{SPLIT}/000000000001.png")
    assert source_of(root, "none").found().passed_over == ()


def test_an_empty_split_has_no_keys(tmp_path):
    (tmp_path / SPLIT).mkdir()
    coco_json(tmp_path, f"captions_{SPLIT}.json", [], [])
    assert list(source_of(tmp_path, "none").keys()) == []
