"""The make targets: help is the default, every target explains itself, the demo is one command."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.commands import check_ovseg
from tools import install_torch

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


@pytest.fixture
def stubbed_pip(tmp_path, monkeypatch):
    """Run `tools/install_torch.py` with a pip that writes its arguments to a file and does as it is told."""
    (tmp_path / "pip").mkdir()
    (tmp_path / "pip" / "__init__.py").touch()
    (tmp_path / "pip" / "__main__.py").write_text(
        "import os, pathlib, sys\n"
        "pathlib.Path(os.environ['PIP_CALLS']).open('a').write(' '.join(sys.argv[1:]) + '\\n')\n"
        "if os.environ['PIP_FAILS']:\n"
        "    sys.exit('a warning\\nERROR: ' + os.environ['PIP_FAILS'])\n"
    )
    calls = tmp_path / "calls"
    monkeypatch.setattr(install_torch, "version", lambda _: "1.0")
    monkeypatch.setattr(sys, "platform", "linux")

    def install(*choice: str, driver: bool = False, fails: str = "") -> tuple[int, list[str]]:
        monkeypatch.setattr(install_torch, "has_driver", lambda: driver)
        for name, value in {"PYTHONPATH": str(tmp_path), "PIP_CALLS": str(calls), "PIP_FAILS": fails}.items():
            monkeypatch.setenv(name, value)
        calls.write_text("")
        return install_torch.main(list(choice)), calls.read_text().splitlines()

    return install


def test_torch_for_the_cpu_is_installed_where_no_driver_is(stubbed_pip, capsys):
    pins = dict(re.findall(r"^(torch|torchvision)==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    status, (call,) = stubbed_pip("auto")
    assert status == 0
    assert shlex.split(call)[-2:] == [f"torch=={pins['torch']}+cpu", f"torchvision=={pins['torchvision']}+cpu"]
    assert {"install", "--no-deps", "--index-url", "https://download.pytorch.org/whl/cpu"} <= set(shlex.split(call))
    assert f"torch {pins['torch']}: built for CPUs" in capsys.readouterr().out
    assert stubbed_pip("cpu", driver=True)[1] == [call]
    assert stubbed_pip("auto", driver=True) == (0, [])
    assert stubbed_pip("default") == (0, [])


def test_where_the_index_is_not_reached_the_default_build_follows(stubbed_pip, capsys):
    status, calls = stubbed_pip("auto", fails="No matching distribution found")
    assert (status, len(calls)) == (0, 1)
    printed = capsys.readouterr().err
    assert "No matching distribution found" in printed
    assert "the default build (3 GB) is installed" in printed
    assert stubbed_pip("cpu", fails="No matching distribution found")[0] == 1
    assert "TORCH=default" in capsys.readouterr().err


def test_a_torch_that_is_there_stays(stubbed_pip, monkeypatch):
    pinned = install_torch.pinned_versions()["torch"]
    monkeypatch.setattr(install_torch, "version", lambda _: f"{pinned}+cu130")
    assert stubbed_pip("auto") == (0, [])
    assert len(stubbed_pip("cpu")[1]) == 1
    monkeypatch.setattr(install_torch, "version", lambda _: f"{pinned}+cpu")
    assert stubbed_pip("cpu") == (0, [])


def test_an_unknown_build_is_refused(stubbed_pip, capsys):
    assert stubbed_pip("gpu") == (2, [])
    assert "TORCH: found 'gpu', one of auto, cpu, default is expected" in capsys.readouterr().err


def test_install_asks_for_torch_before_everything_else():
    steps = make("--dry-run", "--always-make", "install", "TORCH=cpu").splitlines()
    torch, everything = (next(n for n, step in enumerate(steps) if word in step) for word in ("install_torch", "[dev]"))
    assert torch < everything
    assert shlex.split(steps[torch]) == [".venv/bin/python", "tools/install_torch.py", "cpu"]
