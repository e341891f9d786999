"""Pictures of a report: what they show is what the label map and the stored prediction hold."""

import base64
import io
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ovseg_models.overlay import palette
from ovseg_models.segmentation_metrics import top_confusions
from pipeline.errors import StageError
from pipeline.evaluate.labelled_images import LabelledScenes
from pipeline.evaluate.report.page import pictures_of
from pipeline.evaluate.report.pictures import SIDE_PX, PictureBook, photo_url, picture_row, spread
from pipeline.evaluate.score import labelled_scenes_of
from pipeline.evaluate.stored_scores import Scores
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings
from tests.pipeline.evaluate.small_world import folder_settings, make_folder, scores_of, settings_of
from tests.pipeline.evaluate.test_jobs import predictions_of, run

NAMES = ["sky", "grass", "boat", "duck"]
GREY = (225, 225, 225)


def shown(url: str) -> np.ndarray:
    head, _, data = url.partition(",")
    assert head in {"data:image/png;base64", "data:image/jpeg;base64"}
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> tuple[PictureBook, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Score a folder; return its pictures, label maps and predictions."""
    folder = tmp_path_factory.mktemp("pictures")
    make_folder(folder / "data", NAMES, images=3)
    labels = {}
    for path in sorted((folder / "data" / "labels").iterdir()):
        values = np.array(Image.open(path))
        values[:6, :9] = 255
        Image.fromarray(values).save(path)
        labels[path.stem] = values
    plan = scores_of(settings_of(folder / "runs", datasets={"mine": folder_settings(folder / "data")}))
    run(plan)
    return PictureBook(Scores(plan.artifact), labelled_scenes_of(plan)), labels, predictions_of(plan.artifact)


def test_a_row_paints_label_map_and_prediction_and_counts_their_shares(book):
    pictures, labels, predictions = book
    colours = palette(len(NAMES))
    for key, true in labels.items():
        row = pictures.row(key)
        labelled = true != 255
        assert [each.title for each in row.maps] == ["label map", "prediction"]
        for each, values in zip(row.maps, (true, predictions[key]), strict=True):
            painted = shown(each.url)
            assert np.array_equal(painted[labelled], colours[values[labelled]])
            assert {tuple(colour) for colour in painted[~labelled]} == {GREY}
            assert set(each.classes) == {NAMES[index] for index in set(values[labelled].tolist())}
            assert {place.name for place in each.names} <= set(each.classes)
            assert all(0 <= place.x <= row.size[0] and 0 <= place.y <= row.size[1] for place in each.names)
        assert any(each.names for each in row.maps)
        for entry in row.legend:
            index = NAMES.index(entry.name)
            assert entry.true_share == pytest.approx((true[labelled] == index).mean())
            assert entry.predicted_share == pytest.approx((predictions[key][labelled] == index).mean())
            assert entry.colour == "#{:02x}{:02x}{:02x}".format(*colours[index].tolist())
            union = ((true == index) | (predictions[key] == index)) & labelled
            assert entry.ious == (
                pytest.approx(((true == index) & (predictions[key] == index))[labelled].sum() / union.sum()),
            )
        ious = {entry.name: entry.ious[0] for entry in row.legend}
        assert row.maps[0].miou is None
        assert row.maps[1].miou == pytest.approx(
            np.mean([ious[NAMES[index]] for index in set(true[labelled].tolist())])
        )
        occurring = set(true[labelled]) | set(predictions[key][labelled])
        assert (len(row.legend), row.more) == (len(occurring), 0)
        assert row.image.startswith("data:image/png")


def test_a_row_of_two_evaluations_shows_both_predictions_and_both_ious(book):
    pictures, _, predictions = book
    row = picture_row({"before": pictures, "after": pictures}, min(predictions))
    assert [each.title for each in row.maps] == ["label map", "before", "after"]
    assert row.maps[1].url == row.maps[2].url
    assert row.maps[1].miou == row.maps[2].miou
    assert all(len(entry.ious) == 2 for entry in row.legend)


def test_a_confusion_is_shown_on_the_image_with_most_of_it(book):
    pictures, labels, predictions = book
    confusion = np.zeros((4, 4), np.int64)
    for key, true in labels.items():
        np.add.at(confusion, (true[true != 255], predictions[key][true != 255]), 1)
    (true_class, predicted_class, _), *_ = top_confusions(confusion, 1)
    places = {
        key: (true == true_class) & (predictions[key] == predicted_class) & (true != 255)
        for key, true in labels.items()
    }
    example = pictures.confusion(true_class, predicted_class)
    assert places[example.key].sum() == max(place.sum() for place in places.values())
    red, green, blue = shown(example.confused).astype(int).transpose(2, 0, 1)
    assert np.array_equal((red != green) | (green != blue), places[example.key])
    assert pictures.confusion(3, 3) is None


def test_a_scene_that_has_gone_bad_is_reported(book, tmp_path):
    pictures, *_ = book
    make_folder(tmp_path / "other", NAMES, images=3)
    (tmp_path / "other" / "labels" / "im1.png").unlink()
    other = prepare(PrepareSettings(dataset="folder", root=tmp_path / "other"), tmp_path / "runs").artifact
    changed = PictureBook(pictures._scores, LabelledScenes(artifact=other, class_count=4, ignore_label=255))
    with pytest.raises(StageError, match=r"im1: was scored and now cannot be read \(.*\); prepare the data set again"):
        changed.row("im1")


def test_large_pictures_are_made_smaller():
    large = Image.fromarray(np.random.default_rng(0).integers(0, 256, (2 * SIDE_PX, SIDE_PX, 3), np.uint8))
    assert shown(photo_url(large)).shape == (SIDE_PX, SIDE_PX // 2, 3)


class Named:
    """A book that has a name for each picture in place of the picture."""

    def __init__(self, keys: list[str]) -> None:
        self.images = [SimpleNamespace(key=key) for key in keys]

    def row(self, key: str) -> str:
        return key


@pytest.mark.parametrize(
    ("images", "worst", "best"), [("abcd", "", ""), ("abcde", "ed", "ab"), ("abcdefg", "gfe", "abc")]
)
def test_best_and_worst_are_shown_where_the_samples_are_not_all_images(images, worst, best):
    ranked = [{"key": key} for key in reversed(images)]
    pictures = pictures_of({"per_image": ranked, "confusions": []}, Named(list(images)))
    assert (pictures.worst, pictures.best) == (list(worst), list(best))
    assert set(images) >= set(pictures.samples)
    assert len(pictures.samples) == 4


def test_samples_are_spread_over_all_keys():
    assert spread(["a", "b"], 4) == ["a", "b"]
    assert spread(list("abcdefghi"), 3) == ["a", "e", "i"]
