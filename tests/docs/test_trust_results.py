"""Signs of trust on the drawn world: whole rows, what they must hold, and the section that shows them."""

import io
import statistics

from PIL import Image

from tests.docs.pages import ROOT
from tools import measure_trust
from tools.measure_paper_tables import SEEDS
from tools.measure_trust import ABOUT_PAIRS, SUBSETS, YIELDS, digest_of
from tools.paper_tables_page import page
from tools.seed_results import read_lines
from tools.trust_page import FIGURE, figure, lines_of, precision_table, section, tuning_table

RESULTS = read_lines(ROOT / "docs" / "results" / "trust_results.jsonl")
ROWS = [*ABOUT_PAIRS, *(subset.name for subset in SUBSETS)]


def test_the_stored_results_are_whole_rows():
    assert sorted((line["row"], line["seed"]) for line in RESULTS) == sorted(
        (row, seed) for row in ROWS for seed in SEEDS
    )


def test_filtering_at_three_fifths_of_the_right_pairs_is_precise():
    place = YIELDS.index(0.6)
    precise = [line["precision"]["trust"][place] for line in lines_of(RESULTS, "signs")]
    assert statistics.fmean(precise) >= 0.85
    assert all(line["precision"]["trust"][place] >= line["right"] + 0.15 for line in lines_of(RESULTS, "signs"))


def test_negatives_are_truly_absent():
    lines = lines_of(RESULTS, "negatives")
    absent = sum(line["absent"] * line["negatives"] for line in lines)
    assert absent >= 0.98 * sum(line["negatives"] for line in lines)


def test_subsets_are_finetuned_in_as_many_steps_as_all_pairs():
    assert len({line["steps"] for line in RESULTS if line["row"] not in ABOUT_PAIRS}) == 1


def test_the_section_is_on_the_page_only_where_there_are_results():
    assert section([]) == ""
    assert page([], [], []) == page([])
    text = page([], [], RESULTS)
    for table in (precision_table, tuning_table):
        assert table(RESULTS) in text


def test_the_figure_has_a_curve_for_every_sign(tmp_path):
    with Image.open(io.BytesIO(figure(RESULTS))) as drawn, Image.open(ROOT / "docs" / "images" / FIGURE) as stored:
        assert drawn.size == stored.size
        colours = {pixel for _, pixel in drawn.convert("RGB").getcolors(1 << 24)}
    assert {(31, 119, 180), (255, 127, 14), (44, 160, 44)} <= colours


def test_lines_depend_on_row_seed_and_settings():
    digests = {digest_of(row, seed, 1.0) for row in ROWS for seed in (1, 2)}
    assert len(digests) >= 2 * (len(SUBSETS) - 1)
    assert digest_of("all pairs", 1, 1.0) != digest_of("all pairs", 1, 0.5)


def test_a_stopped_run_goes_on(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(measure_trust, "measured", lambda row, seed, runs, scale: asked.append((row, seed)) or {})
    monkeypatch.setattr("sys.argv", ["measure_trust", "--out", str(tmp_path), "--seeds", "1", "2"])
    measure_trust.main()
    assert asked == [(row, seed) for row in ROWS for seed in (1, 2)]
    measure_trust.main()
    assert len(asked) == 2 * len(ROWS)
