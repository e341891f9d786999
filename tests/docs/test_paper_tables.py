"""The tables of docs/results/drawn_world_results.md: what they make of results, and of the paper's numbers."""

import json
import re

import pytest

from pipeline.mine.pair import PairNouns
from tests.docs.pages import ROOT
from tools import measure_paper_tables
from tools.measure_paper_tables import COMPARED_SEEDS, ROWS, made_by, measured_on_taught_names, outdated, seeds_and_rows
from tools.paper_tables_page import (
    APPEARS,
    CLAIMS,
    REVERSED,
    SEEDS_TO_COMPARE,
    TABLES,
    TAUGHT_NAMES,
    UNDECIDED,
    claims_table,
    in_short,
    page,
    pairs_table,
    reasons,
    so_far,
    summary,
    table,
    taught_table,
    verdict,
)
from tools.seed_results import append_result, between_marks, read_lines, read_results


def test_every_row_that_is_reported_of_is_measured():
    names = {row.name for row in ROWS}
    assert names == {line.row for lines in TABLES.values() for line in lines}
    assert {name for claim in CLAIMS for name in (claim.better, claim.worse)} <= names


def test_claims_are_what_the_papers_numbers_say():
    paper = {line.row: line.paper[1] for lines in TABLES.values() for line in lines}
    for claim in CLAIMS:
        better, worse = paper[claim.better], paper[claim.worse]
        assert better is not None
        assert worse is not None
        assert claim.paper == pytest.approx(better - worse)
        assert claim.paper > 0


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([1.0, 2.0, 3.0], UNDECIDED),  # 2.0 ± 2.5
        ([1.0, 1.1, 1.2], APPEARS),
        ([-1.0, -1.1, -1.2], REVERSED),
        ([5.0], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_an_order_is_reported_only_where_the_whole_interval_says_so(values, outcome):
    assert verdict(values) == outcome


def test_a_result_says_what_made_it(monkeypatch):
    rows = {row.name: row for row in ROWS}
    ft, seen = rows["FT masks-classes"], rows["FT masks-seen-classes"]
    marks = {made_by(ft, 1, 1.0), made_by(ft, 2, 1.0), made_by(ft, 1, 0.5), made_by(seen, 1, 1.0)}
    renamed = ft._replace(name="another name")
    assert len(marks) == 4
    assert made_by(renamed, 1, 1.0) in marks
    assert made_by(ft._replace(overrides=(*ft.overrides, "finetune.prompt_depth=1")), 1, 1.0) not in marks
    monkeypatch.setattr(PairNouns, "producer_version", PairNouns.producer_version + 1)
    assert made_by(ft, 1, 1.0) not in marks


def measure(monkeypatch, out, *options):
    """Run the program with stages that say at once what they were asked for; return that."""
    asked = []

    def measured(row, seed, runs, scale):
        asked.append((seed, row.name))
        return {"seed": seed, "row": row.name, "all": float(len(asked)), "made_by": made_by(row, seed, scale)}

    monkeypatch.setattr(measure_paper_tables, "measured", measured)
    monkeypatch.setattr(measure_paper_tables, "ROWS", ROWS[:2])
    monkeypatch.setattr(measure_paper_tables, "measured_on_taught_names", lambda seed, scale: pytest.fail("is there"))
    for seed in (1, 2):
        mark = made_by(ROWS[0], seed, 1.0)
        append_result(out, {"seed": seed, "row": TAUGHT_NAMES, "made_by": mark}, alike=("seed", "row"))
    monkeypatch.setattr("sys.argv", ["measure_paper_tables", "--out", str(out), *options])
    measure_paper_tables.main()
    return asked


def test_results_that_were_made_otherwise_are_measured_again(monkeypatch, tmp_path, capsys):
    first, second = (row.name for row in ROWS[:2])
    assert measure(monkeypatch, tmp_path, "--seeds", "1", "2") == [(1, first), (1, second), (2, first), (2, second)]
    assert measure(monkeypatch, tmp_path, "--seeds", "1", "2") == []
    whole = read_results(tmp_path)
    old = [{**line, "made_by": "0" * 16} if line["seed"] == 2 and line["row"] == first else line for line in whole]
    old = [{name: line[name] for name in line if name != "made_by"} if line is whole[1] else line for line in old]
    assert outdated(old, 1.0) == [f"seed 1, {second}", f"seed 2, {first}"]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in old))
    page = tmp_path / "page.md"
    with pytest.raises(SystemExit, match="2"):
        measure(monkeypatch, tmp_path, "--write", str(page))
    error = capsys.readouterr().err
    assert all(fact in error for fact in ("2 of 6 lines", "(seed 1, ", "without --write"))
    assert not page.exists()
    assert measure(monkeypatch, tmp_path, "--seeds", "1", "2") == [(1, second), (2, first)]
    results = read_results(tmp_path)
    assert sum(line["row"] != TAUGHT_NAMES for line in results) == 4
    assert outdated(results, 1.0) == []
    assert outdated([{**results[0], "row": "a row that is gone"}], 1.0) == ["seed 1, a row that is gone"]


