"""Folders in shapes that people have: the right labels, or a clear refusal, never silence."""

import io
import json
import os
import re
import shutil
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flows.command import main
from pipeline.dry_run.dry_run import dry_run
from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.paired import why_no_label
from pipeline.prepare.prepare import plan_prepare, prepare
from pipeline.settings import PrepareSettings, Settings, SettingsError, load_settings
from pipeline.shard_runner import Execution, Limits
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_facts
from storage_schemas.errors import ArtifactError
from storage_schemas.scene_collection import SceneCollection
from storage_schemas.scenes import Scene, SceneShard, labelled_scenes
from storage_schemas.verification import nothing_kept
from tests.pipeline.prepare.layouts import encoded, jpeg, make_ade20k_150, make_folder, picture, put

CONFIG = Path(__file__).parents[3] / "flows" / "configs" / "demo.toml"
CASES = Path(__file__).parents[3] / ".." / "shared" / "cases"


def case(name: str, tmp_path: Path) -> Path:
    """Return a copy of one of the inputs that went wrong."""
    if not (CASES / name).is_dir():
        pytest.skip("the inputs that went wrong are not here")
    return Path(shutil.copytree(CASES / name, tmp_path / name))


def prepared(root: Path, runs: Path, **options: object) -> Artifact:
    settings = PrepareSettings(**{"dataset": "folder", "root": root, **options})
    return prepare(settings, runs, execution=Execution(limits=Limits(max_failed_share=1.0))).artifact


def scenes(artifact: Artifact) -> dict[str, Scene]:
    found = (scene for unit in artifact.description.units for scene in SceneShard(artifact, unit).scenes())
    return {scene.image_id: scene for scene in found}


def command(root: Path, runs: Path, *options: str) -> list[str]:
    return ["prepare", "folder", "--root", str(root), "--runs", str(runs), *options]


def test_labels_end_in_png_in_any_case(tmp_path):
    make_folder(tmp_path / "data")
    for path in sorted((tmp_path / "data" / "labels").iterdir()):
        path.rename(path.with_suffix(".PNG"))
    assert {scene.classes for scene in scenes(prepared(tmp_path / "data", tmp_path / "runs")).values()} == {(0, 2)}


def test_case_labels_upper_png(tmp_path):
    artifact = prepared(case("labels_upper_png", tmp_path), tmp_path / "runs")
    assert artifact.manifest().units[0].facts["labelled"] == 3


def test_names_are_compared_in_composed_form(tmp_path):
    root = tmp_path / "data"
    name = "Größe é"
    put(root / "images" / f"{unicodedata.normalize('NFD', name)}.jpg", jpeg())
    put(root / "labels" / f"{unicodedata.normalize('NFC', name)}.png", encoded(np.zeros((16, 24), np.uint8)))
    put(root / "classes.txt", "sky\n")
    put(root / "captions.tsv", f"image\tcaption\n{name}.jpg\ta sky\n")
    (scene,) = scenes(prepared(root, tmp_path / "runs")).values()
    assert (scene.image_id, scene.classes, len(scene.captions)) == (name, (0,), 1)


def test_a_class_name_may_hold_a_line_separator(tmp_path):
    make_folder(tmp_path / "data")
    put(tmp_path / "data" / "classes.txt", "sky\r\nocu\u2028lus\r\nroad\r\n")
    artifact = prepared(tmp_path / "data", tmp_path / "runs")
    assert artifact.description.attributes["class_names"] == ["sky", "ocu\u2028lus", "road"]


def test_pictures_of_other_formats_keep_their_pixels(tmp_path):
    root = tmp_path / "data"
    for name, kind in (("a.webp", "WEBP"), ("b.tif", "TIFF"), ("c.BMP", "BMP"), ("d.gif", "GIF"), ("e.avif", "AVIF")):
        put(root / "images" / name, encoded(picture(), kind))
    put(root / "images" / "notes.txt", "x")
    put(root / "images" / "broken.webp", encoded(picture(), "WEBP")[:-9])
    put(root / "images" / "deep.tiff", encoded(np.full((4, 4), 999, np.uint16), "TIFF"))
    artifact = prepared(root, tmp_path / "runs")
    found = scenes(artifact)
    assert {name: (scene.status, scene.image_suffix) for name, scene in found.items()} == {
        "a": ("ok", "webp"),
        **dict.fromkeys("bcde", ("ok", "png")),
        "broken": ("image_truncated", ""),
        "deep": ("image_mode_unsupported", ""),
    }
    for name in ("a.webp", "b.tif", "c.BMP", "d.gif", "e.avif"):
        with Image.open(root / "images" / name) as original, Image.open(io.BytesIO(found[name[0]].image)) as stored:
            np.testing.assert_array_equal(np.asarray(original.convert("RGB")), np.asarray(stored.convert("RGB")))
    passed = {(each["example"], each["reason"]) for each in card_facts(artifact)["passed_over"]}
    assert ("images/notes.txt", "files that are no pictures by their ending") in passed


