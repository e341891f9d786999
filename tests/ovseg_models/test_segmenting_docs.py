"""docs/start/segmenting.md names the settings, defaults and options that there are."""

import inspect
import re
from dataclasses import asdict
from pathlib import Path

from flows.checkpoint_commands import import_checkpoint
from ovseg_models.prompt_templates import VILD
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings

PAGE = (Path(__file__).parents[2] / "docs" / "start" / "segmenting.md").read_text(encoding="utf-8")


def test_the_table_lists_every_setting_with_its_default():
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", PAGE, flags=re.MULTILINE))
    defaults = asdict(SegmenterSettings())
    assert defaults.pop("prompt_templates") == VILD
    assert rows.pop("prompt_templates") == f"ViLD's {len(VILD)}"
    assert rows == {name: str(value).lower() for name, value in defaults.items()}


def test_methods_and_options_exist():
    methods = set(re.findall(r"segmenter\.(\w+)\(", PAGE))
    assert {"encode", "segment", "find", "scores", "branches"} <= methods
    assert all(hasattr(Segmenter, name) for name in methods)
    parameters = inspect.signature(import_checkpoint).parameters
    named = re.findall(r"`--(heads|norm-groups|head-width|activation)`\s+([\w-]+)", PAGE)
    assert len(named) == 4
    for option, default in named:
        assert str(parameters[option.replace("-", "_")].default) == default
