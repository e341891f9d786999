"""The block for an issue says what was run on what, and what came out."""

import subprocess
import sys
from pathlib import Path

import torch

from tests.gpu.report import Result, machine, markdown

ROOT = Path(__file__).parents[2]


def test_the_block_has_the_machine_and_a_line_per_test():
    block = markdown(
        {"torch": "2.14.1", "GPU": "1 x NVIDIA A100, 79.3 GiB"},
        [
            Result("test_parity.py::test_crops", "passed", {"max difference": 3.14159e-6, "crops": 8}),
            Result("test_memory.py::test_step", "failed", {"peak GiB": 81.25}, "assert 81.2 < 80 | per step"),
            Result("test_processes.py::test_ddp", "skipped", {}, "one GPU"),
        ],
    )
    assert block.splitlines() == [
        "### `make test-gpu`: 1 passed, 1 failed, 1 skipped",
        "",
        "* torch: 2.14.1",
        "* GPU: 1 x NVIDIA A100, 79.3 GiB",
        "",
        "| test | result | found |",
        "|---|---|---|",
        "| test_parity.py::test_crops | passed | max difference 3.14e-06; crops 8 |",
        "| test_memory.py::test_step | failed | peak GiB 81.2; assert 81.2 < 80 \\| per step |",
        "| test_processes.py::test_ddp | skipped | one GPU |",
    ]


def test_tests_that_are_skipped_for_one_reason_share_a_line():
    skipped = [Result(f"test_a.py::test_{number}", "skipped", {}, "no CUDA device") for number in range(3)]
    lines = markdown({}, [*skipped, Result("test_b.py::test_b", "passed")]).splitlines()
    assert lines[0] == "### `make test-gpu`: 1 passed, 3 skipped"
    assert lines[-2:] == ["| 3 tests | skipped | no CUDA device |", "| test_b.py::test_b | passed |  |"]


def test_without_cuda_the_report_says_so():
    facts = machine(torch.device("cuda"))
    assert facts["torch"].startswith(torch.__version__)
    if not torch.cuda.is_available():
        assert "torch sees no CUDA device" in facts["device"]
    assert machine(torch.device("cpu"))["device"] == "cpu"


def test_pytest_prints_the_block_with_results_figures_and_reasons(tmp_path):
    tests = tmp_path / "tests" / "gpu"
    tests.mkdir(parents=True)
    (tests / "test_three.py").write_text(
        "import pytest\n"
        "def test_one(found):\n    found('peak GiB', 1.25)\n"
        "def test_two(found):\n    found('images/s', 2.5)\n    assert 1 == 2, 'too many'\n"
        "@pytest.mark.skip('one GPU')\ndef test_three():\n    pass\n"
    )
    plugins = ["-p", "tests.conftest", "-p", "tests.gpu.conftest", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--device", "meta", "--rootdir", tmp_path, tests]
    ran = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    lines = ran.stdout.splitlines()
    assert "### `make test-gpu`: 1 passed, 1 failed, 1 skipped" in lines
    assert "| test_three.py::test_one | passed | peak GiB 1.25 |" in lines
    assert "| test_three.py::test_two | failed | images/s 2.5; AssertionError: too many |" in lines
    assert "| test_three.py::test_three | skipped | one GPU |" in lines
