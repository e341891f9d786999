"""Predictions of another model, scored by the protocol of our own: files in, the same counts out."""

import io
import json
import logging

import numpy as np
import pytest
from PIL import Image

from ovseg_models.label_counts import count_labels
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.evaluate.compare import compare_runs
from pipeline.evaluate.labelled_images import LabelledScenes
from pipeline.evaluate.score import labelled_scenes_of
from pipeline.evaluate.stored_scores import Scores
from pipeline.import_masks.json_records import MaskSourceError
from pipeline.predictions.label_files import (
    MISSING,
    OUTSIDE,
    UNREADABLE,
    Numbering,
    PredictedScenes,
    classes_of,
)
from pipeline.settings import PredictionsSettings
from pipeline.shard_runner import Execution, Limits
from pipeline.stages import run
from storage_schemas.columns import OK
from storage_schemas.reports import html_path, read_numbers
from storage_schemas.rle import encode_masks
from storage_schemas.scenes import ScenesAttributes, SceneShard
from storage_schemas.scores import read_predictions, read_scores
from tests.pipeline.evaluate.small_world import scores_of, scores_on, settings_of
from tests.pipeline.planned import artifact_of, scenes_of

LENIENT = Execution(limits=Limits(max_failed_share=1.0))


def with_predictions(runs, path, **more):
    settings = settings_of(runs)
    document = settings.model_dump(mode="json")
    document["evaluate"]["datasets"][0]["predictions"] = {"path": str(path), **more}
    return type(settings).model_validate(document)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """An evaluation of our own, and its predictions by the keys of the scenes."""
    runs = tmp_path_factory.mktemp("own")
    settings = settings_of(runs)
    scores_of(settings)
    report = run("evaluate", settings)
    scores = Scores(scores_on(report, "drawn"))
    maps = {}
    for image in scores.images():
        (png,) = read_predictions(scores.artifact, image.unit, [image.prediction])
        maps[image.key] = png
    return settings, report, maps


@pytest.fixture
def folder(world, tmp_path):
    place = tmp_path / "predicted"
    place.mkdir()
    for key, png in world[2].items():
        (place / f"{key}.png").write_bytes(png)
    return place


def arrays(maps):
    return {key: np.asarray(Image.open(io.BytesIO(png))).astype(np.int64) for key, png in maps.items()}


def scored(settings, world_runs):
    """Score, with the scenes that lie in another runs directory already."""
    target = settings.runs_dir / "scenes"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(world_runs / "scenes")
    report = run("evaluate", settings)
    return report, Scores(scores_on(report, "drawn"))


def rows_of(artifact):
    rows = [row for unit in artifact.description.units for row in read_scores(artifact, unit, "images").to_pylist()]
    return {row["key"]: (row["status"], row["reason"]) for row in rows}


def require_same_counts(found, expected):
    ours, theirs = (each.counts(each.attributes.main_variant) for each in (found, expected))
    assert ours.keys == theirs.keys
    for name, values in vars(ours.counts).items():
        np.testing.assert_array_equal(values, getattr(theirs.counts, name), err_msg=name)
    np.testing.assert_array_equal(
        found.confusion(found.attributes.main_variant), expected.confusion(expected.attributes.main_variant)
    )


def test_our_own_predictions_give_the_reports_digits(world, folder, tmp_path):
    settings, own, _ = world
    report, found = scored(with_predictions(tmp_path / "runs", folder), settings.runs_dir)
    require_same_counts(found, Scores(scores_on(own, "drawn")))
    (theirs,), (ours,) = read_numbers(report.artifact)["datasets"], read_numbers(own.artifact)["datasets"]
    assert theirs["variants"][0]["metrics"] == ours["variants"][0]["metrics"]
    assert theirs["variants"][0]["intervals"] == ours["variants"][0]["intervals"]
    assert theirs["per_image"] == ours["per_image"]
    assert theirs["confusions"] == ours["confusions"]
    assert theirs["variants"][0]["paper_miou_percent"] is None
    page = html_path(report.artifact).read_text()
    assert "Predictions of another model" in page
    assert "drawn-world-small" not in page.partition("settings")[0]
    assert not list((tmp_path / "runs").glob("proposal_net/*"))  # no net is asked for
    (compared,) = compare_runs(report.artifact.directory, own.artifact.directory, rounds=20)
    assert {found.verdict for found in compared.differences.values()} == {"cannot tell"}


