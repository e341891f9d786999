"""The table before and after adapting CLIP, its picture, and the command that shows both."""

import json

import numpy as np
import pytest
from PIL import Image

from flows.command import main
from ovseg_models.overlay import palette
from pipeline.adaptations import (
    ADAPTATIONS,
    AFTER,
    BEFORE,
    AdaptationTable,
    Estimate,
    adaptation_picture,
    adaptation_tables,
    report_of,
)
from pipeline.adaptations_page.page import adaptations_page
from pipeline.evaluate.compare import compare_runs
from pipeline.evaluate.side_by_side import PICTURE_PX, named_map
from pipeline.graph import MissingInputError
from pipeline.picture_sheets import write_picture
from pipeline.settings import Settings, settings_toml
from pipeline.stages import run
from storage_schemas.reports import html_path, read_numbers
from tests.pipeline.evaluate.test_adapted_clip import adapted_settings, write_adapted
from tests.pipeline.evaluate.test_evaluate import require_sound


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """Settings of which every row is evaluated, with random nets."""
    runs = tmp_path_factory.mktemp("runs")
    for seed, mode in enumerate(("mpt", "ft-then-mpt")):
        write_adapted(adapted_settings(runs, mode=mode), seed=seed)
    settings = adapted_settings(runs)
    for row in ADAPTATIONS:
        run("evaluate", row.settings_of(settings))
    return settings


def test_rows_differ_in_what_their_titles_say_alone():
    settings = Settings()
    found = {row.title: row.settings_of(settings) for row in ADAPTATIONS}
    assert [(title, row.finetune.mode, row.evaluate.clip) for title, row in found.items()] == [
        ("baseline", "ft-then-mpt", "original"),
        ("MPT", "mpt", "adapted"),
        ("FT", "ft-then-mpt", "adapted"),
        ("FT then MPT", "ft-then-mpt", "adapted"),
    ]
    assert [row.evaluate.use_mask_prompts for row in found.values()] == [True, True, False, True]
    assert {row.evaluate.baseline for row in found.values()} == {"original"}
    for row in found.values():
        assert row.model_copy(update={"finetune": settings.finetune, "evaluate": settings.evaluate}) == settings


def test_the_table_holds_the_numbers_of_the_reports_and_of_their_comparison(settings):
    (table,) = adaptation_tables(settings)
    assert (table.dataset, table.images) == ("drawn", 5)
    for row in ADAPTATIONS:
        (dataset,) = read_numbers(report_of(row.settings_of(settings)))["datasets"]
        variant = dataset["variants"][0]
        unseen = table.rows[row.title]["unseen"]
        assert unseen.value == 100 * variant["metrics"]["unseen_miou"]
        assert [unseen.low, unseen.high] == [100 * end for end in variant["intervals"]["unseen_miou"]]
    assert len({row["all"].value for row in table.rows.values()}) > 2
    reports = [report_of(row.settings_of(settings)).directory for row in (BEFORE, AFTER)]
    (comparison,) = compare_runs(*reports, rounds=settings.evaluate.bootstrap_rounds)
    found = comparison.differences["seen_miou"]
    assert table.gain["seen"] == Estimate(
        100 * (found.second - found.first), 100 * found.interval.low, 100 * found.interval.high
    )


def test_each_report_compares_with_the_original_clip_class_by_class(settings):
    for row in ADAPTATIONS:
        report = report_of(row.settings_of(settings))
        (dataset,) = read_numbers(report)["datasets"]
        if row is BEFORE:
            assert dataset["comparison"] is None
            continue
        (before,) = read_numbers(report_of(BEFORE.settings_of(settings)))["datasets"]
        first = {each["index"]: each["first"] for each in dataset["comparison"]["classes"]}
        assert first == {each["index"]: each["iou"] for each in before["classes"] if each["index"] in first}
        assert dataset["comparison"]["baseline"] == "original CLIP"
        require_sound(html_path(report))