def test_case_folder_webp_tif(tmp_path):
    artifact = prepared(case("folder_webp_tif", tmp_path), tmp_path / "runs")
    found = scenes(artifact)
    assert {name: scene.image_suffix for name, scene in found.items()} == {
        "a": "jpg",
        "b": "webp",
        "c": "png",
        "d": "png",
    }
    assert found["b"].captions


def test_an_animation_is_refused(tmp_path):
    frames = [Image.fromarray(picture(seed=seed)) for seed in range(2)]
    for name, kind in (("a.webp", "WEBP"), ("b.gif", "GIF"), ("c.tif", "TIFF")):
        put(tmp_path / "data/images" / name, encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    assert {scene.status for scene in found.values()} == {"image_mode_unsupported"}
    assert all("of 2 pictures, expected one" in scene.reason for scene in found.values())


def test_pictures_in_sub_folders_are_pictures_of_their_own(tmp_path):
    root = tmp_path / "data"
    for number, folder in enumerate(("cam1", "cam2/night", ".")):
        put(root / "images" / folder / "a.jpg", jpeg(seed=number))
        put(root / "labels" / folder / "a.png", encoded(np.full((16, 24), number, np.uint8)))
    put(root / "classes.txt", "sky\nroad\ntree\n")
    put(root / "captions.tsv", "image\tcaption\ncam1/a.jpg\tone\ncam2/night/a\ttwo\n")
    found = scenes(prepared(root, tmp_path / "runs"))
    assert {name: (scene.classes, [caption.text for caption in scene.captions]) for name, scene in found.items()} == {
        "cam1/a": ((0,), ["one"]),
        "cam2/night/a": ((1,), ["two"]),
        "a": ((2,), []),
    }


def test_case_folder_nested(tmp_path):
    found = scenes(prepared(case("folder_nested", tmp_path), tmp_path / "runs"))
    assert {scene.source_path: scene.status for scene in found.values()} == {
        "images/cam1/a.jpg": "ok",
        "images/cam2/b.jpg": "ok",
    }


def test_what_is_no_regular_file_is_a_row_and_nothing_hangs(tmp_path):
    make_folder(tmp_path / "data")
    images = tmp_path / "data" / "images"
    os.mkfifo(images / "pipe.jpg")
    (images / "folder.jpg").mkdir()
    (images / "device.jpg").symlink_to("/dev/null")
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    assert {name: scene.status for name, scene in found.items()} == {
        **{f"shot_{number}": "ok" for number in range(3)},
        "pipe": "image_unreadable",
        "folder": "image_unreadable",
        "device": "path_outside_root",
    }


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (["labels/a_mask.png", "labels/b_mask.png"], "end in '_mask'"),
        (["labels/a_labelTrainIds.png"], "end in '_labelTrainIds'"),
        (["labels/a.jpg"], r"end in \.jpg, such as labels/a\.jpg, which cannot hold class indices"),
        (["labels/a.npy"], r"end in \.npy"),
        (["labels/night/a.png"], "different sub-folders"),
        (["labels/zebra.png"], r"no label has the name of a picture \(labels/zebra\.png beside images/a\.jpg\)"),
        ([], "no label file is there"),
    ],
)
def test_the_likely_reason_is_given_when_no_label_fits(labels, reason):
    assert re.search(reason, why_no_label(["images/a.jpg", "images/b.jpg"], labels))


def test_pictures_with_another_beginning_are_recognised():
    reason = why_no_label(["train2014/COCO_train2014_000000000001.jpg"], ["stuff/000000000001.png"])
    assert "pictures begin with 'COCO_train2014_', labels don't" in reason


@pytest.mark.parametrize("name", ["labels_jpg", "labels_suffix"])
def test_cases_of_labels_that_are_never_used_end_with_2(name, tmp_path, capsys):
    assert main(command(case(name, tmp_path), tmp_path / "runs")) == 2
    assert {"labels_jpg": "cannot hold class indices", "labels_suffix": "'_mask'"}[name] in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("scenes/*"))


def test_labels_of_an_official_layout_that_fit_no_picture_end_with_2(tmp_path):
    make_ade20k_150(tmp_path)
    for path in sorted((tmp_path / "annotations/validation").iterdir()):
        path.rename(path.with_name(f"{path.stem}_seg.png"))
    with pytest.raises(LayoutError, match="no label can be used: labels end in '_seg'"):
        prepared(tmp_path, tmp_path / "runs", dataset="ade20k-150", split="val")


