"""Folders of anybody's own pictures."""

import numpy as np
import pytest

from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.folder import folder
from pipeline.prepare.source import Found, PassedOver
from storage_schemas.scenes import Caption, Scene
from tests.pipeline.prepare.layouts import decoded, encoded, jpeg, make_folder, picture, put


def source_of(path, split=""):
    return folder(DataRoot("folder", path, 10_000), split)


def scenes_of(path, split="") -> dict[str, Scene]:
    source = source_of(path, split)
    return {scene.key: scene for scene in map(source.scene, source.keys())}


@pytest.fixture
def root(tmp_path):
    make_folder(tmp_path)
    return tmp_path


def test_a_folder_with_everything(root):
    scene = scenes_of(root)["shot_1"]
    assert (scene.status, scene.image_id, scene.source_path) == ("ok", "shot_1", "images/shot_1.jpg")
    assert scene.captions == (Caption(2, "a road under the sky, number 1"),)
    assert scene.label_png == (root / "labels" / "shot_1.png").read_bytes()  # nothing to change: byte by byte
    assert scene.classes == (0, 2)
    vocabulary = source_of(root).vocabulary
    assert (vocabulary.class_names, vocabulary.seen) == (("sky", "oculus", "road"), (True, False, True))
    assert source_of(root).found() == Found(pictures=3, labels=3, captions=3)


def test_a_split_is_a_folder_of_its_own_with_common_classes(tmp_path):
    make_folder(tmp_path / "train")
    (tmp_path / "train" / "classes.txt").rename(tmp_path / "classes.txt")
    scenes = scenes_of(tmp_path, "train")
    assert scenes["shot_0"].source_path == "train/images/shot_0.jpg"
    assert scenes["shot_0"].classes == (0, 2)
    assert len(scenes["shot_0"].captions) == 1


def test_pictures_alone(tmp_path):
    put(tmp_path / "images" / "my photo.JPG", jpeg())
    put(tmp_path / "images" / "b.png", encoded(picture()))
    scenes = list(scenes_of(tmp_path).values())
    assert [(scene.status, scene.image_suffix, scene.label_png) for scene in scenes] == [
        ("ok", "png", None),
        ("ok", "jpg", None),
    ]
    assert scenes[1].image_id == "my photo"
    assert source_of(tmp_path).vocabulary.class_names == ()


def test_labels_may_be_absent_for_some_and_superfluous(root):
    (root / "labels" / "shot_0.png").rename(root / "labels" / "shot_7.png")
    scene = scenes_of(root)["shot_0"]
    assert (scene.status, scene.label_png) == ("ok", None)
    (passed,) = source_of(root).found().passed_over
    assert passed == PassedOver(1, "labels/shot_7.png", "label files without a picture")


def test_16_bit_labels_and_long_vocabularies(root):
    values = np.array([[0, 2, 255, 65535]], np.uint16)
    put(root / "images" / "shot_0.jpg", jpeg(4, 1))
    put(root / "labels" / "shot_0.png", encoded(values))
    assert decoded(scenes_of(root)["shot_0"].label_png).tolist() == [[0, 2, 255, 255]]
    put(root / "classes.txt", "\n".join(f"class {number}" for number in range(300)))
    assert decoded(scenes_of(root)["shot_0"].label_png).tolist() == [[0, 2, 255, 65535]]
    eight_bit = decoded(scenes_of(root)["shot_1"].label_png)
    assert (eight_bit.dtype, eight_bit[0, 0], eight_bit[0, 20]) == (np.uint16, 0, 65535)  # there 255 is no class


def test_values_beyond_the_classes_become_rows(root):
    put(root / "labels" / "shot_0.png", encoded(np.full((16, 24), 3, np.uint8)))
    scene = scenes_of(root)["shot_0"]
    assert (scene.status, scene.reason) == (
        "label_outside_vocabulary",
        "the label holds 3, which is no class's value",
    )


