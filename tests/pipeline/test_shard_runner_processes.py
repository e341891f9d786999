"""Runs in processes of their own: killed, interrupted, and two at a time on one artifact."""

import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipeline.shard_runner import Limits, run_stage
from storage_schemas.errors import HeldError
from tests.pipeline.runner_jobs import WriteFiles, believed_falsely, planned, snapshot

ROOT = Path(__file__).parents[2]
UNITS = 8  # the program's default


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return snapshot(run_stage(WriteFiles(), planned(tmp_path_factory.mktemp("reference"), UNITS)).artifact.directory)


@contextmanager
def program(runs: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Run the program in a process group of its own, which does not outlive the block."""
    command = [sys.executable, "-m", "tests.pipeline.runner_program", str(runs), *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for left in group_of(process.pid):
            left.kill()
        process.communicate()


def group_of(group: int) -> list[psutil.Process]:
    """List the living processes of a process group."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    return found


def eventually(holds: Callable[[], bool], limit_s: float = 200.0) -> bool:
    """Wait until something holds; return whether it came to hold in time."""
    end = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def lines_until(process: subprocess.Popen[str], count: int) -> list[str]:
    """Read so many lines of a program's output, fewer if it ends before."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if len(lines) == count:
            break
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "kills", "longest_s"), [(0, 15, 0.5), (2, 5, 1.5)])
def test_a_run_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path: Path, workers: int, kills: int, longest_s: float
) -> None:
    units, runs = 40, tmp_path / "runs"
    reference = snapshot(run_stage(WriteFiles(), planned(tmp_path / "reference", units)).artifact.directory)
    chance = random.Random(20)
    killed = 0
    for kill in range(kills):
        with program(runs, f"--units={units}", f"--workers={workers}", "--pause-s=0.05") as process:
            lines_until(process, 1 + kill % 2)  # from the start, or from the first unit on
            time.sleep(chance.uniform(0.0, longest_s))
            process.send_signal(signal.SIGKILL)
            killed += process.wait() == -signal.SIGKILL
        assert believed_falsely(planned(runs, units), reference) == []
    assert killed >= kills // 2
    with program(runs, f"--units={units}", "--pause-s=0", f"--workers={workers}") as process:
        assert process.wait() == 0
    artifact = planned(runs, units)
    assert snapshot(artifact.directory) == reference
    artifact.manifest()


@pytest.mark.slow
def test_workers_of_a_killed_driver_end_by_themselves(tmp_path: Path, reference: dict[str, bytes]) -> None:
    with program(tmp_path, "--workers=2", "--pause-s=0.5") as process:
        begun, first_unit = lines_until(process, 2)
        assert begun == "begun"
        assert first_unit in {"shard-00000", "shard-00001"}  # two workers race for the first place
        group = process.pid
        assert len(group_of(group)) >= 3
        process.kill()
        process.wait()
        run_stage(WriteFiles(), planned(tmp_path, UNITS))
        directory = planned(tmp_path, UNITS).directory  # in which the workers may be writing still
        assert snapshot(directory, unfinished=False) == reference
        assert eventually(lambda: not group_of(group))
    assert snapshot(directory, unfinished=False) == reference
    assert planned(tmp_path, UNITS).status(deep=True).finished


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_says_in_one_line_what_is_saved(tmp_path: Path, reference: dict[str, bytes], workers: int) -> None:
    with program(tmp_path, f"--workers={workers}", "--pause-s=0.3") as process:
        assert len(lines_until(process, 3)) == 3
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate()
        assert process.returncode == 130
        assert re.fullmatch(
            r"WARNING pipeline\.shard_runner test small: interrupted; [2-7] of 8 units are saved, "
            r"run the same command to go on\n",
            errors,
        )
        assert eventually(lambda: not group_of(process.pid))
    assert believed_falsely(planned(tmp_path, UNITS), reference) == []
    assert run_stage(WriteFiles(), planned(tmp_path, UNITS)).units_skipped >= 2
    assert snapshot(planned(tmp_path, UNITS).directory) == reference


@pytest.mark.slow
def test_ctrl_c_while_workers_start_leaves_nothing_behind(tmp_path: Path) -> None:
    with program(tmp_path, "--workers=2", "--pause-s=1") as process:  # no unit ends before the Ctrl-C comes
        assert eventually(lambda: len(group_of(process.pid)) >= 3)
        os.killpg(process.pid, signal.SIGINT)
        assert process.stderr is not None
        assert "interrupted; 0 of 8 units are saved" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)  # the impatient user's second one, while the workers are stopped
        _, errors = process.communicate()
        assert (process.returncode, errors) == (130, "")
        assert eventually(lambda: not group_of(process.pid))


def test_a_second_process_learns_who_holds_the_artifact_or_waits(tmp_path: Path, reference: dict[str, bytes]) -> None:
    with program(tmp_path, "--pause-s=0.2") as holder:
        assert len(lines_until(holder, 2)) == 2
        with pytest.raises(HeldError, match=rf"held by process {holder.pid} on {re.escape(socket.gethostname())}"):
            run_stage(WriteFiles(), planned(tmp_path, UNITS))
        with pytest.raises(HeldError, match=r"after 0.1 s of waiting; wait for it or stop it"):
            run_stage(WriteFiles(), planned(tmp_path, UNITS), limits=Limits(wait_s=0.1))
        report = run_stage(WriteFiles(), planned(tmp_path, UNITS), limits=Limits(wait_s=60))
        assert holder.wait() == 0
    assert (report.units_done, report.units_skipped) == (0, UNITS)
    assert snapshot(report.artifact.directory) == reference


def test_the_lock_of_a_killed_holder_does_not_linger(tmp_path: Path, reference: dict[str, bytes]) -> None:
    with program(tmp_path, "--pause-s=0.3") as holder:
        assert len(lines_until(holder, 2)) == 2
        holder.kill()
        holder.wait()
        report = run_stage(WriteFiles(), planned(tmp_path, UNITS))
    assert report.units_skipped >= 1
    assert snapshot(report.artifact.directory) == reference
