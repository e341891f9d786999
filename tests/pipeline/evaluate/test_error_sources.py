"""Where the error is: planted errors of masks and of names are found where they were planted."""

import pytest

from pipeline.dataflow import dataflow
from pipeline.evaluate.error_sources import error_chart, error_sources, most_lost
from pipeline.evaluate.variants import error_source_variants
from pipeline.settings import SettingsError
from pipeline.stages import run
from storage_schemas.reports import html_path, read_numbers
from tests.pipeline.evaluate.planted_scores import boats_called_ducks, half_of_the_boat_is_sky, planted, right
from tests.pipeline.evaluate.small_world import scores_of, settings_of
from tests.pipeline.test_charts import texts

VARIANTS = ("ensemble", "oracle-labels", "true-masks-original", "true-masks-adapted")


def sources_of(runs, reached, oracle, true_masks):
    changes = dict(zip(VARIANTS, (reached, oracle, right, true_masks), strict=True))
    return error_sources(planted(runs, changes), rounds=30)


def test_wrong_names_on_right_masks_are_the_names_fault(tmp_path):
    found = sources_of(tmp_path, boats_called_ducks, right, boats_called_ducks)
    assert found["bottleneck"] == "names"
    assert found["variants"]["true_masks"] == "true-masks-adapted", "the CLIP that named, not the original"
    assert found["miou"] == pytest.approx({"reached": 0.5, "oracle_names": 1.0, "true_masks": 0.5})
    assert found["gains"]["names"]["difference"] == pytest.approx(0.5)
    assert found["gains"]["names"]["verdict"] == "better"
    assert found["gains"]["masks"] == {"difference": 0.0, "interval": [0.0, 0.0], "verdict": "cannot tell"}
    assert found["true_masks_accuracy"] == pytest.approx(2 / 3)
    boat = found["classes"][2]
    assert (boat["name"], boat["reached"], boat["names_lose"], boat["masks_lose"]) == ("boat", 0.0, 1.0, 0.0)


def test_right_names_on_wrong_masks_are_the_masks_fault(tmp_path):
    found = sources_of(tmp_path, half_of_the_boat_is_sky, half_of_the_boat_is_sky, right)
    assert found["bottleneck"] == "masks"
    assert found["true_masks_accuracy"] == 1.0
    boat = found["classes"][2]
    assert (boat["names_lose"], boat["masks_lose"]) == (0.0, pytest.approx(0.5))
    assert found["gains"]["masks"]["verdict"] == "better"


def test_equal_losses_cannot_be_told_apart(tmp_path):
    found = sources_of(tmp_path, boats_called_ducks, boats_called_ducks, boats_called_ducks)
    assert found["bottleneck"] == "cannot tell"


def test_each_bar_is_a_whole_and_the_chart_names_its_parts(tmp_path):
    def both(predicted):
        half_of_the_boat_is_sky(predicted)
        boats_called_ducks(predicted)

    found = sources_of(tmp_path, both, half_of_the_boat_is_sky, right)
    for row in found["classes"]:
        assert row["reached"] + row["names_lose"] + row["masks_lose"] == pytest.approx(1)
    shown = most_lost(found["classes"], 2)
    assert [row["name"] for row in shown] == ["duck", "boat"], "what names alone lose comes first"
    written = texts(error_chart(shown, title="What is lost"))
    assert {"boat", "duck", "reached", "lost by names", "lost by masks", "IoU [%]", "66.7"} <= set(written)


def test_without_both_oracles_nothing_is_said(tmp_path):
    assert error_sources(planted(tmp_path, {"ensemble": right, "oracle-labels": right}), rounds=5) is None
    scores = planted(tmp_path, {"oracle-labels": right, "true-masks-adapted": right}, name="oracle")
    assert error_sources(scores, rounds=5) is None


def test_the_setting_adds_two_variants_and_the_reports_section(tmp_path):
    settings = settings_of(tmp_path, error_sources=True)
    scores_of(settings)
    report = run("evaluate", settings)
    (dataset,) = read_numbers(report.artifact)["datasets"]
    assert [each["name"] for each in dataset["variants"]] == ["ensemble", "true-masks-original", "oracle-labels"]
    found, by_name = dataset["error_sources"], {each["name"]: each["metrics"]["miou"] for each in dataset["variants"]}
    assert found["miou"] == {
        "reached": by_name["ensemble"],
        "oracle_names": by_name["oracle-labels"],
        "true_masks": by_name["true-masks-original"],
    }
    page = html_path(report.artifact).read_text()
    assert "Where the error is" in page
    assert "lost by names" in page
    plain = dataflow(settings_of(tmp_path)).only("scores")
    assert plain.artifact.directory != dataflow(settings).only("scores").artifact.directory


def test_what_replaces_masks_or_names_already_has_no_sources(tmp_path):
    for given in ({"oracle_labels": True}, {"proposals": "ground-truth"}):
        assert error_source_variants(settings_of(tmp_path, **given).evaluate) == ()
    node = scores_of(settings_of(tmp_path, error_sources=True, memory="some"))
    with pytest.raises(SettingsError, match="error_sources"):
        node.step.check(node)
