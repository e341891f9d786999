"""COCO JSON as CVAT, labelme, Roboflow, Label Studio, coco-annotator and others write it."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from flows.command import main
from pipeline.prepare.data_root import LayoutError
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings, Settings, SettingsError
from pipeline.shard_runner import Execution, Limits
from pipeline.stage_names import STAGE_NAMES
from pipeline.stages import run
from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_facts
from storage_schemas.commit import Disk
from storage_schemas.scenes import Scene, ScenesAttributes, SceneShard
from tests.pipeline.evaluate.small_world import SMALL_CLIP
from tests.pipeline.planned import node_of
from tests.pipeline.prepare.layouts import decoded, encoded, jpeg, make_coco, picture, put
from tests.tiny_segmenter import PROPOSAL_NET

CASES = Path(__file__).parents[3] / ".." / "shared" / "cases"
SQUARE = [2, 2, 12, 2, 12, 10, 2, 10]


def case(name: str, tmp_path: Path) -> Path:
    if not (CASES / name).is_dir():
        pytest.skip("the inputs that went wrong are not here")
    return Path(shutil.copytree(CASES / name, tmp_path / name))


def thing(number: int, image: int, category: int | None, **more: object) -> dict[str, object]:
    known = {"id": number, "image_id": image, "category_id": category, "segmentation": [SQUARE], "area": 80.0}
    return {**known, "bbox": [2, 2, 10, 8], "iscrowd": 0, **more}


def export(
    root: Path,
    names: list[str],
    annotations: list[dict[str, object]],
    categories: list[dict[str, object]],
    *,
    file: str = "annotations/instances_default.json",
    images: str = "images",
    written: dict[int, str] | None = None,
    first_id: int = 1,
) -> None:
    """Write pictures and one JSON file; ``written`` says what the file calls a picture of an id."""
    records = []
    for number, name in enumerate(names, start=first_id):
        put(root / images / name, jpeg(seed=number))
        records.append({"id": number, "file_name": (written or {}).get(number, name), "width": 24, "height": 16})
    put(root / file, json.dumps({"images": records, "annotations": annotations, "categories": categories}))


def names_of(*names: str, first: int = 1, step: int = 1) -> list[dict[str, object]]:
    return [{"id": first + step * place, "name": name, "supercategory": ""} for place, name in enumerate(names)]


def prepared(root: Path, runs: Path, **options: object) -> Artifact:
    known = {"dataset": "coco", "root": root, "images": "images", "annotations": ["annotations/instances_default.json"]}
    settings = PrepareSettings.model_validate({**known, **options})
    return prepare(settings, runs, execution=Execution(limits=Limits(max_failed_share=1.0))).artifact


def scenes(artifact: Artifact) -> dict[str, Scene]:
    found = (scene for unit in artifact.description.units for scene in SceneShard(artifact, unit).scenes())
    return {scene.image_id: scene for scene in found}


def class_names(artifact: Artifact) -> list[str]:
    return artifact.description.attributes["class_names"]


@pytest.mark.parametrize(("first", "step"), [(1, 1), (0, 1), (7, 1000)])
def test_the_files_names_are_the_classes_whatever_their_ids(first, step, tmp_path):
    categories = names_of("weld seam", "corrosion", first=first, step=step)
    objects = [thing(1, 1, first), thing(2, 2, first + step)]
    export(tmp_path / "data", ["a.jpg", "b.jpg"], objects, list(reversed(categories)))
    artifact = prepared(tmp_path / "data", tmp_path / "runs")
    assert class_names(artifact) == ["weld seam", "corrosion"]
    assert {name: scene.classes for name, scene in scenes(artifact).items()} == {"1": (0,), "2": (1,)}


@pytest.mark.parametrize("name", ["own_categories_1based", "own_categories_0based"])
def test_cases_of_own_categories(name, tmp_path):
    root = case(name, tmp_path)
    artifact = prepared(
        root, tmp_path / "runs", split="train2017", labels="instances", captions=False, annotations=[], images=""
    )
    document = json.loads((root / "annotations/instances_train2017.json").read_text())
    ordered = sorted(document["categories"], key=lambda entry: entry["id"])
    assert class_names(artifact) == [entry["name"] for entry in ordered]
    index_of = {entry["id"]: place for place, entry in enumerate(ordered)}
    expected = {str(each["image_id"]): (index_of[each["category_id"]],) for each in document["annotations"]}
    assert {name: scene.classes for name, scene in scenes(artifact).items()} == expected


def test_cocos_own_table_is_taken_where_the_names_are_cocos(tmp_path):
    make_coco(tmp_path / "data")
    options = {"split": "val2017", "labels": "instances", "annotations": [], "images": ""}
    artifact = prepared(tmp_path / "data", tmp_path / "runs", **options)
    assert artifact.description.attributes["vocabulary"] == "coco-things-80"
    path = tmp_path / "data/annotations/instances_val2017.json"
    document = json.loads(path.read_text())
    document["categories"][0]["name"] = "pedestrian"
    path.write_text(json.dumps(document))
    artifact = prepared(tmp_path / "data", tmp_path / "runs", **options)
    assert artifact.description.attributes["vocabulary"] == "coco-own"
    assert class_names(artifact)[:2] == ["pedestrian", "bicycle"]


def test_panoptic_files_have_categories_of_their_own(tmp_path):
    root = tmp_path / "data"
    numbers = np.zeros((16, 24), np.uint32)
    numbers[:, 4:10], numbers[:, 10:16], numbers[:, 16:] = 3, 300, 9
    rgb = np.stack([numbers & 255, numbers >> 8 & 255, numbers >> 16 & 255], axis=-1).astype(np.uint8)
    put(root / "images/a.jpg", jpeg())
    put(root / "annotations/mine/a.png", encoded(rgb))
    infos = [{"id": 3, "category_id": 5}, {"id": 300, "category_id": 5}, {"id": 9, "category_id": 0}]
    put(root / "annotations/mine.json", json.dumps({
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": infos}],
        "categories": [{"id": 0, "name": "wall", "isthing": 0}, {"id": 5, "name": "crane", "isthing": 1}],
    }))  # fmt: skip
    artifact = prepared(root, tmp_path / "runs", annotations=["annotations/mine.json"])
    (scene,) = scenes(artifact).values()
    assert (class_names(artifact), scene.classes) == (["wall", "crane"], (0, 1))
    assert decoded(scene.label_png)[0, [0, 5, 12, 20]].tolist() == [255, 1, 1, 0]
    assert decoded(scene.instances_png)[0, [0, 5, 12, 20]].tolist() == [0, 1, 2, 0]


def test_more_classes_than_8_bits_hold(tmp_path):
    categories = names_of(*(f"part {number}" for number in range(300)))
    export(tmp_path / "data", ["a.jpg"], [thing(1, 1, 300)], categories)
    artifact = prepared(tmp_path / "data", tmp_path / "runs")
    (scene,) = scenes(artifact).values()
    assert (scene.classes, decoded(scene.label_png)[0, 0]) == ((299,), 65535)


def test_roboflows_dummy_category_is_no_class(tmp_path):
    categories = [
        {"id": 0, "name": "my-project", "supercategory": "none"},
        {"id": 1, "name": "helmet", "supercategory": "my-project"},
        {"id": 2, "name": "vest", "supercategory": "my-project"},
    ]
    options = {"file": "train/_annotations.coco.json", "images": "train"}
    export(tmp_path / "data", ["a_jpg.rf.0a1b.jpg"], [thing(1, 1, 2)], categories, **options)
    where = {"annotations": ["train/_annotations.coco.json"], "images": "train"}
    artifact = prepared(tmp_path / "data", tmp_path / "runs", **where)
    assert class_names(artifact) == ["helmet", "vest"]
    export(tmp_path / "used", ["a.jpg"], [thing(1, 1, 0)], categories, **options)
    assert class_names(prepared(tmp_path / "used", tmp_path / "runs", **where)) == ["my-project", "helmet", "vest"]


@pytest.mark.parametrize(
    ("categories", "reason"),
    [
        (names_of("a", "a"), "'a' is the name of 1 and 2; give each its own"),
        ([*names_of("a"), *names_of("b")], "id 1 is that of 'a' and 'b'"),
        (names_of("a", " "), "category 2 has an empty name"),
        ([{"id": "x", "name": "a"}], "has id 'x', of the wrong type"),
        ([{"id": 1}], "lacks 'name'"),
    ],
)
def test_categories_that_cannot_be_told_apart_are_refused(categories, reason, tmp_path):
    export(tmp_path / "data", ["a.jpg"], [thing(1, 1, 1)], categories)
    with pytest.raises(LayoutError, match=reason):
        prepared(tmp_path / "data", tmp_path / "runs")


def test_brush_masks_of_cvat_are_objects_like_others(tmp_path):
    brush = {"size": [16, 24], "counts": [0, 16 * 6, 16 * 18]}  # the first six columns
    objects = [thing(1, 1, 1, segmentation=brush, iscrowd=1, area=96.0), thing(2, 1, 2, area=80.0)]
    export(tmp_path / "data", ["a.jpg"], objects, names_of("rust", "seam"))
    (scene,) = scenes(prepared(tmp_path / "data", tmp_path / "runs")).values()
    assert decoded(scene.label_png)[[0, 5, 12], [0, 5, 20]].tolist() == [0, 1, 255]
    assert decoded(scene.instances_png)[[0, 5, 12], [0, 5, 20]].tolist() == [1, 2, 0]


@pytest.mark.parametrize("leave_out", ["iscrowd", "area", "id", "bbox"])
def test_fields_that_tools_leave_out_are_not_needed(leave_out, tmp_path):
    for number, objects in enumerate(
        ([{k: v for k, v in thing(1, 1, 1).items() if k != leave_out}], [{**thing(1, 1, 1), leave_out: None}])
    ):
        root = tmp_path / str(number)
        export(root, ["a.jpg"], objects, names_of("rust"))
        (scene,) = scenes(prepared(root, tmp_path / "runs")).values()
        assert (scene.status, scene.classes) == ("ok", (0,))


@pytest.mark.parametrize("segmentation", [[], [[]], None])
def test_a_box_alone_is_reported_as_such(segmentation, tmp_path):
    export(tmp_path / "data", ["a.jpg"], [thing(1, 1, 1, segmentation=segmentation)], names_of("rust"))
    (scene,) = scenes(prepared(tmp_path / "data", tmp_path / "runs")).values()
    assert (scene.status, "has no segmentation (a box only)" in scene.reason) == ("label_unreadable", True)


def test_case_bbox_only(tmp_path):
    options = {"split": "train2017", "labels": "instances", "captions": False, "annotations": [], "images": ""}
    found = scenes(prepared(case("bbox_only", tmp_path), tmp_path / "runs", **options))
    assert {name: scene.status for name, scene in found.items()} == {"1": "label_unreadable", "2": "ok", "3": "ok"}
    assert "a box only" in found["1"].reason


def test_case_json_bom(tmp_path):
    options = {"split": "train2017", "labels": "instances", "captions": False, "annotations": [], "images": ""}
    (scene,) = scenes(prepared(case("json_bom", tmp_path), tmp_path / "runs", **options)).values()
    assert (scene.status, scene.classes) == ("ok", (0,))


@pytest.mark.parametrize("name", ["a.jpg", "deep/er/a.jpg"])
def test_a_byte_order_mark_and_any_depth_of_folders(name, tmp_path):
    export(tmp_path / "data", [name], [thing(1, 1, 1)], names_of("rust"))
    path = tmp_path / "data/annotations/instances_default.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (scene,) = scenes(prepared(tmp_path / "data", tmp_path / "runs")).values()
    assert (scene.source_path, scene.classes) == (f"images/{name}", (0,))


def test_the_same_name_in_two_folders_is_two_pictures(tmp_path):
    objects = [thing(1, 1, 1), thing(2, 2, 2)]
    export(tmp_path / "data", ["cam1/a.jpg", "cam2/a.jpg"], objects, names_of("rust", "seam"))
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    assert {scene.source_path: scene.classes for scene in found.values()} == {
        "images/cam1/a.jpg": (0,),
        "images/cam2/a.jpg": (1,),
    }
    assert len({scene.key for scene in found.values()}) == 2


@pytest.mark.parametrize(
    "written",
    [
        "cam1\\a.jpg",
        "images/cam1/a.jpg",
        "./cam1/a.jpg",
        "/home/someone/project/cam1/a.jpg",
        "..\\..\\label-studio\\media\\upload\\4\\cam1\\a.jpg",
        "https://bucket/cam1/a.jpg",
        "1a2b3c4d-a.jpg",
        "1a2b3c4d__a.jpg",
    ],
)
def test_paths_as_exports_write_them_lead_to_their_picture(written, tmp_path):
    export(tmp_path / "data", ["cam1/a.jpg", "b.jpg"], [thing(1, 1, 1)], names_of("rust"), written={1: written})
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    assert {scene.source_path: scene.classes for scene in found.values()} == {
        "images/cam1/a.jpg": (0,),
        "images/b.jpg": (),
    }


def test_a_name_that_may_mean_two_pictures_means_none(tmp_path):
    export(
        tmp_path / "data",
        ["cam1/a.jpg", "cam2/a.jpg"],
        [thing(1, 1, 1)],
        names_of("rust"),
        written={1: "a.jpg", 2: "x.jpg"},
    )
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    assert found["1"].status == "image_missing"
    assert [scene.classes for scene in found.values() if scene.status == "ok"] == [(), ()]


def test_pictures_found_by_base_name_alone_are_reported(tmp_path):
    export(tmp_path / "data", ["a.jpg"], [thing(1, 1, 1)], names_of("rust"), written={1: "/elsewhere/a.jpg"})
    (warning,) = card_facts(prepared(tmp_path / "data", tmp_path / "runs"))["warnings"]
    assert "1 pictures were found by the last part of their name alone, such as a.jpg of image id 1" in warning


def test_the_list_of_images_alone_says_which_id_a_picture_has(tmp_path):
    names = ["frame_000102.jpg", "frame_000101.jpg", "extra_000001.jpg"]
    export(tmp_path / "data", names[:2], [thing(1, 1, 1), thing(2, 2, 2), thing(3, 101, 1)], names_of("rust", "seam"))
    put(tmp_path / "data/images" / names[2], jpeg(seed=9))
    found = scenes(prepared(tmp_path / "data", tmp_path / "runs"))
    by_path = {scene.source_path: (scene.status, scene.classes) for scene in found.values()}
    assert by_path == {
        "images/frame_000102.jpg": ("ok", (0,)),
        "images/frame_000101.jpg": ("ok", (1,)),
        "images/extra_000001.jpg": ("ok", ()),
        "": ("image_id_unknown", ()),
    }


@pytest.mark.parametrize("options", [{"labels": "none"}, {"labels": "instances", "captions": False}])
def test_case_ids_not_in_names(options, tmp_path):
    known = {"split": "train2017", "annotations": [], "images": ""}
    artifact = prepared(case("ids_not_in_names", tmp_path), tmp_path / "runs", **known, **options)
    assert artifact.manifest().counts == {"ok": 3}
    assert set(scenes(artifact)) == {"1", "2", "3"}


def test_case_orphan_annotation(tmp_path):
    known = {"split": "val2017", "annotations": [], "images": "", "labels": "none"}
    found = scenes(prepared(case("orphan_annotation", tmp_path), tmp_path / "runs", **known))
    assert found["2"].status == "image_id_unknown"
    (unlisted,) = (scene for scene in found.values() if scene.source_path == "val2017/IMG_2.jpg")
    assert (unlisted.status, unlisted.captions) == ("ok", ())


def test_files_that_are_no_pictures_are_counted_and_named(tmp_path):
    export(tmp_path / "data", ["a.jpg"], [thing(1, 1, 1)], names_of("rust"))
    put(tmp_path / "data/images/notes.txt", b"x")
    (passed,) = card_facts(prepared(tmp_path / "data", tmp_path / "runs"))["passed_over"]
    assert (passed["count"], passed["example"]) == (1, "images/notes.txt")


def test_a_part_of_coco_takes_the_pictures_that_are_there(tmp_path):
    ids = make_coco(tmp_path / "data", images=5)
    for image_id in ids[2:]:
        (tmp_path / "data/val2017" / f"{image_id:012d}.jpg").unlink()
    known = {"split": "val2017", "annotations": [], "images": "", "labels": "instances"}
    artifact = prepared(tmp_path / "data", tmp_path / "runs", **known, present_only=True)
    assert artifact.manifest().counts == {"ok": 2}
    passed = card_facts(artifact)["passed_over"]
    assert [(each["count"], each["reason"]) for each in passed] == [
        (3, "annotated pictures that are not there (present_only)")
    ]
    assert prepared(tmp_path / "data", tmp_path / "runs", **known).manifest().counts == {"ok": 2, "image_missing": 3}


def test_no_advice_to_download_coco_where_the_data_is_not_coco(tmp_path):
    put(tmp_path / "images/a.jpg", jpeg())
    for options in ({}, {"split": "train", "annotations": [], "labels": "instances"}):
        with pytest.raises(LayoutError) as error:
            prepared(tmp_path, tmp_path / "runs", **options)
        assert "cocodataset" not in str(error.value)
        assert "--annotations" in str(error.value)


def stuff(root: Path, *values: int) -> Path:
    put(root / "train2017/000000000001.jpg", jpeg())
    label = np.array(values, np.uint8)[np.arange(24) * len(values) // 24]
    put(root / "stuffthingmaps/train2017/000000000001.png", encoded(np.tile(label, (16, 1))))
    return root


OFFICIAL = {"split": "train2017", "captions": False, "annotations": [], "images": ""}


@pytest.mark.parametrize("value", [11, 25, 90])
def test_contiguous_stuff_values_are_refused_unless_named(value, tmp_path):
    root = stuff(tmp_path / "data", 0, value, 170)
    with pytest.raises(LayoutError, match=f"holds the value {value}, which official files never hold.*--stuff-values"):
        prepared(root, tmp_path / "runs", **OFFICIAL)
    artifact = prepared(root, tmp_path / "runs", **OFFICIAL, stuff_values="contiguous")
    (scene,) = scenes(artifact).values()
    assert scene.classes == (0, value, 170)
    assert class_names(artifact)[170] == "wood"


def test_official_stuff_values_are_refused_as_contiguous_ones(tmp_path):
    with pytest.raises(LayoutError, match="holds the value 181, but contiguous indices end at 170"):
        prepared(stuff(tmp_path, 0, 181, 255), tmp_path / "runs", **OFFICIAL, stuff_values="contiguous")


def test_case_stuff_contiguous(tmp_path, capsys):
    root = case("stuff_contiguous", tmp_path)
    command = ["prepare", "coco", "--root", str(root), "--split", "train2017", "--no-captions", "--check"]
    assert main(command) == 2
    assert "11" in capsys.readouterr().err
    assert main([*command, "--stuff-values", "contiguous"]) == 0


def test_case_stuff_2014(tmp_path, capsys):
    root = case("stuff_2014", tmp_path)
    command = ["prepare", "coco", "--root", str(root), "--split", "train2014", "--no-captions"]
    assert main([*command, "--runs", str(tmp_path / "runs"), "--stuff-values", "contiguous"]) == 2
    assert "pictures begin with 'COCO_train2014_'" in capsys.readouterr().err


def four_stage_settings(tmp_path: Path, **datasets: dict[str, object]) -> Settings:
    """Return settings of all stages with tiny nets, for data sets of CVAT's layout."""
    backbone = {"name": "resnet10t", "timm_arguments": PROPOSAL_NET["backbone_arguments"]["timm_arguments"]}
    sizes = ("queries", "hidden_dim", "mask_dim", "norm_groups", "heads", "feedforward_dim", "decoder_layers")
    architecture = {name: PROPOSAL_NET[name] for name in sizes} | {"embedding_hidden_dim": 16, "backbone": backbone}
    sides = {"short_side_px": 64, "max_side_px": 64}
    augmentation = {"short_sides_px": [64], "max_side_px": 64, "crop_px": 64}
    steps = {"steps": 2, "batch_images": 2, "warmup_steps": 0, "augmentation": augmentation}
    phase = {"epochs": 1, "batch_pairs": 2, "warmup_steps": 0}
    return Settings.model_validate({
        "name": "own",
        "runs_dir": str(tmp_path / "runs"),
        "datasets": datasets,
        "clip": SMALL_CLIP,
        "proposal_net": {
            "dataset": "train", "validation_dataset": "val", "validation_short_side_px": 64,
            "validation_max_side_px": 64, "architecture": architecture, "training": steps,
        },
        "mine": {"dataset": "train", "propose": sides},
        "finetune": {"mode": "ft", "ft": phase},
        "evaluate": {"datasets": [{"dataset": "val"}], **sides, "bootstrap_rounds": 10},
        "compute": {"loader_workers": 0},
    })  # fmt: skip