def test_the_table_goes_through_json_and_onto_paper():
    row = {"all": Estimate(20.0, 10.0, 30.04), "seen": Estimate(1, -1, 3), "unseen": Estimate(None, None, None)}
    table = AdaptationTable("drawn", 7, {"baseline": row}, gain=row)
    assert AdaptationTable.of_json(json.loads(json.dumps(table.to_json()))) == table
    assert table.text().splitlines() == [
        "mIoU [%] on drawn, 7 images; 95 % intervals over the images",
        "                            all classes             seen classes         unseen classes",
        "baseline                    20.0 (10.0 to 30.0)     1.0 (-1.0 to 3.0)    -",
        "FT then MPT minus baseline  +20.0 (+10.0 to +30.0)  +1.0 (-1.0 to +3.0)  -",
    ]
    assert table.markdown().splitlines()[0] == "|  | all classes | seen classes | unseen classes |"
    assert table.markdown().splitlines()[2] == "| baseline | 20.0 (10.0 to 30.0) | 1.0 (-1.0 to 3.0) | - |"


def test_a_row_that_is_not_evaluated_is_reported(tmp_path):
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg evaluate' first"):
        adaptation_tables(adapted_settings(tmp_path))


def test_the_picture_shows_image_labels_and_both_predictions(settings, tmp_path):
    picture = adaptation_picture(settings, images=2)
    # below title and heads
    cells = [picture.crop((10 + column * 234, 52, 234 + column * 234, 52 + PICTURE_PX)) for column in range(4)]
    assert [cell.size for cell in cells] == [(PICTURE_PX, PICTURE_PX)] * 4
    assert len({cell.tobytes() for cell in cells}) == 4
    assert picture.height < adaptation_picture(settings, images=3).height
    write_picture(picture, tmp_path / "new" / "picture.png")
    with Image.open(tmp_path / "new" / "picture.png") as read:
        assert read.size == picture.size


def test_a_label_map_is_painted_in_its_colours_and_named():
    labels = np.zeros((8, 8), np.uint16)
    labels[:, 4:], labels[0, 0] = 1, 255
    shown = np.asarray(named_map(labels, ["sky", "sea"]))
    assert shown.shape == (PICTURE_PX, PICTURE_PX, 3)
    assert [shown[-1, 0].tolist(), shown[-1, -1].tolist()] == palette(2).tolist()
    assert shown[0, 0].tolist() == [225, 225, 225]
    allowed = {tuple(colour) for colour in [*palette(2).tolist(), [225, 225, 225]]}
    written = [tuple(pixel) not in allowed for pixel in shown.reshape(-1, 3).tolist()]
    assert 0.005 < sum(written) / len(written) < 0.1  # the names


def test_a_second_demo_does_nothing_and_shows_the_same(settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("flows.prefect_server.prefect_server", None)  # starting one would fail
    config = tmp_path / "settings.toml"
    config.write_text(settings_toml(settings))
    picture = tmp_path / "picture.png"
    assert main(["demo", "--config", str(config), "--picture", str(picture)]) == 0
    printed = capsys.readouterr()
    assert "prepare, train-proposals, finetune, evaluate: already complete; nothing to do" in printed.err
    (table,) = adaptation_tables(settings)
    report = report_of(AFTER.settings_of(settings)).directory / "report.html"
    page = settings.runs_dir / f"{settings.name}.html"
    assert printed.out == f"{table.text()}\npage:    {page}\nreport:  {report}\npicture: {picture}\n"
    assert report.exists()
    assert page.read_text() == adaptations_page(settings, [table])
    assert picture.exists()


def test_a_demo_without_a_data_set_is_reported(tmp_path, capsys):
    config = tmp_path / "settings.toml"
    config.write_text("")
    assert main(["demo", "--config", str(config)]) == 2
    assert "evaluate.datasets: at least one data set is expected; name one (got [])" in capsys.readouterr().err
