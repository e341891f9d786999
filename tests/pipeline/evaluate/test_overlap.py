"""The overlap audit: planted duplicates and synonyms are found and listed, at no cost the second time."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.dataflow import dataflow
from pipeline.evaluate.overlap import known_classes, overlap_numbers, training_scenes
from pipeline.evaluate.picture_hashes import hash_row
from pipeline.prepare.vocabulary import name_aliases
from pipeline.settings import Settings
from pipeline.stages import run
from storage_schemas.reports import html_path, read_numbers
from storage_schemas.scenes import Scene
from tests.pipeline.evaluate.small_world import LENIENT, folder_settings, make_folder, scores_of, settings_of

CLASSES = ["sofa", "motorbike", "zeppelin"]


def planted_pictures(root):
    """Test and training folders; training has a copy of im0 in half the size as JPEG, and im1 byte by byte."""
    make_folder(root / "test", CLASSES, images=4, size=(160, 240))
    make_folder(root / "train", ["couch", "motorcycle", "lamp"], images=3, size=(160, 240))
    generator = np.random.default_rng(1)
    for path in sorted((root / "train" / "images").iterdir()):  # others than those of the test data
        noise = generator.integers(0, 255, (8, 12, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((240, 160), Image.Resampling.BICUBIC).save(path)
    test, train = root / "test" / "images", root / "train" / "images"
    copy = Image.open(test / "im0.png").convert("RGB").resize((120, 80), Image.Resampling.BICUBIC)
    copy.save(train / "planted.jpg", quality=70)
    Image.fromarray(np.zeros((80, 120), np.uint8)).save(root / "train" / "labels" / "planted.png")
    (train / "same.png").write_bytes((test / "im1.png").read_bytes())
    (root / "train" / "labels" / "same.png").write_bytes((root / "test" / "labels" / "im1.png").read_bytes())


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> Settings:
    """An evaluation whose proposal net was trained on a folder with planted duplicates."""
    folder = tmp_path_factory.mktemp("planted")
    planted_pictures(folder)
    datasets = {"test": folder_settings(folder / "test"), "train": folder_settings(folder / "train")}
    document = settings_of(folder / "runs", datasets=datasets).model_dump(mode="json")
    document["evaluate"]["datasets"] = document["evaluate"]["datasets"][:1]
    document["proposal_net"]["dataset"] = "train"
    settings = Settings.model_validate(document)
    for node in dataflow(settings).of_kind("scenes"):
        node.make(LENIENT)
    scores_of(settings)
    return settings


def test_planted_duplicates_and_synonyms_are_in_the_report(planted):
    report = run("evaluate", planted)
    (dataset,) = read_numbers(report.artifact)["datasets"]
    overlap = dataset["overlap"]
    (training,) = overlap["trainings"]
    assert (training["uses"], training["pictures"]) == (["stage 1"], 5)
    assert (training["same_file"], training["same_picture"], overlap["shared"]) == (1, 1, 2)
    found = {(row["test"], row["training"]): row["how"] for row in training["rows"]}
    assert found == {("im0", "planted"): "same picture", ("im1", "same"): "same file"}
    known = {entry["name"]: entry["known"] for entry in overlap["classes"]}
    assert known == {
        "sofa": [{"as": "couch", "of": "stage 1", "how": "synonym"}],
        "motorbike": [{"as": "motorcycle", "of": "stage 1", "how": "synonym"}],
    }
    assert overlap["unknown_classes"] == 1
    page = html_path(report.artifact).read_text()
    assert "2 of 4 pictures occur in training data" in page
    assert "planted" in page
    assert "motorcycle" in page


def test_pictures_are_hashed_once_and_switched_off_by_one_setting(planted, monkeypatch):
    run("evaluate", planted)
    hashed = sorted((planted.runs_dir / "picture_hashes").iterdir())
    assert len(hashed) == 2
    again = planted.model_copy(update={"name": "again"})

    def refuse(scene):
        raise AssertionError(f"{scene.key} is hashed again")

    monkeypatch.setattr("pipeline.evaluate.picture_hashes.hash_row", refuse)
    node = dataflow(again).of_kind("scores")[0]
    assert overlap_numbers(node, again)["shared"] == 2
    off = again.model_copy(update={"evaluate": again.evaluate.model_copy(update={"audit_overlap": False})})
    same = dataflow(planted).only("reports").step.fingerprint(dataflow(planted).only("reports"))
    assert "audit_overlap" not in str(same), "its default leaves digests as they were"
    assert off.evaluate != again.evaluate


def test_an_evaluation_without_training_has_nothing_to_audit(tmp_path):
    settings = settings_of(tmp_path, proposals="ground-truth")
    node = scores_of(settings)
    assert training_scenes(node) == []
    assert overlap_numbers(node, settings) is None


def test_names_are_compared_in_normal_form_with_synonyms_of_any_source():
    trained = {"stage 1": {"couch": None, "Traffic-Light": None}, "pairs": {"zeppelin": 7, "sofas": 2}}
    classes = ["sofa, lounge", "traffic lights", "zeppelin", "otter|badger"]
    found = known_classes(classes, trained, {"sofa": ["couch"]})
    assert [(entry["index"], entry["known"]) for entry in found] == [
        (
            0,
            [
                {"as": "couch", "of": "stage 1", "how": "synonym"},
                {"as": "sofas", "of": "pairs", "how": "name", "pairs": 2},
            ],
        ),
        (1, [{"as": "Traffic-Light", "of": "stage 1", "how": "name"}]),
        (2, [{"as": "zeppelin", "of": "pairs", "how": "name", "pairs": 7}]),
    ]
    assert [entry["name"] for entry in known_classes(["couch"], {"pairs": {"sofa": 1}}, {"sofa": ["couch"]})]
    assert known_classes(["aeroplane"], {"stage 1": {"airplane": None}}, name_aliases())


def test_a_damaged_picture_is_a_row_with_a_reason():
    scene = Scene(key="a", image_id="a", image=b"\xff\xd8nothing", image_suffix="jpg", width_px=4, height_px=4)
    row = hash_row(scene)
    assert row["status"] == "image_unreadable"
    assert "cannot be decoded" in row["reason"]


def test_a_turned_picture_is_hashed_upright():
    generator = np.random.default_rng(0)
    upright = Image.fromarray(generator.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((90, 90))

    def row(image, orientation):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return hash_row(
            Scene(
                key="a",
                image_id="a",
                image=buffer.getvalue(),
                image_suffix="png",
                width_px=90,
                height_px=90,
                exif_orientation=orientation,
            )
        )

    assert row(upright.transpose(Image.Transpose.ROTATE_90), 6)["signs"] == row(upright, 1)["signs"]
