"""docs/reference/settings.md says what the models say."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_the_page_is_up_to_date():
    ended = subprocess.run(
        [sys.executable, "-m", "tools.write_settings_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


def test_every_setting_is_described():
    from pipeline.settings import Settings
    from pipeline.settings.model import all_settings

    page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
    for setting in all_settings(Settings):
        assert setting.field.description, setting.key
        assert setting.sections or f"| `{setting.key[-1]}` |" in page
