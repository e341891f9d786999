"""Runs the flow as a process, and reports how far it has come."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from storage_schemas.artifact import artifacts_below

ROOT = Path(__file__).parents[2]
UNITS = 8


def digests(runs: Path) -> list[str]:
    return sorted(artifact.manifest().digest() for artifact in artifacts_below(runs))


@contextmanager
def group(command: list[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process group of its own, which does not outlive the block."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def command_of(process: psutil.Process) -> list[str]:
    """Read the words a process was started with; none where it has just ended."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


def flow_command(settings_file: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.flows.flow_program", "run", "--config", str(settings_file), *options]


def paused(pause_s: float) -> dict[str, str]:
    return {"TEST_UNITS": str(UNITS), "TEST_PAUSE_S": str(pause_s)}


def done_units(settings_file: Path) -> int:
    """Count the units of all stages that have a sidecar."""
    return len(list(settings_file.parent.glob("runs/test/*/shard-*.json")))


def wait_until(
    holds: Callable[[], bool],
    limit_s: float = 600.0,
    interval_s: float = 0.01,
    process: subprocess.Popen[str] | None = None,
) -> None:
    """Wait until something holds; not when the process that is to bring it about has ended."""
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        if process is not None and process.poll() is not None and not holds():
            message = f"it ended with {process.returncode}: {process.communicate()[1]}"
            raise AssertionError(message)
        time.sleep(interval_s)
