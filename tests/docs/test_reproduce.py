"""The counted work of docs/guides/reproduce.md is what the tool counts today."""

from pipeline.settings import load_settings
from tests.docs.pages import ROOT
from tools.count_paper_work import CONFIGS, EVALUATED_IMAGES, RUNS, table, work_of

PAGE = (ROOT / "docs" / "guides" / "reproduce.md").read_text(encoding="utf-8")


def test_the_table_of_counted_work_is_current():
    runs = [(name, work_of(load_settings(CONFIGS / f"{name}.toml"))) for name in RUNS]
    assert f"\n\n{table(runs)}\n\n" in PAGE


def test_every_data_set_of_the_runs_has_its_root_on_the_page():
    for name in RUNS:
        settings = load_settings(CONFIGS / f"{name}.toml")
        assert {row.dataset for row in settings.evaluate.datasets} == set(EVALUATED_IMAGES)
        for data in settings.datasets.values():
            assert f"`{data.root}` |" in PAGE, data.root
            assert f"--root {data.root} " in PAGE
        assert f"CONFIG=flows/configs/{name}.toml" in PAGE or f"`flows/configs/{name}.toml`" in PAGE