def test_a_detectron2_file_gives_the_same_confusion_matrix(world, tmp_path):
    settings, own, maps = world
    records = []
    for key, numbers in arrays(maps).items():
        for value in np.unique(numbers).tolist():
            (counts,) = encode_masks((numbers == value)[None])
            segmentation = {"size": list(numbers.shape), "counts": counts.decode()}
            name = f"/data/set/images/{key}.jpg"
            records.append({"file_name": name, "category_id": value, "segmentation": segmentation})
    order = np.random.default_rng(0).permutation(len(records))  # as after a gather from several GPUs
    place = tmp_path / "inference"
    place.mkdir()
    (place / "sem_seg_predictions.json").write_text(json.dumps([records[at] for at in order]))
    _, found = scored(with_predictions(tmp_path / "runs", place), settings.runs_dir)
    require_same_counts(found, Scores(scores_on(own, "drawn")))
    records.append(records[0] | {"category_id": 1 - min(records[0]["category_id"], 1)})
    (place / "sem_seg_predictions.json").write_text(json.dumps(records))
    settings = with_predictions(tmp_path / "twice", place)
    (tmp_path / "twice").mkdir()
    (tmp_path / "twice" / "scenes").symlink_to(world[0].runs_dir / "scenes")
    node = dataflow(settings).only("scores")
    rows = rows_of(node.make(LENIENT).artifact)
    failed = [reason for status, reason in rows.values() if status == UNREADABLE]
    assert len(failed) == 1
    assert "shares pixels with another class" in failed[0]


def test_arrays_are_read_as_pngs_are(world, tmp_path):
    settings, own, maps = world
    place = tmp_path / "arrays"
    place.mkdir()
    for number, (key, numbers) in enumerate(arrays(maps).items()):
        np.savez(place / f"{key}.npz", numbers.astype((np.uint8, np.int32, np.uint16)[number % 3]))
    _, found = scored(with_predictions(tmp_path / "runs", place), settings.runs_dir)
    require_same_counts(found, Scores(scores_on(own, "drawn")))


def test_what_cannot_be_read_ends_as_rows(world, folder, tmp_path):
    keys = sorted(world[2])
    (folder / f"{keys[0]}.png").unlink()
    (folder / f"{keys[1]}.png").write_bytes(world[2][keys[1]][:100])
    Image.new("L", (5, 7)).save(folder / f"{keys[2]}.png")
    outside = arrays(world[2])[keys[3]]
    outside[0, 0] = 200
    Image.fromarray(outside.astype(np.uint8)).save(folder / f"{keys[3]}.png")
    (folder / "someone.png").write_bytes(world[2][keys[4]])
    settings = with_predictions(tmp_path / "runs", folder, numbers="index")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "scenes").symlink_to(world[0].runs_dir / "scenes")
    rows = rows_of(dataflow(settings).only("scores").make(LENIENT).artifact)
    assert [rows[key][0] for key in keys] == [MISSING, UNREADABLE, UNREADABLE, OUTSIDE, OK]
    assert "5 x 7 px, the picture of 96 x 96" in rows[keys[2]][1]
    assert "holds 200" in rows[keys[3]][1]


def test_files_of_other_pictures_are_named_in_a_warning(world, folder, tmp_path, caplog):
    (folder / "someone.png").write_bytes(next(iter(world[2].values())))
    with caplog.at_level(logging.WARNING):
        scored(with_predictions(tmp_path / "runs", folder), world[0].runs_dir)
    assert "1 pictures are no scene, such as someone.png" in caplog.text


def test_pixels_without_a_class_are_missed(world, tmp_path):
    true = np.zeros((4, 6), np.uint16)
    true[:, 3:] = 1
    true[0, 0] = 255
    predicted = true.copy()
    predicted[1, :] = 255
    found = count_labels(true, predicted, class_count=2, ignore_label=255, radius_px=1)
    np.testing.assert_array_equal(found.classes, [0, 1])
    np.testing.assert_array_equal(found.true_px, [11, 12])
    np.testing.assert_array_equal(found.predicted_px, [8, 9])
    np.testing.assert_array_equal(found.intersection_px, [8, 9])
    np.testing.assert_array_equal(found.confusion, [[8, 0], [0, 9]])
    nothing = count_labels(true, np.full_like(true, 255), class_count=2, ignore_label=255)
    np.testing.assert_array_equal(nothing.true_px, [11, 12])
    assert nothing.predicted_px.sum() == nothing.intersection_px.sum() == nothing.boundary_predicted_px.sum() == 0
    assert nothing.confusion.shape == (2, 0)


class OfVocabulary:
    """Scenes whose class list is a built-in one, whatever their labels hold."""

    @staticmethod
    def of(monkeypatch, scenes: LabelledScenes, name: str, class_count: int) -> LabelledScenes:
        attributes = ScenesAttributes.of(scenes.artifact)
        changed = type(attributes)(**{**vars_of(attributes), "vocabulary": name})
        monkeypatch.setattr(ScenesAttributes, "of", classmethod(lambda cls, artifact: changed))
        return LabelledScenes(artifact=scenes.artifact, class_count=class_count, ignore_label=scenes.ignore_label)


def vars_of(attributes):
    names = ("vocabulary", "class_names", "seen", "ignore_label", "licence")
    return {name: getattr(attributes, name) for name in names}