def cvat(root: Path, *names: str) -> dict[str, object]:
    """Write an export of three pictures with masks, and captions in a file of their own."""
    for number in range(1, 4):
        put(root / "images/default" / f"frame_{number}.png", encoded(picture(48, 40, seed=number)))
    records = [{"id": number, "file_name": f"default/frame_{number}.png"} for number in range(1, 4)]
    objects = [
        thing(
            2 * number + place,
            number,
            1 + place,
            segmentation=[[4 + 20 * place, 4, 20 + 20 * place, 4, 12 + 18 * place, 34]],
        )
        for number in range(1, 4)
        for place in range(2)
    ]
    put(root / "annotations/instances_default.json", json.dumps(
        {"images": records, "annotations": objects, "categories": names_of(*names)}
    ))  # fmt: skip
    captions = [{"id": number, "image_id": number, "caption": "a boat beside a duck"} for number in range(1, 4)]
    put(root / "annotations/captions.json", json.dumps({"images": records, "annotations": captions}))
    files = ["annotations/instances_default.json", "annotations/captions.json"]
    return {"dataset": "coco", "root": str(root), "images": "images", "annotations": files}


def refuse_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every write below a runs directory fail as on a read-only disk."""

    def refused(*_: object, **__: object) -> NoReturn:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("create", "rename", "sync_directory"):
        monkeypatch.setattr(Disk, name, refused)
    monkeypatch.setattr("storage_schemas.artifact.held", refused)
    monkeypatch.setattr("os.access", lambda _, mode: not mode & os.W_OK)
    monkeypatch.setattr("pipeline.settings.loading.tempfile.TemporaryFile", refused)
    monkeypatch.setattr(Path, "mkdir", refused)


def test_own_categories_go_through_all_four_stages(tmp_path, monkeypatch):
    train, val = cvat(tmp_path / "train", "boat", "duck"), cvat(tmp_path / "val", "boat", "duck")
    settings = four_stage_settings(tmp_path, train=train, val=val)
    run("train-proposals", settings)
    pairs = run("mine", settings).artifact
    assert pairs.manifest().counts["ok"] >= 2
    run("finetune", settings)
    scored = run("evaluate", settings).of_kind("scores")[0].artifact
    assert scored.manifest().counts == {"ok": 3}
    assert ScenesAttributes.of(node_of(settings, "proposal_net")["scenes"].artifact).class_names == ("boat", "duck")
    refuse_writing(monkeypatch)  # what is finished is said to be complete, wherever it lies
    for data_set in settings.datasets.values():
        assert prepare(data_set, settings.runs_dir).units_done == 0
    for stage in STAGE_NAMES[1:]:
        assert run(stage, settings).units_done == 0
    monkeypatch.setattr("pipeline.settings.load_settings", lambda *_, **__: settings)
    for command in ("train-proposals", "mine", "finetune", "evaluate", "run", "status"):
        assert main([command, "--config", "own.toml"]) == 0, command


def test_training_and_validation_with_other_categories_are_refused(tmp_path):
    train, val = cvat(tmp_path / "train", "boat", "duck"), cvat(tmp_path / "val", "boat", "castle")
    settings = four_stage_settings(tmp_path, train=train, val=val)
    with pytest.raises(SettingsError, match=r"validation_dataset: .* first at 1: 'castle', there 'duck'"):
        run("train-proposals", settings)
