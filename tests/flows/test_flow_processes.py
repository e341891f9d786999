"""The flow as a process: killed and interrupted."""

import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.flow_process import UNITS, done_units, flow_command, group, paused, wait_until

pytestmark = pytest.mark.timeout(2400)  # each starts processes that import torch and Prefect


@pytest.mark.slow
def test_a_flow_killed_at_random_moments_ends_with_the_same_digests(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str]
) -> None:
    chance = random.Random(9)
    for _ in range(2):
        with group(flow_command(settings_file), **paused(0.1)) as process:
            before = done_units(settings_file)
            wait_until(lambda before=before: done_units(settings_file) > before, process=process)
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL
    assert 2 <= done_units(settings_file) < UNITS + 2
    assert finish() == reference


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_says_in_one_line_what_is_saved_and_how_to_go_on(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str], workers: int
) -> None:
    options = ("--set", f"compute.workers={workers}", "--log-level", "warning")
    with group(flow_command(settings_file, *options), **paused(0.3)) as process:
        wait_until(lambda: done_units(settings_file) >= 2, process=process)
        before = done_units(settings_file)
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=600)
        assert process.returncode == 130, printed
    line = re.fullmatch(
        r"\S+ \S+ WARNING test small: interrupted; ([0-7]) of 8 units are saved, run the same command to go on\n",
        printed,
    )
    assert line is not None, printed
    assert int(line[1]) >= before
    assert finish() == reference


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_ends_the_wait_before_another_try(
    prefect_api: str, settings_file: Path, tmp_path: Path, workers: int
) -> None:
    options = ("--set", f"compute.workers={workers}", "--set", "flow.retry_delay_s=5000", "--log-level", "warning")
    failing = {"TEST_FAILS_AT": "shard-00000", "TEST_MARKS": str(tmp_path)}
    with group(flow_command(settings_file, *options), **paused(0), **failing) as process:
        assert process.stderr is not None
        again = next(line for line in process.stderr if "tried again" in line)
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=600)
        assert process.returncode == 130, printed
    assert "test small shard-00000: shard-00000: the cable is loose; it is tried again in 5000 s" in again
    assert re.fullmatch(r".* interrupted; [0-7] of 8 units are saved, run the same command to go on\n", printed), (
        printed
    )
