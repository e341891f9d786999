"""Where units run: errors in starting workers, and a cluster that somebody else started."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipeline.errors import PipelineError
from pipeline.executors import Compute, InlineExecutor, executor_for
from pipeline.shard_runner import run_stage
from tests.pipeline.runner_jobs import WriteFiles, planned, snapshot

ROOT = Path(__file__).parents[2]
UNITS = 8


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def started(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run one of Dask's commands in a process group of its own, which does not outlive the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_cluster_started_by_hand_loses_a_worker_in_the_middle_of_a_unit(tmp_path: Path) -> None:
    reference = snapshot(run_stage(WriteFiles(), planned(tmp_path / "reference", UNITS)).artifact.directory)
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = ("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")
    worker = ("worker", address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--no-dashboard")
    artifact = planned(tmp_path / "runs", UNITS)
    with started(*scheduler), started(*worker), started(*worker) as victim:
        halves = artifact.directory

        def kill_the_victim() -> None:
            while not list(halves.glob(".tmp-shard-*")):
                time.sleep(0.01)
            time.sleep(0.2)  # both workers are in the middle of a unit, which takes 4 times as long
            os.killpg(victim.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_the_victim)
        killer.start()
        report = run_stage(WriteFiles(pause_s=0.2), artifact, compute=Compute(dask_address=address))
        killer.join()
        assert victim.wait() == -signal.SIGKILL
    assert report.units_done == UNITS
    assert snapshot(artifact.directory) == reference


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    compute = Compute(dask_address=address, connect_timeout_s=0.5)
    with (
        pytest.raises(PipelineError, match=rf"dask address '{address}': no scheduler answers within 0.5 s"),
        executor_for(compute),
    ):
        pass


def test_a_dashboard_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        compute = Compute(workers=1, dashboard_port=port)
        with (
            pytest.raises(PipelineError, match=rf"dashboard_port {port}: cannot be started .* choose another port"),
            executor_for(compute),
        ):
            pass


def test_without_workers_units_run_in_this_process() -> None:
    with executor_for(Compute()) as executor:
        assert isinstance(executor, InlineExecutor)
        outcomes = list(executor.outcomes(lambda unit: (unit, os.getpid()), ["a", "b"]))
    assert [outcome.result for outcome in outcomes] == [("a", os.getpid()), ("b", os.getpid())]


def test_an_error_of_one_unit_is_its_outcome() -> None:
    def odd(unit: str) -> str:
        if unit == "b":
            message = "odd one"
            raise ValueError(message)
        return unit

    with executor_for(Compute()) as executor:
        a, b, c = executor.outcomes(odd, ["a", "b", "c"])
    assert (a.result, c.result, b.result) == ("a", "c", None)
    assert isinstance(b.error, ValueError)


def test_the_environment_is_left_as_it_was() -> None:
    before = dict(os.environ)
    with executor_for(Compute(workers=1)) as executor:
        (outcome,) = executor.outcomes(os.path.basename, ["x/y"])
    assert outcome.result == "y"
    assert dict(os.environ) == before