def test_the_report_says_what_was_found_and_used(tmp_path, capsys):
    make_folder(tmp_path / "data", images=4)
    (tmp_path / "data/labels/shot_0.png").rename(tmp_path / "data/labels/other.png")
    put(tmp_path / "data/images/shot_3.jpg", b"x")
    assert main(command(tmp_path / "data", tmp_path / "runs", "--json", "--max-failed-share", "1")) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "1 of 3 usable scenes have no labelled pixel" in captured.err
    assert (report["pictures"], report["labels"]["found"], report["labels"]["used"], report["captions"]) == (
        {"found": 4, "used": 3},
        4,
        2,
        {"found": 4, "used": 3},
    )
    assert {(each["count"], each["example"].partition(":")[0]) for each in report["passed_over"]} == {
        (1, "labels/other.png"),
        (1, "shot_3"),
    }
    assert (report["ignored_values"], report["absent_classes"]) == ({"255": 2}, ["oculus"])
    assert main(command(tmp_path / "data", tmp_path / "runs", "--max-failed-share", "1")) == 0  # already complete
    captured = capsys.readouterr()
    assert Path(captured.out.strip()) == Path(report["artifact"])
    assert "value 255 in 2 label files" in captured.err


def test_files_of_other_kinds_beside_labels_are_no_labels(tmp_path):
    make_folder(tmp_path / "data")
    put(tmp_path / "data/labels/shot_0.json", "{}")
    facts = card_facts(prepared(tmp_path / "data", tmp_path / "runs"))
    assert (facts["labels"]["found"], facts["warnings"]) == (3, [])
    assert [each["reason"] for each in facts["passed_over"]] == ["files beside labels that are no PNG"]


def test_a_check_ends_with_2_where_nothing_can_be_used(tmp_path, capsys):
    put(tmp_path / "images" / "a.jpg", b"x")
    assert main(["prepare", "folder", "--root", str(tmp_path), "--check"]) == 2
    assert "none of its scenes can be used" in capsys.readouterr().err


@pytest.mark.parametrize("values", [(0, 255), (255,)])
def test_binary_masks_of_0_and_255_are_warned_of(values, tmp_path):
    root = tmp_path / "data"
    for number in range(2):
        label = np.zeros((16, 24), np.uint8)
        label[:8] = values[number % len(values)]
        put(root / "images" / f"{number}.jpg", jpeg(seed=number))
        put(root / "labels" / f"{number}.png", encoded(label))
    put(root / "classes.txt", "background\nlesion\n")
    (warning,) = card_facts(prepared(root, tmp_path / "runs"))["warnings"]
    assert "'lesion' never occurs" in warning
    assert "divide the values by 255" in warning


def test_no_warning_of_binary_masks_where_classes_occur(tmp_path):
    make_folder(tmp_path / "data")
    assert card_facts(prepared(tmp_path / "data", tmp_path / "runs"))["warnings"] == []


def test_case_binary_0_255(tmp_path, capsys):
    root = case("binary_0_255", tmp_path)
    for options in (["--check"], []):
        assert main(command(root, tmp_path / "runs", *options)) == 0
        printed = capsys.readouterr()
        assert "'lesion' never occurs" in printed.out + printed.err


def age(root: Path) -> None:
    """Let files look as if they were written long ago."""
    past = time.time() - 100
    for path in root.rglob("*"):
        os.utime(path, (past, past))


def test_a_label_corrected_in_place_is_noticed(tmp_path):
    root, runs = tmp_path / "data", tmp_path / "runs"
    make_folder(root)
    label = root / "labels" / "shot_1.png"
    values = np.array(Image.open(label))
    put(label, encoded(values, compress_level=0))
    age(root)
    before = prepared(root, runs)
    size_bytes = label.stat().st_size
    values[:, :10], values[:, 10:13] = 2, 0
    put(label, encoded(values, compress_level=0))
    assert label.stat().st_size == size_bytes
    after = prepared(root, runs)
    assert after.directory != before.directory
    assert not np.array_equal(
        *(np.array(Image.open(io.BytesIO(scenes(each)["shot_1"].label_png))) for each in (before, after))
    )


def test_case_masks_fixed_in_place(tmp_path):
    root, runs = case("masks_fixed_in_place", tmp_path), tmp_path / "runs"
    first = prepared(root, runs)
    for path in (root / "labels").iterdir():
        values = np.array(Image.open(path)) * np.uint8(255)
        put(path, encoded(values))
    assert prepared(root, runs).directory != first.directory


