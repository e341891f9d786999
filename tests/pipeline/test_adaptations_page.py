"""The page that ends a demo: its differences, classes and pictures are those of the scores."""

import re
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from ovseg_models.bootstrap import Interval, compare_classes
from ovseg_models.segmentation_metrics import ClassCounts, class_iou
from pipeline.adaptations import ADAPTATIONS, AFTER, BEFORE, adaptation_tables, report_of
from pipeline.adaptations_page.page import Rows, adaptations_page
from pipeline.evaluate.compare import compare_runs
from pipeline.first_picture import first_picture, shows_shipped_nets
from pipeline.graph import MissingInputError
from pipeline.settings import Settings, load_settings
from tests.docs.pages import ROOT
from tests.pipeline.evaluate.test_adaptations import settings
from tests.pipeline.evaluate.test_adapted_clip import adapted_settings

__all__ = ["settings"]  # a fixture: nets and scores of all four rows

DEMO = ROOT / "flows" / "configs" / "demo.toml"


def test_changes_are_those_of_the_comparison_of_reports(settings: Settings):
    changes = Rows(settings).changes()
    assert list(changes) == [row.title for row in ADAPTATIONS[1:]]
    for row in ADAPTATIONS[1:]:
        reports = [report_of(one.settings_of(settings)).directory for one in (BEFORE, row)]
        (comparison,) = compare_runs(*reports, rounds=settings.evaluate.bootstrap_rounds)
        found = comparison.differences["miou"]
        change = changes[row.title]["all"]
        assert change.value == pytest.approx(100 * (found.second - found.first))
        assert (change.low, change.high) == pytest.approx((100 * found.interval.low, 100 * found.interval.high))
    (table,) = adaptation_tables(settings)
    assert changes[AFTER.title] == table.gain


def test_classes_are_in_the_order_of_their_change_and_pictures_in_that_of_their_pixels(settings: Settings):
    rows = Rows(settings)
    classes = rows.classes()
    changes = [row.change.value for row in classes]
    assert changes == sorted(changes, reverse=True)
    before, after = (class_iou(counts.summed()) for counts in (rows.counts[0], rows.counts[-1]))
    names = rows.scores[0].attributes.class_names
    for row in classes:
        label = names.index(row.name)
        assert (row.ious[0], row.ious[-1]) == pytest.approx((100 * before[label], 100 * after[label]))
        assert row.change.value == pytest.approx(100 * (after[label] - before[label]))
    assert {row.name for row in classes} == {
        names[label] for label in np.flatnonzero(rows.counts[0].summed().true_px.ravel())
    }
    images = {image.key: image for image in rows.scores[0].images()}
    expected = [images[key].correct_px / images[key].labelled_px for key in rows.keys]
    assert rows.right_shares()[0] == pytest.approx(expected)


def test_the_page_is_one_file_with_a_map_of_each_row_below_each_picture(settings: Settings):
    tables = adaptation_tables(settings)
    text = adaptations_page(settings, tables)
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    figures = re.findall(r"<figcaption>(.*?)</figcaption>", text)
    assert len(figures) % 6 == 0
    assert len(figures) >= 6 * 5  # all five pictures of the data set, spread
    for title in (row.title for row in ADAPTATIONS):
        assert sum(figure.startswith(f"{title}: ") for figure in figures) == len(figures) // 6
        assert tables[0].rows[title]["all"].text() in text
    for name in ("<script", "http://", "https://"):
        assert name not in text


def test_a_row_that_is_not_evaluated_is_reported(tmp_path):
    with pytest.raises(MissingInputError, match="is not finished"):
        Rows(adapted_settings(tmp_path))


def test_a_change_of_one_class_alone_is_known_to_within_nothing():
    """Counts that differ in one class, and there alike in every image, leave no doubt about its change."""
    true = np.full((6, 3), 100)
    names = [entry.name for entry in fields(ClassCounts)]
    first, second = (
        ClassCounts(**{**dict.fromkeys(names, true), "intersection_px": true // 2 + np.array([0, more, 0])})
        for more in (0, 25)
    )
    found = compare_classes(first, second, rounds=50)
    assert [found[place].interval for place in (0, 2)] == [Interval(0.0, 0.0)] * 2
    assert found[1].interval.low == pytest.approx(found[1].interval.high)
    assert found[1].interval.low == pytest.approx(75 / 125 - 50 / 150)


def test_the_first_picture_shows_scenes_of_the_test_split_before_any_training(tmp_path):
    shown = load_settings(DEMO, [f"runs_dir={tmp_path}"])
    assert shows_shipped_nets(shown)
    picture = first_picture(shown, images=2)
    assert isinstance(picture, Image.Image)
    cells = [picture.crop((10 + column * 234, 52, 234 + column * 234, 52 + 224)) for column in range(3)]
    assert len({cell.tobytes() for cell in cells}) == 3
    assert picture.height < first_picture(shown, images=3).height
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change", ["proposal_net.initial_weights=none", "evaluate.datasets=[]", "clip.pretrained=random"]
)
def test_nets_that_are_not_shipped_are_not_shown_untrained(change):
    assert not shows_shipped_nets(load_settings(DEMO, [change]))
