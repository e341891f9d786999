"""The table of namers: means, differences to tuned crops seed by seed, and whether the goal is reached."""

from typing import Any

import pytest

from tools.namers_page import namer_table, section, speed_table, verdict
from tools.paper_tables_page import page

SPEED = {"seed": 0, "row": "speed", "masks": 100, "seconds": {"crops": 0.5, "one pass": 0.05}}


def results(of_one_pass: float) -> list[dict[str, Any]]:
    rows = {"crops, FT": 30.0, "one pass, FT": of_one_pass}
    lines = [
        {"seed": seed, "row": row, "steps": 18, "all": value + seed, "seen": value + 10, "unseen": value - 10}
        for row, value in rows.items()
        for seed in (1, 2, 3)
    ]
    return [SPEED, *lines, {**lines[-1], "row": "one pass, queries", "all": 99.0}]  # of one seed alone


def test_rows_of_all_seeds_are_shown_with_their_differences() -> None:
    table = namer_table(results(28.0))
    assert "| one pass, FT | 3 | 18 | 30.0 ± 2.5 | 38.0 ± 0.0 | 18.0 ± 0.0 | **-2.0 ± 0.0** |" in table
    assert "queries" not in table
    assert "| one pass | 50.0 | 2,000 |" in speed_table(results(28.0))


@pytest.mark.parametrize(("value", "said"), [(28.0, "not within"), (29.5, "points against tuned crops: within")])
def test_the_goal_is_a_point_below_tuned_crops(value: float, said: str) -> None:
    assert verdict(results(value)).startswith("**Best of tuned one pass:** one pass, FT, ")
    assert said in verdict(results(value))


def test_the_section_is_part_of_the_page_where_there_are_results() -> None:
    assert page([], [], [], []) == page([])
    assert page([], [], [], results(28.0)).endswith(section(results(28.0)))
