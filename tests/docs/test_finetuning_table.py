"""The measured tables of docs/results/finetuning_table.md: made of stored results, by the command it names."""

import json
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest

from tests.docs.pages import ROOT
from tools import seed_results
from tools.measure_finetuning import SCHEDULES, table, tables
from tools.seed_results import (
    FIRST_NET,
    append_result,
    between_marks,
    earlier_net,
    read_results,
    with_interval,
    write_into,
)

PAGE = ROOT / "docs" / "results" / "finetuning_table.md"
RESULTS = ROOT / "docs" / "results" / "finetuning_results.jsonl"


def test_the_page_shows_its_results(tmp_path):
    (tmp_path / "results.jsonl").write_bytes(RESULTS.read_bytes())
    assert between_marks(PAGE) == tables(read_results(tmp_path))


def results(seeds: int) -> list[dict[str, object]]:
    """Make figures of which schedule, mask, seed and group can be read off."""
    return [
        {
            "seed": seed,
            "schedule": schedule.title,
            "masks": masks,
            "macro_seen": 10.0 * place + seed,
            "macro_unseen": 10.0 * place + 5 + 2 * seed,
            "pairs": 100,
            "right": 0.5,
            "regions": 50,
        }
        for seed in range(1, seeds + 1)
        for place, schedule in enumerate(SCHEDULES)
        for masks in ("exact", "proposal")
    ]


def test_intervals_are_students():
    assert with_interval([1.0, 2.0, 3.0]) == "2.0 ± 2.5"  # 4.303 * 1 / sqrt(3)
    assert with_interval([4.0]) == "4.0"
    assert with_interval([]) == "-"


def test_differences_are_taken_seed_by_seed():
    rows = {line.split(" | ")[0].strip("| "): line for line in table(results(3), minus="FT").splitlines()}
    assert "FT" not in rows
    assert rows["MPT"] == "| MPT | 3 | -10.0 ± 0.0 | -10.0 ± 0.0 | -10.0 ± 0.0 | -10.0 ± 0.0 |"


def test_schedules_at_another_rate_have_tables_of_their_own():
    slower = [{**line, "rate_ft": 3e-5, "macro_seen": 1.0} for line in results(2) if line["schedule"] in ("FT", "MPT")]
    plain, _, other = tables([*results(2), *slower]).partition("with a rate of 3e-05 for FT in place of 0.0003")
    assert plain.partition("The same")[0].strip() == tables(results(2)).strip()
    assert "| FT | 2 | 1.0 ± 0.0 | " in other
    assert "| MPT | 2 | 0.0 ± 0.0 | " in other
    assert "both at once" not in other


def test_a_row_tells_how_many_seeds_it_has():
    whole = results(2)
    rows = table([line for line in whole if line["seed"] == 1 or line["schedule"] != "MPT"]).splitlines()
    assert rows[3] == "| MPT | 1 | 11.0 | 17.0 | 11.0 | 17.0 |"
    assert rows[4].startswith("| FT | 2 | 21.5 ± ")


def test_a_line_that_a_kill_cut_short_is_left_out_and_replaced(tmp_path):
    (tmp_path / "results.jsonl").write_text(json.dumps({"seed": 1}) + "\n" + '{"seed": 2, "cou')
    assert read_results(tmp_path) == [{"seed": 1}]
    append_result(tmp_path, {"seed": 3})
    assert read_results(tmp_path) == [{"seed": 1}, {"seed": 3}]
    append_result(tmp_path, {"seed": 1, "a": 2}, alike=("seed",))
    append_result(tmp_path, {"seed": 1, "a": 3}, alike=("seed", "a"))
    assert read_results(tmp_path) == [{"seed": 3}, {"seed": 1, "a": 2}, {"seed": 1, "a": 3}]


@pytest.mark.parametrize("old", ["", "\nold\n"])
def test_writing_replaces_what_is_between_the_marks(tmp_path, old):
    page = tmp_path / "page.md"
    page.write_text(f"before\n<!-- a -->{old}<!-- end of a -->\nafter\n<!-- b -->kept<!-- end of b -->\n")
    write_into(page, "\nnew\n", name="a")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- end of a -->\nafter\n<!-- b -->kept<!-- end of b -->\n"
    assert (between_marks(page, name="a"), between_marks(page, name="b")) == ("\nnew\n", "kept")


def test_a_page_without_marks_is_reported(tmp_path):
    (tmp_path / "page.md").write_text("<!-- table -->\n")
    with pytest.raises(ValueError, match="has no marks '<!-- table -->' and '<!-- end of table -->'; add them"):
        write_into(tmp_path / "page.md", "new")


def test_results_of_a_net_that_is_no_longer_shipped_are_said_to_be(monkeypatch, tmp_path):
    shipped = tmp_path / "net.safetensors"
    shipped.write_bytes(b"weights")
    monkeypatch.setattr(seed_results, "WEIGHTS_FILE", shipped)
    present = {"seed": 1, "proposal_net": sha256(b"weights").hexdigest()[:12]}
    assert earlier_net([present]) == earlier_net([]) == ""
    assert f"`{FIRST_NET}`" in earlier_net([present, {"seed": 2}])
    assert "`0123`" in earlier_net([{"seed": 3, "proposal_net": "0123"}])


def test_two_processes_append_to_the_same_results(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda seed: append_result(tmp_path, {"seed": seed}), range(20)))
    assert sorted(line["seed"] for line in read_results(tmp_path)) == list(range(20))