def test_compared_rows_are_measured_on_all_seeds_and_others_last_on_the_first_five():
    order = [(seed, row.name) for seed, row in seeds_and_rows(COMPARED_SEEDS)]
    compared = {name for claim in CLAIMS for name in (claim.better, claim.worse)}
    assert len(set(order)) == len(order) == len(compared) * len(COMPARED_SEEDS) + (len(ROWS) - len(compared)) * 5
    first = [name for seed, name in order if seed == COMPARED_SEEDS[0]][: len(compared)]
    assert set(first) == compared
    assert order[: len(compared)] == [(COMPARED_SEEDS[0], name) for name in first]
    assert {seed for seed, name in order if name == "MPT depth 2"} == set(COMPARED_SEEDS[:5])


def made_up(seeds: int) -> list[dict[str, object]]:
    """Results in which FT is 3 above the original in every seed, and the original varies by seed."""
    values = {"original": 0.0, "FT": 3.0}
    return [
        {"seed": seed, "row": row, "source": "s", "pairs": 10 * seed, "right": 50.0}
        | dict.fromkeys(("all", "seen", "unseen"), 10.0 * seed + value)
        for seed in range(1, seeds + 1)
        for row, value in values.items()
    ]


def test_differences_are_taken_seed_by_seed():
    rows = {line.split(" | ")[0].strip("| "): line for line in claims_table(made_up(3)).splitlines()}
    expected = "| FT above original CLIP | +7.0 | +3.0 ± 0.0 | appears | +3.0 ± 0.0 | appears |"
    assert rows["FT above original CLIP"] == expected
    assert rows["MPT above original CLIP"] == "| MPT above original CLIP | +4.7 | - | cannot tell | - | cannot tell |"
    assert f"in 1 of {len(CLAIMS)} comparisons: FT above original CLIP." in summary(made_up(3))
    cannot_tell = len(CLAIMS) - 1
    printed = f"the order appears in 1, is reversed in 0, and these seeds cannot tell in {cannot_tell}."
    assert in_short(made_up(3)).endswith(printed)


def test_a_table_has_our_mean_and_the_papers_numbers():
    lines = table(made_up(2), TABLES["Table 3: mask prompt tuning"]).splitlines()
    assert lines[2] == "| original CLIP | 2 | 15.0 ± 63.5 | 15.0 ± 63.5 | 15.0 ± 63.5 | 7.3 | 21.8 | 51.4 |"
    assert lines[3] == "| MPT | 0 | - | - | - | 8.4 | 26.5 | 55.4 |"
    assert pairs_table(made_up(2)).splitlines()[2] == "| `s` | 15 | 50.0 ± 0.0 |"


def test_branches_are_compared_among_taught_names_seed_by_seed():
    results = [
        {"seed": seed, "row": TAUGHT_NAMES, "net": 40.0 + seed, "clip": 35.0 + seed, "both": 50.0} for seed in (1, 2)
    ]
    lines = taught_table(results).splitlines()
    assert lines[2] == "| proposal net alone | 41.5 ± 6.4 |"
    assert lines[-1] == "| proposal net alone above original CLIP alone | +5.0 ± 0.0: appears |"
    assert "| `s` |" in pairs_table(made_up(2) + results)


def test_each_branch_names_taught_classes_among_their_names_alone():
    line = measured_on_taught_names(101, 0.03)
    assert (line["seed"], line["row"], line["images"]) == (101, TAUGHT_NAMES, 6)
    values = [line[branch] for branch in ("net", "clip", "both")]
    assert all(10 < value < 90 for value in values)
    assert len(set(values)) == 3


def test_the_page_holds_all_that_is_made_of_the_results():
    results = made_up(3)
    text = page(results)
    for part in (summary(results), claims_table(results), pairs_table(results)):
        assert f"\n{part}\n" in text
    for title, lines in TABLES.items():
        assert f"### {title}\n\n{table(results, lines)}\n" in text


def test_a_page_of_fewer_seeds_says_how_many():
    few, enough = made_up(3), made_up(SEEDS_TO_COMPARE)
    assert "**3 of 20 seeds" in page(few)
    assert so_far(enough) == ""
    assert len(COMPARED_SEEDS) == SEEDS_TO_COMPARE


def test_what_was_tested_of_an_order_is_shown_with_its_figures():
    rows = {"FT for longer": 3.0, "FT proposals-5-captions": 2.0, "FT": 1.0}
    results = [{"seed": seed, "row": row, "all": value + seed} for row, value in rows.items() for seed in (1, 2)]
    assert reasons(results) == ""
    results += [{"seed": seed, "row": TAUGHT_NAMES, "net": 4.0, "clip": 3.0, "both": 5.0} for seed in (1, 2)]
    text = reasons(results)
    assert taught_table(results) in text
    assert "by +1.0 ± 0.0 points" in " ".join(text.split())
    assert "four epochs by +2.0 ± 0.0" in " ".join(text.split())


def test_the_pages_show_their_results(tmp_path):
    docs = ROOT / "docs" / "results"
    (tmp_path / "results.jsonl").write_bytes((docs / "drawn_world_results.jsonl").read_bytes())
    results = read_results(tmp_path)
    assert {line["row"] for line in results} <= {TAUGHT_NAMES, *(row.name for row in ROWS)}
    assert all(re.fullmatch("[0-9a-f]{16}", line["made_by"]) for line in results)
    others = [read_lines(docs / f"{name}_results.jsonl") for name in ("recipe", "trust", "namer")]
    assert (docs / "drawn_world_results.md").read_text(encoding="utf-8") == page(results, *others)
    assert between_marks(ROOT / "README.md", name="paper tables") == f"\n{in_short(results)}\n"
