"""The make targets: help is the default, every target explains itself, the demo is one command."""

import re
import shlex
import subprocess
from pathlib import Path

from tests.docs.commands import check_ovseg

ROOT = Path(__file__).parents[2]


def make(*arguments: str) -> str:
    return subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_help_is_the_default_and_lists_every_target():
    shown = make()
    assert shown == make("help")
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert [line.split()[:2] for line in shown.splitlines()] == [["make", target] for target in phony]
    assert all(len(line.split()) > 3 for line in shown.splitlines())


def test_the_demo_is_one_command_with_its_settings(monkeypatch):
    *installing, line = make("--dry-run", "demo").splitlines()
    assert not any("/ovseg " in other for other in installing)
    check_ovseg(shlex.split(line)[1:], monkeypatch)
    assert shlex.split(line) == [".venv/bin/ovseg", "demo", "--config", "flows/configs/demo.toml"]
