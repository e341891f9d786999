"""ADE20K, Pascal Context and Pascal VOC: miniature copies of the official layouts, and what can be wrong with them."""

import shutil

import numpy as np
import pytest
import scipy.io

from pipeline.prepare.ade20k import ade20k_150, ade20k_847
from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.paired import PairedSource
from pipeline.prepare.pascal import pascal_context_59, pascal_context_459, pascal_voc
from pipeline.prepare.source import Found
from storage_schemas.scenes import Scene
from tests.pipeline.prepare.layouts import (
    decoded,
    encoded,
    identity_of,
    jpeg,
    make_ade20k_150,
    make_ade20k_847,
    make_pascal_context,
    make_pascal_voc,
    picture,
    put,
)


def data_root(path) -> DataRoot:
    return DataRoot("demo", path, 10_000)


def scenes_of(source: PairedSource) -> dict[str, Scene]:
    return {scene.key: scene for scene in map(source.scene, source.keys())}


def columns(scene: Scene, *at: int) -> list[int]:
    """Return the label's value in some columns, each of which has one value."""
    label = decoded(scene.label_png)
    assert all(len(set(label[:, column].tolist())) == 1 for column in at)
    return [int(label[0, column]) for column in at]


def names(source: PairedSource, scene: Scene) -> list[str]:
    return [source.vocabulary.class_names[index] for index in scene.classes]


def test_ade20k_150_takes_one_off_and_ignores_zero(tmp_path):
    make_ade20k_150(tmp_path)
    source = ade20k_150(data_root(tmp_path), "val")
    scenes = scenes_of(source)
    assert list(scenes) == [f"ADE_val_0000000{number}" for number in (1, 2, 3)]
    scene = scenes["ADE_val_00000001"]
    assert columns(scene, 0, 4, 9, 23) == [255, 0, 149, 149]
    assert names(source, scene) == ["wall", "flag"]
    assert scene.image == (tmp_path / "images/validation/ADE_val_00000001.jpg").read_bytes()
    assert (source.ignore_label, source.found()) == (255, Found(pictures=3, labels=3))


def test_ade20k_847_reads_ids_from_two_channels_and_its_split_from_the_name(tmp_path):
    make_ade20k_847(tmp_path)
    source = ade20k_847(data_root(tmp_path), "val")
    scenes = scenes_of(source)
    assert list(scenes) == ["ADE_val_00000001", "ADE_val_00000002"]
    scene = scenes["ADE_val_00000001"]
    assert decoded(scene.label_png).dtype == np.uint16
    assert columns(scene, 0, 8, 16) == [0, 1, 65535]  # the last is an id of no class above, and 0 below
    assert names(source, scene) == ["wall", "building, edifice"]
    assert source.ignore_label == 65535
    assert list(ade20k_847(data_root(tmp_path), "train").keys()) == ["ADE_train_00000001", "ADE_train_00000002"]


def test_ade20k_faults(tmp_path):
    make_ade20k_150(tmp_path)
    labels = tmp_path / "annotations" / "validation"
    (labels / "ADE_val_00000001.png").unlink()
    put(labels / "ADE_val_00000002.png", encoded(np.full((16, 24), 151, np.uint8)))
    put(labels / "ADE_val_00000003.png", encoded(picture()))
    put(labels / "ADE_val_00000009.png", encoded(np.zeros((16, 24), np.uint8)))
    source = ade20k_150(data_root(tmp_path), "val")
    scenes = list(scenes_of(source).values())
    assert [scene.status for scene in scenes] == [
        "label_missing",
        "label_outside_vocabulary",
        "label_mode_unsupported",
    ]
    assert scenes[0].reason == "annotations/validation/ADE_val_00000001.png is not there"
    assert "the label holds 151" in scenes[1].reason
    (passed,) = source.found().passed_over
    assert (passed.count, passed.example) == (1, "annotations/validation/ADE_val_00000009.png")


@pytest.mark.parametrize("make", [ade20k_150, ade20k_847])
def test_ade20k_layout_errors(tmp_path, make):
    with pytest.raises(LayoutError, match="got split 'test', expected one of train, val; correct --split"):
        make(data_root(tmp_path), "test")
    with pytest.raises(LayoutError, match=r"has no images.*; download it from https://ade20k"):
        make(data_root(tmp_path), "val")


def test_a_full_release_without_the_split_is_an_error(tmp_path):
    put(tmp_path / "images" / "ADE" / "ADE_train_00000001.jpg", jpeg())
    with pytest.raises(LayoutError, match=r"has no ADE_val_\*.jpg"):
        ade20k_847(data_root(tmp_path), "val")


def test_pascal_context_459_takes_one_off_and_ignores_zero(tmp_path):
    make_pascal_context(tmp_path)
    source = pascal_context_459(data_root(tmp_path), "val")
    scenes = scenes_of(source)
    assert list(scenes) == ["2008_000000", "2008_000001", "2008_000002"]
    scene = scenes["2008_000000"]
    assert decoded(scene.label_png).dtype == np.uint16
    assert columns(scene, 0, 4, 9, 12) == [65535, 1, 0, 458]
    assert names(source, scene) == ["accordion", "aeroplane", "wool"]


