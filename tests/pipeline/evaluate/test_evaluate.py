"""The whole stage on drawn scenes and a folder whose class names are hostile: scores, report, comparison."""

import base64
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from flows.command import main
from pipeline.dataflow import dataflow
from pipeline.errors import PipelineError
from pipeline.evaluate.compare import compare_runs
from pipeline.evaluate.stored_scores import Scores, json_number
from pipeline.graph import MissingInputError
from pipeline.settings import Settings, SettingsError, settings_toml
from pipeline.stages import StageRun, run
from storage_schemas.artifact import Artifact
from storage_schemas.reports import html_path, read_numbers
from tests.pipeline.evaluate.chromium import CHROMIUM, layout_of, screenshot
from tests.pipeline.evaluate.small_world import (
    DRAWN,
    files_of,
    folder_settings,
    make_folder,
    scores_on,
    settings_of,
    small_net,
    write_net,
)
from tests.pipeline.planned import artifact_of, prepare_scenes

NAMES = [
    "sky",
    "<script>document.body.dataset.hacked=1</script>",
    'grass & "boat"',
    "a|b*c_d[e]",
    "a rather long name, a",
]
LOADED = re.compile(r"@import|url\((?!#)", re.IGNORECASE)


def evaluated(runs: Path, data: Path, *, ablate: bool = False, **evaluate_settings) -> tuple[Settings, StageRun]:
    """Evaluate a random net on drawn scenes and on a folder."""
    if not data.exists():
        make_folder(data, NAMES, images=4)
    settings = settings_of(runs, datasets={"drawn": DRAWN, "mine": folder_settings(data)}, **evaluate_settings)
    prepare_scenes(settings, ["drawn"])
    net = artifact_of(settings, "proposal_net")
    if not net.status().finished:
        write_net(net, small_net())
    return settings, run("evaluate", settings, ablate=ablate)


@pytest.fixture(scope="module")
def ablated(tmp_path_factory) -> tuple[Settings, StageRun]:
    folder = tmp_path_factory.mktemp("ablated")
    sweep = {"ensemble_weights": [0.0, 0.5, 1.0], "mask_thresholds": [0.5, 0.6]}
    return evaluated(folder / "runs", folder / "data", ablate=True, sweep=sweep)


def test_the_numbers_are_those_of_the_stored_counts(ablated):
    settings, report = ablated
    numbers = read_numbers(report.artifact)
    assert [entry["dataset"] for entry in numbers["datasets"]] == ["drawn", "mine"]
    for entry, name in zip(numbers["datasets"], ("drawn", "mine"), strict=True):
        scores = Scores(scores_on(report, name))
        confusion = scores.confusion("ensemble")
        union = confusion.sum(0) + confusion.sum(1) - np.diag(confusion)
        ious = np.diag(confusion)[union > 0] / union[union > 0]
        main_variant = entry["variants"][0]
        assert main_variant["name"] == entry["main_variant"] == "ensemble"
        assert main_variant["metrics"]["miou"] == pytest.approx(ious.mean(), abs=1e-9)
        assert main_variant["metrics"]["pacc"] == pytest.approx(np.trace(confusion) / confusion.sum(), abs=1e-9)
        low, high = main_variant["intervals"]["miou"]
        assert low <= high
        first = entry["confusions"][0]
        assert confusion[first["true_index"], first["predicted_index"]] == first["pixels"]
        assert first["pixels"] == (confusion - np.diag(np.diag(confusion))).max()
        assert [row["miou"] for row in entry["per_image"]] == sorted(row["miou"] for row in entry["per_image"])
    drawn = numbers["datasets"][0]
    assert {entry["mark"] for entry in drawn["classes"]} == {"seen", "unseen"}
    assert drawn["variants"][0]["metrics"]["seen_miou"] is not None
    assert drawn["variants"][0]["metrics"]["unseen_miou"] is not None
    assert settings.evaluate.bootstrap_rounds == numbers["bootstrap_rounds"]


def test_perfect_classifiers_and_perfect_masks_score_higher(ablated):
    numbers = read_numbers(ablated[1].artifact)
    miou = {entry["name"]: entry["metrics"]["miou"] for entry in numbers["datasets"][0]["variants"]}
    assert miou["oracle-labels"] > miou["ensemble"]
    assert miou["true-masks-original"] > miou["ensemble"]
    assert miou["weight-0.00"] == miou["proposal-net-only"]
    assert miou["weight-1.00"] == miou["clip-only"]


