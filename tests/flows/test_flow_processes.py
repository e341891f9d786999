"""The flow as a process, killed."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.flows.flow_process import UNITS, done_units, flow_command, group, paused, wait_until

pytestmark = pytest.mark.timeout(900)  # each starts processes that import torch and Prefect


@pytest.mark.slow
def test_a_flow_killed_at_random_moments_ends_with_the_same_digests(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str]
) -> None:
    chance = random.Random(9)
    for _ in range(2):
        with group(flow_command(settings_file), **paused(0.1)) as process:
            before = done_units(settings_file)
            wait_until(lambda before=before: done_units(settings_file) > before)
            time.sleep(chance.uniform(0.0, 0.3))
            process.kill()
            assert process.wait() == -signal.SIGKILL
    assert 2 <= done_units(settings_file) < UNITS + 2
    assert finish() == reference