def test_pascal_context_59_finds_its_classes_by_name(tmp_path):
    make_pascal_context(tmp_path)
    source = pascal_context_59(data_root(tmp_path), "val")
    scene = scenes_of(source)["2008_000001"]
    assert decoded(scene.label_png).dtype == np.uint8
    assert columns(scene, 0, 4, 9, 12) == [255, 0, 255, 255]
    assert names(source, scene) == ["aeroplane"]
    lines = (tmp_path / "labels.txt").read_text().splitlines()
    swapped = [line.replace("aeroplane", "wool") if "aeroplane" in line else line for line in lines[:-1]]
    put(tmp_path / "labels.txt", "\n".join([*swapped, "459: aeroplane"]))
    again = scenes_of(pascal_context_59(data_root(tmp_path), "val"))["2008_000001"]
    assert columns(again, 4, 12) == [255, 0]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.txt", "1: accordion\n", "labels.txt lacks 59 of the 59 names, such as 'aeroplane'"),
        ("labels.txt", "accordion\n", "labels.txt: line 1 is 'accordion', expected 'value: name'"),
        ("labels.txt", None, "has no labels.txt; download it"),
        ("pascalcontext_val.txt", None, "has no pascalcontext_val.txt; put the list"),
        ("pascalcontext_val.txt", "a\n\nb\na\n", "line 4 has the id 'a' a second time; remove one"),
    ],
)
def test_pascal_context_layout_errors(tmp_path, file, content, message):
    make_pascal_context(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        put(tmp_path / file, content)
    with pytest.raises(LayoutError, match=message):
        pascal_context_59(data_root(tmp_path), "val")


def test_pascal_context_459_needs_no_labels_txt(tmp_path):
    make_pascal_context(tmp_path)
    (tmp_path / "labels.txt").unlink()
    assert len(pascal_context_459(data_root(tmp_path), "val").keys()) == 3


def save_mat(path, **variables) -> None:
    scipy.io.savemat(path, variables)


def test_mat_files_that_cannot_be_used_become_rows(tmp_path):
    make_pascal_context(tmp_path, images=8)
    mats = sorted((tmp_path / "trainval").iterdir())
    mats[0].unlink()
    mats[1].write_bytes(mats[1].read_bytes()[:150])
    mats[2].write_bytes(b"MATLAB" * 50)
    save_mat(mats[3], LabelMap=np.zeros((24, 16), np.uint16))
    save_mat(mats[4], Other=np.zeros((16, 24), np.uint16))
    save_mat(mats[5], LabelMap=np.full((16, 24), 460, np.uint16))
    save_mat(mats[6], LabelMap=np.full((16, 24), -1, np.int16))
    save_mat(mats[7], LabelMap=np.zeros((120, 120), np.uint16))
    scenes = scenes_of(pascal_context_459(data_root(tmp_path), "val"))
    assert [scene.status for scene in scenes.values()] == [
        "label_missing",
        "label_unreadable",
        "label_unreadable",
        "label_size_mismatch",
        "label_mode_unsupported",
        "label_outside_vocabulary",
        "label_outside_vocabulary",
        "image_too_large",
    ]


@pytest.mark.parametrize("labels", ["SegmentationClassAug", "SegmentationClass"])
def test_pascal_voc_takes_palette_indices_and_ignores_background_and_border(tmp_path, labels):
    make_pascal_voc(tmp_path, labels=labels)
    source = pascal_voc("pascal-voc-20", data_root(tmp_path), "val", labels)
    scene = scenes_of(source)["2011_000000"]
    assert columns(scene, 0, 4, 9, 12) == [255, 0, 19, 255]
    assert names(source, scene) == ["aeroplane", "tvmonitor"]


def test_pascal_voc_with_background_has_it_as_class_0(tmp_path):
    make_pascal_voc(tmp_path)
    source = pascal_voc("pascal-voc-21", data_root(tmp_path), "val", "SegmentationClassAug")
    scene = scenes_of(source)["2011_000000"]
    assert columns(scene, 0, 4, 9, 12) == [0, 1, 20, 255]
    assert names(source, scene) == ["background", "aeroplane", "tvmonitor"]


def test_pascal_voc_faults(tmp_path):
    make_pascal_voc(tmp_path)
    put(tmp_path / "SegmentationClassAug" / "2011_000000.png", encoded(np.full((16, 24), 21, np.uint8)))
    put(tmp_path / "SegmentationClassAug" / "2011_000001.png", encoded(np.full((16, 24), 20, np.uint8))[:-20])
    put(tmp_path / "ImageSets/Segmentation/val.txt", "2011_000000\n2011_000001\n../../../x\n")
    scenes = scenes_of(pascal_voc("pascal-voc-20", data_root(tmp_path), "val", "SegmentationClassAug"))
    assert sorted(scene.status for scene in scenes.values()) == [
        "label_outside_vocabulary",
        "label_unreadable",
        "path_outside_root",
    ]


def test_pascal_voc_never_falls_back_to_other_labels(tmp_path):
    make_pascal_voc(tmp_path, labels="SegmentationClass")
    with pytest.raises(
        LayoutError, match="has no SegmentationClassAug; put it there, or use --voc-labels Segmentation"
    ):
        pascal_voc("pascal-voc-20", data_root(tmp_path), "val", "SegmentationClassAug")


@pytest.mark.parametrize(
    ("make", "open_source", "image"),
    [
        (make_ade20k_150, ade20k_150, "images/validation/ADE_val_00000001.jpg"),
        (make_ade20k_847, ade20k_847, "images/ADE/validation/urban/street/ADE_val_00000001_seg.png"),
        (make_pascal_context, pascal_context_59, "trainval/2008_000000.mat"),
        (make_pascal_context, pascal_context_459, "JPEGImages/2008_000000.jpg"),
    ],
)
def test_identity_follows_the_files(tmp_path, make, open_source, image):
    make(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # made anew, MATLAB's files would hold another time
    first, second = (identity_of(open_source(data_root(tmp_path / name), "val")) for name in "ab")
    assert first == second
    put(tmp_path / "b" / image, b"changed")
    assert identity_of(open_source(data_root(tmp_path / "b"), "val")) != first
