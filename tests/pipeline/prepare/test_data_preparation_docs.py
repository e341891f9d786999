"""What docs/guides/data_preparation.md states, as far as the code knows it."""

import re
from pathlib import Path
from typing import get_args

from pipeline.data_set_options import DataSetName
from pipeline.prepare.faults import FAULTS
from pipeline.prepare.vocabulary import VOCABULARY_NAMES, load_vocabulary

TEXT = (Path(__file__).parents[3] / "docs" / "guides" / "data_preparation.md").read_text(encoding="utf-8")


def test_every_fault_has_its_row_and_no_other():
    assert re.findall(r"^\| `([a-z0-9_]+)` \|", TEXT, re.MULTILINE) == list(FAULTS)


def test_every_data_set_has_a_command():
    for name in get_args(DataSetName):
        assert f"prepare {name} " in TEXT or f"the same with `{name}`" in TEXT, name


def test_counts_of_seen_classes_are_current():
    for name in VOCABULARY_NAMES:
        marks = load_vocabulary(name).marks
        if not name.startswith("coco-"):
            counts = [sum(mark == expected for mark in marks) for expected in ("seen", "unseen", "uncertain")]
            assert f"| {name} | {counts[0]} | {counts[1]} | {counts[2]} |" in TEXT
