"""docs/reference/contracts.md says what the code says."""

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_of_contracts_is_up_to_date() -> None:
    tool = runpy.run_path(str(ROOT / "tools" / "write_contracts_docs.py"))
    assert (ROOT / "docs" / "reference" / "contracts.md").read_text(encoding="utf-8") == tool["document"](), (
        "run 'make docs'"
    )