def test_captions_with_ids_in_any_order(root):
    put(
        root / "captions.tsv",
        "caption_id\timage\tcaption\n9\tshot_0.jpg\tb\n\n7\tshot_0\ta\n8\tshot_1\t \n".encode("utf-8-sig"),
    )
    scenes = scenes_of(root)
    assert scenes["shot_0"].captions == (Caption(7, "a"), Caption(9, "b"))
    assert scenes["shot_1"].captions == (Caption(8, " "),)
    assert scenes["shot_2"].captions == ()


@pytest.mark.parametrize(
    ("line", "status", "reason"),
    [
        (b"1\tshot_0\tcaf\xe9", "caption_not_utf8", "captions.tsv: line 2 is not UTF-8 at character 3"),
        (b"1\tshot_0\ta\tb", "caption_malformed", "line 2 is ['1', 'shot_0', 'a', 'b'], expected"),
        (b"1\tshot_0", "caption_malformed", "line 2 is ['1', 'shot_0'], expected"),
        (b"x\tshot_0\ta", "caption_malformed", "line 2 is ['x', 'shot_0', 'a'], expected"),
    ],
)
def test_captions_that_cannot_be_used_make_their_scene_a_row(root, line, status, reason):
    put(root / "captions.tsv", b"caption_id\timage\tcaption\n" + line + b"\n2\tshot_1\tfine\n")
    scenes = scenes_of(root)
    assert (scenes["shot_0"].status, scenes["shot_1"].status) == (status, "ok")
    assert reason in scenes["shot_0"].reason


def test_duplicate_caption_ids_make_both_scenes_rows(root):
    put(root / "captions.tsv", "caption_id\timage\tcaption\n5\tshot_0\ta\n5\tshot_1\tb\n6\tshot_2\tc\n")
    assert [scene.status for scene in scenes_of(root).values()] == [
        "duplicate_caption_id",
        "duplicate_caption_id",
        "ok",
    ]


def test_captions_of_unknown_images_become_rows(root):
    put(root / "captions.tsv", "image\tcaption\nnobody here\ta\n")
    scenes = scenes_of(root)
    assert len(scenes) == 4
    odd = next(scene for scene in scenes.values() if scene.status != "ok")
    assert (odd.status, odd.reason) == (
        "image_id_unknown",
        "captions.tsv names the image 'nobody here', which is not there",
    )


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("", r"captions.tsv starts with \[\]; its first line is to be image<TAB>caption"),
        ("shot_0\ta road", r"starts with \['shot_0', 'a road'\]"),
        ("image\tcaption\tlanguage", "starts with"),
        ("image\tcaption\tcaption", "starts with"),
        ("image\tcaption\n\ta road", "line 2 names no image"),
    ],
)
def test_captions_without_their_columns_are_errors(root, header, message):
    put(root / "captions.tsv", header)
    with pytest.raises(LayoutError, match=message):
        source_of(root)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("classes.txt", None, "has no classes.txt; name the classes there"),
        ("classes.txt", b"sky\nsky\n", "classes.txt: vocabulary folder: 'sky' occurs more than once"),
        ("classes.txt", b"sky\n\nroad\n", "class 1 has an empty name"),
        ("classes.txt", b"caf\xe9\n", "byte 3 is not UTF-8"),
    ],
)
def test_unusable_class_lists_are_errors(root, file, content, message):
    (root / file).unlink()
    if content is not None:
        put(root / file, content)
    with pytest.raises(LayoutError, match=message):
        source_of(root)


def test_a_folder_without_images_is_an_error(tmp_path):
    with pytest.raises(LayoutError, match="has no images; put the pictures into a folder of that name"):
        source_of(tmp_path)


def test_files_that_differ_in_their_ending_only_make_a_row(root):
    put(root / "images" / "shot_0.png", encoded(picture()))
    scenes = scenes_of(root)
    assert scenes["shot_0"].status == "duplicate_key"
    assert len(scenes) == 3