@pytest.mark.parametrize(
    ("shift", "marked", "kind"),
    [(0, False, "index"), (1, False, "dataset"), (0, True, "index"), (1, True, "dataset")],
)
def test_numbers_are_read_as_the_set_of_them_or_the_labels_say(
    world, tmp_path, monkeypatch, caplog, shift, marked, kind
):
    """ADE20K's own numbers are 1 to 150, places 0 to 149; most files fit both."""
    place = tmp_path / "maps"
    place.mkdir()
    settings = world[0]
    scenes = labelled_scenes_of(dataflow(settings).only("scores"))
    for unit in scenes.artifact.description.units:
        for scene in SceneShard(scenes.artifact, unit).scenes():
            labels = np.asarray(Image.open(io.BytesIO(scene.label_png))).astype(np.int64)
            numbers = np.where(labels == 255, 255, labels + shift)
            numbers[0, :2] = [149 + shift, 0] if marked else numbers[0, :2]
            Image.fromarray(numbers.astype(np.uint8)).save(place / f"{scene.key}.png")
    scenes = OfVocabulary.of(monkeypatch, scenes, "ade20k-150", 150)
    with caplog.at_level(logging.INFO):
        found = PredictedScenes(scenes, PredictionsSettings(path=place)).numbering()
    assert found.kind == kind
    assert f"read as '{kind}'" in caplog.text
    assert found.index_of[7] == 7 - shift
    assert PredictedScenes(scenes, PredictionsSettings(path=place, numbers="index")).numbering().kind == "index"


def test_numbers_that_fit_nothing_are_refused(world, folder, tmp_path):
    scenes = labelled_scenes_of(dataflow(world[0]).only("scores"))
    Image.new("I;16", (96, 96), 3000).save(folder / f"{min(world[2])}.png")
    with pytest.raises(PipelineError, match=r"numbers such as \[3000\] are no classes, 0 to \d+ are expected; predict"):
        PredictedScenes(scenes, PredictionsSettings(path=folder)).numbering()
    assert PredictedScenes(scenes, PredictionsSettings(path=folder, no_class=(3000,))).numbering().kind == "index"
    with pytest.raises(PipelineError, match="is 'dataset', and nothing is known of numbers of 'drawn-world"):
        PredictedScenes(scenes, PredictionsSettings(path=folder, numbers="dataset")).numbering()


def test_numbers_become_classes_or_none():
    numbering = Numbering("dataset", {2978: 0, 312: 1}, frozenset({-1, 0, 255}))
    numbers = np.array([[2978, 312], [0, -1]])
    np.testing.assert_array_equal(classes_of(numbers, numbering, 65535), [[0, 1], [65535, 65535]])
    with pytest.raises(ValueError, match="holds 5, which is no class"):
        classes_of(np.array([[5]]), numbering, 65535)


def test_files_that_are_no_label_maps_are_refused(world, tmp_path):
    (tmp_path / "masks.json").write_text(json.dumps([{"segmentation": {}, "predicted_iou": 1.0}]))
    settings = with_predictions(world[0].runs_dir, tmp_path / "masks.json")
    with pytest.raises(PipelineError, match=r"holds masks \('sam'\), label maps are expected"):
        run("evaluate", settings)
    with pytest.raises(PipelineError, match=r"there is nothing at .*absent"):
        run("evaluate", with_predictions(world[0].runs_dir, tmp_path / "absent"))


def test_the_command_takes_a_folder_for_the_one_data_set(world, folder, tmp_path, capsys):
    from flows.command import main

    settings = world[0]
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "scenes").symlink_to(settings.runs_dir / "scenes")
    config = tmp_path / "drawn.toml"
    drawn = "dataset = 'drawn-world'\nsplit = 'test'\nscenes_per_shard = 2\ndrawn_world = { scenes = 5 }"
    more = "[evaluate]\nbootstrap_rounds = 10\ndatasets = [{ dataset = 'drawn' }]"
    config.write_text(f"runs_dir = '{tmp_path}/runs'\n[datasets.drawn]\n{drawn}\n{more}\n")
    given = ["evaluate", "--config", str(config), "--predictions", str(folder)]
    assert main(given) == 0
    printed = capsys.readouterr().out
    assert "report: " in printed
    assert "predictions-" in printed
    assert main([*given, "--set", "evaluate.datasets=[]"]) == 2
    assert "names 0 data sets, one is expected with --predictions" in capsys.readouterr().err


def test_another_number_format_is_another_artifact(world, folder):
    digests = {
        numbers: artifact_of(with_predictions(world[0].runs_dir, folder, numbers=numbers), "scores").identity.digest()
        for numbers in ("auto", "index")
    }
    assert digests["auto"] != digests["index"]
    assert scenes_of(world[0], "drawn").manifest()


@pytest.mark.parametrize("numbers", ["auto", "index"])
def test_predictions_of_no_scene_are_one_message(world, tmp_path, caplog, numbers):
    (tmp_path / "p").mkdir()
    Image.new("L", (96, 96)).save(tmp_path / "p" / "else.png")
    with caplog.at_level(logging.WARNING), pytest.raises(MaskSourceError, match="none of them is one of the 5 scenes"):
        run("evaluate", with_predictions(world[0].runs_dir, tmp_path / "p", numbers=numbers))
    assert "none of them" not in caplog.text
