"""The recipes' section of docs/results/drawn_world_results.md: what it makes of results, which rows are measured."""

import pytest

from tools import measure_recipes
from tools.measure_paper_tables import ROOT, SEEDS
from tools.measure_recipes import RECIPES, SOURCES, rows
from tools.paper_tables_page import page
from tools.recipes_page import (
    absolute_table,
    answer,
    baseline_table,
    best,
    contradiction,
    differences,
    section,
    source_table,
    temperature_table,
)
from tools.seed_results import measure_missing, read_lines, read_results


def line(seed, row, seen, unseen):
    return {"seed": seed, "row": row, "all": (seen + unseen) / 2, "seen": seen, "unseen": unseen, "steps": 10}


def results():
    """Ground truth loses 5 +- 0.1 on unseen classes with FT; with PSM nothing is apart."""
    found = []
    for seed in (1, 2, 3):
        wobble = 0.1 * seed
        found += [
            line(seed, "original CLIP", 30.0 + wobble, 20.0),
            line(seed, "original CLIP at its own temperature", 31.0, 21.0),
            line(seed, "FT | mined", 40.0 + seed, 25.0 + seed),
            line(seed, "FT | ground-truth", 44.0 + seed + wobble, 20.0 + seed + wobble),
            line(seed, "PSM | mined", 33.0 + seed, 22.0),
            line(seed, "PSM | ground-truth", 33.0 + 2 * seed - 2, 22.0 + (-1) ** seed),
        ]
    return found


def test_differences_are_seed_by_seed():
    assert differences(results(), "FT | ground-truth", "FT | mined", "unseen") == pytest.approx([-4.9, -4.8, -4.7])
    assert differences(results(), "FT | both", "FT | mined", "unseen") == []


def test_the_contradiction_is_counted_by_intervals():
    text = contradiction(results())
    assert "loses with FT;" in text
    assert "gains with none;" in text
    assert text.endswith("these seeds cannot tell with PSM.")


def test_the_best_row_names_those_that_it_cannot_be_told_from():
    text = best(results(), "seen")
    assert text.startswith("**Most on seen classes:** FT on ground-truth masks and names of seen classes, 46.2.")
    assert "0 of 5 others: none." in text
    incomplete = [one for one in results() if not (one["seed"] == 3 and one["row"] == "FT | ground-truth")]
    assert best(incomplete, "seen").startswith("**Most on seen classes:** FT on proposals")


def test_the_answer_gives_differences_and_verdicts():
    rows = {row.split(" | ")[0]: row for row in answer(results()).splitlines()}
    assert rows["| PSM alone, on ground truth against mined pairs"].endswith(": cannot tell |")
    (first,) = (row for what, row in rows.items() if "OVSeg finds" in what)
    assert first.endswith("| **+4.2 ± 0.2**: gains | **-4.8 ± 0.2**: loses |")
    assert "not measured | not measured |" in answer(results())


def test_tables_hold_every_row_and_mark_what_is_apart():
    assert "| FT | **+4.2 ± 0.2** | **-4.8 ± 0.2** | - | - |" in source_table(results())
    assert "| PSM | original CLIP at its own temperature | proposals" in temperature_table(results())
    for row in {one["row"] for one in results()}:
        recipe = row.partition(" | ")[0]
        assert f"\n| {recipe} | " in absolute_table(results())
        assert f"\n| {recipe} | " in baseline_table(results())


def test_the_page_has_the_section_only_where_there_are_results():
    assert section([]) == ""
    assert page([], []) == page([])
    text = page([], results())
    for table in (source_table, baseline_table, temperature_table, absolute_table):
        assert table(results()) in text


def test_rows_are_recipes_times_sources_and_their_settings_are_valid(tmp_path):
    named = {row.name: row for row in rows()}
    assert len(named) == len(list(rows()))
    assert {f"{recipe} | {source}" for recipe in RECIPES for source in SOURCES} < named.keys()
    digests = [measure_recipes.made_by(row, 1, 1.0) for row in named.values()]
    assert len(set(digests)) == len(digests)


def test_a_row_is_measured_on_all_seeds_first_and_a_stopped_run_goes_on(monkeypatch, tmp_path):
    asked = []

    def measured(row, seed, runs, scale):
        asked.append((row.name, seed))
        return {**line(seed, row.name, 1.0, 1.0), "made_by": measure_recipes.made_by(row, seed, scale)}

    first = list(rows())[:2]
    monkeypatch.setattr(measure_recipes, "measured", measured)
    monkeypatch.setattr(measure_recipes, "rows", lambda: iter(first))
    monkeypatch.setattr("sys.argv", ["measure_recipes", "--out", str(tmp_path), "--seeds", "1", "2"])
    measure_recipes.main()
    assert asked == [(row.name, seed) for row in first for seed in (1, 2)]
    measure_recipes.main()
    assert len(asked) == 4


def test_the_stored_results_are_whole_rows():
    results = read_lines(ROOT / "docs" / "results" / "recipe_results.jsonl")
    named = {row.name for row in rows()}
    measured = {line["row"] for line in results}
    assert measured <= named
    assert {(line["row"], line["seed"]) for line in results} == {(row, seed) for row in measured for seed in SEEDS}
    assert len(results) == len(measured) * len(SEEDS)


def test_what_has_a_line_is_not_measured_again(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda _: None)
    measured = []

    def measure(seed, made_by):
        measured.append((seed, made_by))
        return {"seed": seed, "row": "FT", "made_by": made_by, "all": 1.0}

    def wanted(*pairs):
        return [({"seed": s, "row": "FT", "made_by": m}, lambda s=s, m=m: measure(s, m)) for s, m in pairs]

    measure_missing(tmp_path, wanted((1, "a"), (2, "a")))
    measure_missing(tmp_path, wanted((1, "a"), (2, "b"), (3, "a")))
    assert measured == [(1, "a"), (2, "a"), (2, "b"), (3, "a")]
    assert [(line["seed"], line["made_by"]) for line in read_results(tmp_path)] == [(1, "a"), (2, "b"), (3, "a")]