def test_a_picture_replaced_in_place_by_one_of_the_same_size_is_noticed(tmp_path):
    root, runs = tmp_path / "data", tmp_path / "runs"
    put(root / "images" / "a.png", encoded(picture()))
    age(root)
    settings = PrepareSettings(dataset="folder", root=root)
    first = prepared(root, runs)
    assert plan_prepare(settings, runs).artifact.directory == first.directory
    data = bytearray((root / "images" / "a.png").read_bytes())
    data[-20] ^= 1
    put(root / "images" / "a.png", bytes(data))
    assert plan_prepare(settings, runs).artifact.directory != first.directory


def test_nothing_is_hashed_twice_and_a_lost_memory_costs_time_alone(tmp_path, monkeypatch):
    make_folder(tmp_path / "data")
    (tmp_path / "runs").mkdir()
    age(tmp_path / "data")
    root = DataRoot("folder", tmp_path / "data", 10_000)
    labels, images = (
        [f"{part}/shot_{number}.{ending}" for number in range(3)]
        for part, ending in (("labels", "png"), ("images", "jpg"))
    )
    monkeypatch.setattr("pipeline.prepare.file_digests.SETTLED_AFTER_NS", 0)
    memory = tmp_path / "runs" / "known" / "files.json"
    first = FileDigests(memory)
    digest, listing = first.by_contents(root, labels), first.by_size(root, images)
    first.keep()
    hashed = []
    monkeypatch.setattr("pipeline.prepare.file_digests.sha256_of_file", lambda path: hashed.append(path) or "x")
    assert FileDigests(memory).by_contents(root, labels) == digest
    assert hashed == []
    monkeypatch.undo()
    memory.write_bytes(b"damaged")
    assert FileDigests(memory).by_contents(root, labels) == digest
    assert FileDigests().by_size(root, images) == listing


def test_a_dry_run_keeps_nothing(tmp_path):
    make_folder(tmp_path / "data")
    (tmp_path / "runs").mkdir()
    with nothing_kept():
        plan_prepare(PrepareSettings(dataset="folder", root=tmp_path / "data"), tmp_path / "runs")
    assert list((tmp_path / "runs").rglob("*")) == []


def labelless_settings(tmp_path: Path, root: Path) -> Settings:
    """Return settings whose only data set is a folder of small pictures."""
    overrides = [
        f"runs_dir={tmp_path / 'runs'}",
        f'datasets.mine={{dataset="folder", root="{root}"}}',
        "proposal_net.dataset=mine",
        "proposal_net.validation_dataset=",
        "finetune.validation_dataset=",
        'evaluate.datasets=[{dataset="mine"}]',
        "proposal_net.held_out_classes=[]",
        "mine.dataset=mine",
        # The demo's own data sets are prepared with it: few scenes will do.
        *(f"datasets.drawn-{split}.drawn_world.scenes=2" for split in ("train", "val", "test")),
    ]
    return load_settings(CONFIG, overrides)


def test_labels_that_are_all_ignored_train_and_evaluate_nothing(tmp_path):
    root = tmp_path / "data"
    make_folder(root)
    for path in (root / "labels").iterdir():
        put(path, encoded(np.full((16, 24), 255, np.uint8)))
    settings = labelless_settings(tmp_path, root)
    for stage in ("train-proposals", "evaluate"):
        with pytest.raises((ArtifactError, SettingsError), match="no scene has a labelled pixel"):
            run(stage, settings)


def test_a_dry_run_finds_a_data_set_without_labels(tmp_path):
    root = tmp_path / "data"
    put(root / "images" / "a.jpg", jpeg())
    put(root / "classes.txt", "sky\nroad\n")
    found = dry_run(labelless_settings(tmp_path, root), STAGE_NAMES)
    missing = {finding.where: finding.text for finding in found.findings}
    assert list(missing) == ["datasets.mine", "mine.source"]  # it has no caption either
    assert "no scene has a labelled pixel" in missing["datasets.mine"]
    assert not found.is_all_there


def test_case_pipe_ignored(tmp_path):
    settings = labelless_settings(tmp_path, case("pipe_ignored", tmp_path))
    run("prepare", settings)
    with pytest.raises(SettingsError, match="no scene has a labelled pixel"):
        run("evaluate", settings)


def test_case_partly_labelled(tmp_path):
    artifact = prepared(case("partly_labelled", tmp_path), tmp_path / "runs")
    assert "2 of 4 usable scenes have no labelled pixel" in card_facts(artifact)["warnings"][0]
    assert labelled_scenes(artifact) == len(SceneCollection(artifact, labelled=True)) == 2
