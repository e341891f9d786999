"""The tables of docs/drawn_world_results.md: what they make of results, and of the paper's numbers."""

import pytest

from tests.docs.pages import ROOT
from tools.measure_paper_tables import ROWS, SEEDS
from tools.paper_tables_page import (
    APPEARS,
    CLAIMS,
    REVERSED,
    TABLES,
    UNDECIDED,
    claims_table,
    in_short,
    page,
    pairs_table,
    summary,
    table,
    verdict,
)
from tools.seed_results import between_marks, read_results


def test_every_row_that_is_told_of_is_measured():
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
def test_an_order_is_told_only_where_the_whole_interval_says_so(values, outcome):
    assert verdict(values) == outcome


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
    told = f"the order appears in 1, is reversed in 0, and these seeds cannot tell in {cannot_tell}."
    assert in_short(made_up(3)).endswith(told)


def test_a_table_has_our_mean_and_the_papers_numbers():
    lines = table(made_up(2), TABLES["Table 3: mask prompt tuning"]).splitlines()
    assert lines[2] == "| original CLIP | 2 | 15.0 ± 63.5 | 15.0 ± 63.5 | 15.0 ± 63.5 | 7.3 | 21.8 | 51.4 |"
    assert lines[3] == "| MPT | 0 | - | - | - | 8.4 | 26.5 | 55.4 |"
    assert pairs_table(made_up(2)).splitlines()[2] == "| `s` | 15 | 50.0 ± 0.0 |"


def test_the_page_holds_all_that_is_made_of_the_results():
    results = made_up(3)
    text = page(results)
    for part in (summary(results), claims_table(results), pairs_table(results)):
        assert f"\n{part}\n" in text
    for title, lines in TABLES.items():
        assert f"### {title}\n\n{table(results, lines)}\n" in text


def test_the_pages_show_their_results(tmp_path):
    docs = ROOT / "docs"
    (tmp_path / "results.jsonl").write_bytes((docs / "drawn_world_results.jsonl").read_bytes())
    results = read_results(tmp_path)
    assert {(line["seed"], line["row"]) for line in results} == {(seed, row.name) for seed in SEEDS for row in ROWS}
    assert (docs / "drawn_world_results.md").read_text(encoding="utf-8") == page(results)
    assert between_marks(ROOT / "README.md", name="paper tables") == f"\n{in_short(results)}\n"