def test_a_second_run_does_nothing_and_says_the_same(ablated):
    settings, report = ablated
    before = files_of(report.artifact)
    again = run("evaluate", settings, ablate=True)
    assert again.units_done == 0
    assert again.artifact.directory == report.artifact.directory
    assert files_of(again.artifact) == before


def test_the_page_stands_alone_and_takes_no_name_for_markup(ablated):
    page = html_path(ablated[1].artifact).read_text(encoding="utf-8")
    assert not LOADED.search(page)
    require_sound(html_path(ablated[1].artifact))
    assert "<script" not in page
    assert "&lt;script&gt;document.body" in page
    assert page.count("data:image/") > 20
    places = {
        "Parts of the method": "Table 5",
        "Where the bottleneck is": r"Figure 1\(c\)",
        "What adapting CLIP does": "Tables 3 and 6",
        "IoU of each class": "Figure 8",
    }
    for title, place in places.items():
        heading = f"<h4>{title} <span class=.faint.>· the paper's {place}</span></h4>"
        assert len(re.findall(heading, page)) == 2, title
    assert "proposals named perfectly\n<b>66.5</b>." in page
    assert "Ensemble weight" in page
    charts = re.findall(r'<svg[^>]*class="chart".*?</svg>', page, re.DOTALL)
    assert len(charts) >= 10
    for chart in charts:
        texts = [text.text for text in ElementTree.fromstring(chart).iter("{http://www.w3.org/2000/svg}text")]
        assert any("[%]" in text for text in texts)


