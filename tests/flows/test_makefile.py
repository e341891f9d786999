"""The make targets: help is the default, every target explains itself, the demo prepares what its settings name."""

import re
import shlex
import subprocess
from pathlib import Path
from types import SimpleNamespace

from flows.command import main
from pipeline.settings import load_settings

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


def test_the_demo_prepares_what_its_settings_name(monkeypatch, tmp_path):
    prepared = []

    def remember(settings, *_, **__):
        prepared.append(settings)
        return SimpleNamespace(artifact=SimpleNamespace(directory=tmp_path))

    monkeypatch.chdir(tmp_path)  # the command makes the runs directory
    monkeypatch.setattr("pipeline.prepare.prepare.prepare", remember)
    lines = [line for line in make("--dry-run", "demo").splitlines() if "/ovseg prepare " in line]
    for line in lines:
        assert main(shlex.split(line)[1:]) == 0
    demo = load_settings(ROOT / "flows" / "configs" / "demo.toml")
    assert prepared == list(demo.datasets.values())