class Sound(HTMLParser):
    """Collects what a page refers to, and what its pictures are for those who don't see them."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.headings: list[str] = []
        self.unnamed: list[str] = []
        self.heads_without_scope = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = {name: value or "" for name, value in attrs}
        self.ids += [of["id"]] if "id" in of and tag != "path" else []
        self.headings += [tag] if re.fullmatch("h[1-6]", tag) else []
        self.heads_without_scope += tag == "th" and "scope" not in of
        if tag == "a":
            self.links.append(of["href"])
        elif tag in ("img", "image", "link", "use"):
            self.loaded.append(of.get("src") or of.get("href") or of.get("xlink:href", ""))
        if (tag == "img" and not of.get("alt")) or (tag == "svg" and not of.get("aria-label")):
            self.unnamed.append(tag)


def require_sound(path: Path) -> Sound:
    """Check that a page loads nothing, that its links lead somewhere, and that its pictures have a text."""
    page = Sound()
    page.feed(path.read_text(encoding="utf-8"))
    assert all(one.startswith(("data:", "#")) for one in page.loaded)
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        elif not link.startswith("data:"):
            assert not Path(link).is_absolute()
            assert (path.parent / link).is_file(), link
    levels = [int(heading[1]) for heading in page.headings]
    assert levels[0] == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert (page.unnamed, page.heads_without_scope) == ([], 0)
    return page


def test_the_page_says_when_and_with_what_it_was_made_and_the_numbers_do_not(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    _, report = evaluated(tmp_path / "runs", tmp_path / "data")
    page = html_path(report.artifact)
    before = files_of(report.artifact)
    text = page.read_text(encoding="utf-8").partition('id="provenance"')[2]
    for what in ("2023-11-14 22:13 UTC", "ovseg-pipeline", "commit", "ovseg evaluate --config settings.toml"):
        assert what in text
    (settings_link,) = [link for link in require_sound(page).links if link.startswith("data:application/toml")]
    (tmp_path / "settings.toml").write_bytes(base64.b64decode(settings_link.partition(",")[2]))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1800000000")
    page.unlink()  # a page that is gone is written again, from the settings that it gives, too
    assert main(["evaluate", "--config", str(tmp_path / "settings.toml")]) == 0
    after = files_of(report.artifact)
    assert {name for name in after if after[name] != before[name]} == {"report.html"}


def test_any_run_on_the_same_scenes_can_be_compared_with(tmp_path, capsys):
    settings, first = evaluated(tmp_path / "runs", tmp_path / "data")
    config = tmp_path / "run.toml"
    config.write_text(settings_toml(settings))
    arguments = ["evaluate", "--config", str(config), "--set", "evaluate.oracle_labels=true", "--baseline"]
    assert main([*arguments, str(first.artifact.directory)]) == 0
    page = Path(re.search(r"report: (.*)", capsys.readouterr().out).group(1))
    numbers = json.loads(page.with_name("report.numbers.json").read_text())
    for entry, name in zip(numbers["datasets"], ("drawn", "mine"), strict=True):
        compared = entry["comparison"]
        assert compared["baseline"] == scores_on(first, name).directory.name
        assert compared["metrics"]["miou"]["second"] == entry["variants"][0]["metrics"]["miou"]
        assert compared["metrics"]["miou"]["first"] < compared["metrics"]["miou"]["second"]
        ious = {each["index"]: each["iou"] for each in entry["classes"]}
        assert {each["index"]: each["second"] for each in compared["classes"]}.items() <= ious.items()
        mious = {each["key"]: each["miou"] for each in entry["per_image"]}
        assert {each["key"]: each["second"] for each in compared["per_image"]} == pytest.approx(mious)
    require_sound(page)
    assert "Images that gained most" in page.read_text(encoding="utf-8")
    assert main([*arguments, str(tmp_path / "nothing")]) != 0
    assert "evaluate.baseline: " in capsys.readouterr().err


def test_the_original_clip_is_compared_with_nothing(tmp_path):
    _, report = evaluated(tmp_path / "runs", tmp_path / "data", baseline="original")
    assert [entry["comparison"] for entry in read_numbers(report.artifact)["datasets"]] == [None, None]


def test_markdown_and_json_say_what_the_page_says(ablated):
    report = ablated[1]
    markdown = html_path(report.artifact).with_suffix(".md").read_text(encoding="utf-8")
    page = html_path(report.artifact).read_text(encoding="utf-8")
    for entry in read_numbers(report.artifact)["datasets"]:
        value = f"{100 * entry['variants'][0]['metrics']['miou']:.1f}"
        assert re.search(rf"\| {entry['dataset']} \| {value} \|", markdown)
        assert re.search(rf'<td class="number">(<b class="main">)?{value}\b', page)
    assert "<script" not in markdown
    assert r"a\|b\*c\_d\[e\]" in markdown
    assert {line.count(" | ") for line in markdown.splitlines() if line.startswith("| sky | seen |")} == {4}


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed; apt-get install chromium")
@pytest.mark.parametrize("width", [1400, 1280, 390])
def test_a_browser_shows_the_page_without_overflow(ablated, tmp_path, width):
    page = html_path(ablated[1].artifact)
    layout = layout_of(page, tmp_path, width)
    assert layout.window == width
    assert layout.content <= width
    assert layout.broken_images == layout.cut_tables == 0
    assert layout.least_text >= 9  # px: small letters, still readable
    assert not layout.hacked
    screenshot(page, tmp_path / "page.png", width, 2500)
    with Image.open(tmp_path / "page.png") as shot:
        assert shot.size == (width, 2500)
        assert len(shot.convert("RGB").resize((64, 128)).getcolors(64 * 128)) > 50


def test_comparing_says_better_only_where_the_images_do(ablated, tmp_path, capsys):
    _, report = ablated
    directory = scores_on(report, "drawn").directory
    same = compare_runs(directory, directory, rounds=50)
    assert {found.verdict for found in same[0].differences.values()} == {"cannot tell"}
    arguments = [str(directory), str(directory), "--variant-b", "oracle-labels", "--rounds", "50"]
    assert main(["compare", *arguments]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"drawn: 5 images; A predicts by ensemble, B by oracle-labels", shown)
    assert re.search(r"miou +\d+\.\d +\d+\.\d +\+\d+\.\d +\+\d+\.\d to \+\d+\.\d +better", shown)
    assert main(["compare", *arguments[:2], "--variant-a", "oracle-labels", "--rounds", "50", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["metrics"]["miou"]["verdict"], found["images"], found["left_out"]) == ("worse", 5, 0)
    both = compare_runs(report.artifact.directory, report.artifact.directory, rounds=10)
    assert [comparison.dataset for comparison in both] == ["drawn", "mine"]


def test_what_cannot_be_compared_is_refused(ablated, capsys):
    _, report = ablated
    drawn, mine = (scores_on(report, name).directory for name in ("drawn", "mine"))
    with pytest.raises(
        PipelineError, match=r"were scored on different data .*the classes differ.*; evaluate both on the same"
    ):
        compare_runs(drawn, mine)
    with pytest.raises(PipelineError, match="has no variant 'x'; it has clip-only, ensemble"):
        compare_runs(drawn, drawn, variants=("x", ""))
    scenes = Artifact.open(drawn).directory.parent.parent / "scenes"
    with pytest.raises(PipelineError, match="is an artifact of scenes, expected scores or reports; "):
        compare_runs(next(scenes.iterdir()), drawn)
    assert main(["compare", str(drawn), str(drawn), "--rounds", "0"]) == 2
    assert "--rounds: should be at least 1 (got 0)" in capsys.readouterr().err


def test_a_report_whose_scores_are_gone_says_so(tmp_path):
    _, report = evaluated(tmp_path / "runs", tmp_path / "data")
    directory = scores_on(report, "mine").directory
    directory.rename(directory.with_name("elsewhere"))
    with pytest.raises(PipelineError, match="of mine are gone; evaluate again"):
        compare_runs(report.artifact.directory, report.artifact.directory)


def test_the_command_evaluates_and_tells_where_the_report_lies(tmp_path, capsys):
    settings, _ = evaluated(tmp_path / "runs", tmp_path / "data")
    config = tmp_path / "run.toml"
    config.write_text(settings_toml(settings))
    assert main(["evaluate", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "units were complete before; nothing to do" in shown
    assert Path(re.search(r"report: (.*)", shown).group(1)).is_file()
    assert all(node.is_complete() for kind in ("scores", "reports") for node in dataflow(settings).of_kind(kind))


def test_a_report_follows_each_of_two_data_sets_of_one_kind(tmp_path):
    for images in (2, 3):
        make_folder(tmp_path / f"of-{images}", NAMES, images=images)
    settings = settings_of(
        tmp_path, datasets={"drawn": DRAWN} | {name: folder_settings(tmp_path / name) for name in ("of-2", "of-3")}
    )
    prepare_scenes(settings, ["drawn"])
    write_net(artifact_of(settings, "proposal_net"), small_net())
    report = run("evaluate", settings)
    images = {entry["dataset"]: entry["images"] for entry in read_numbers(report.artifact)["datasets"]}
    assert images == {"drawn": 5, "of-2": 2, "of-3": 3}
    manifests = {stage.manifest.digest() for stage in report.of_kind("scores")}
    assert set(report.artifact.identity.inputs.values()) == manifests
    assert len(manifests) == 3


def test_what_is_missing_is_reported(tmp_path):
    settings = settings_of(tmp_path)
    with pytest.raises(MissingInputError, match="is not finished; run 'ovseg train-proposals' first"):
        run("evaluate", settings)
    section = settings.evaluate.model_copy(update={"datasets": ()})
    with pytest.raises(SettingsError, match=r"evaluate\.datasets: at least one data set is expected"):
        run("evaluate", settings.model_copy(update={"evaluate": section}))


def test_what_does_not_exist_is_null():
    assert json_number(float("nan")) is None
    assert json_number(np.float64(0.5)) == 0.5


def test_what_training_knew_of_a_data_set_follows_from_the_settings(tmp_path):
    _, report = evaluated(tmp_path / "runs", tmp_path / "data")
    drawn, mine = (entry["training_overlap"] for entry in read_numbers(report.artifact)["datasets"])
    assert drawn.startswith("Not zero-shot: the proposal net was trained on labels of these very scenes")
    assert "of its 5 classes 1 have the name of one that the proposal net learned (on drawn)" in mine
    page = html_path(report.artifact).read_text(encoding="utf-8")
    assert drawn in page
    assert mine in page


def test_class_names_that_the_small_clip_does_not_know_are_warned_of(tmp_path, caplog):
    evaluated(tmp_path / "runs", tmp_path / "data")
    assert any("of 5 class names of mine have no word that drawn-world-small knows" in text for text in caplog.messages)


def test_true_masks_with_true_names_are_the_100_percent_check_of_labels(tmp_path):
    _, report = evaluated(tmp_path / "runs", tmp_path / "data", proposals="ground-truth", oracle_labels=True)
    for entry in read_numbers(report.artifact)["datasets"]:
        (main_variant,) = (each for each in entry["variants"] if each["name"] == entry["main_variant"])
        assert main_variant["metrics"]["miou_present"] == 1.0, entry["dataset"]
