"""Where units run: errors in starting workers, and a cluster that somebody else started."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import cast

import pytest
from distributed import Client, LocalCluster

from pipeline.errors import PipelineError, StageError
from pipeline.executors import Compute, DaskExecutor, InlineExecutor, executor_for
from pipeline.shard_runner import run_stage
from tests.pipeline.runner_jobs import WriteFiles, planned, snapshot, watched

ROOT = Path(__file__).parents[2]
START_LIMIT_S = 120.0  # of processes on a busy machine


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


def started_scheduler(address: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return started("scheduler", "--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard")


def started_worker(address: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    return started("worker", address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1", "--no-dashboard")


@pytest.mark.slow
def test_a_cluster_started_by_hand_loses_a_worker_in_the_middle_of_a_unit(tmp_path: Path) -> None:
    units = 4
    reference = snapshot(run_stage(WriteFiles(), planned(tmp_path / "reference", units)).artifact.directory)
    address = f"tcp://127.0.0.1:{free_port()}"
    artifact, log = planned(tmp_path / "runs", units), tmp_path / "log"
    with started_scheduler(address), started_worker(address), started_worker(address) as victim:
        with Client(address, timeout=START_LIMIT_S, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=START_LIMIT_S)
        ended = threading.Event()

        def kill_the_victim() -> None:
            while not ended.wait(0.01):
                if len({path.name.split(".")[1] for path in artifact.directory.glob(".tmp-shard-*")}) == 2:
                    os.killpg(victim.pid, signal.SIGKILL)  # both workers are in the middle of a unit
                    return

        killer = threading.Thread(target=kill_the_victim)
        killer.start()
        compute = Compute(dask_address=address, connect_limit_s=START_LIMIT_S)
        try:
            report = run_stage(WriteFiles(pause_s=0.4, log=str(log)), artifact, compute=compute)
        finally:
            ended.set()
            killer.join()
        assert victim.wait() == -signal.SIGKILL
    assert report.units_done == units
    assert log.read_text().count("run ") == units + 1  # the unit that the victim had in hand was run again
    assert snapshot(artifact.directory) == reference


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_named_and_what_is_done_is_kept(tmp_path: Path) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    artifact = planned(tmp_path, 4)
    with started_scheduler(address) as scheduler, started_worker(address):

        def kill_the_scheduler(_unit: str) -> None:
            os.killpg(scheduler.pid, signal.SIGKILL)

        compute = Compute(dask_address=address, connect_limit_s=START_LIMIT_S)
        with pytest.raises(StageError, match=r"dask: the scheduler has gone away \(.+\); start it and run the same"):
            run_stage(WriteFiles(pause_s=0.1), artifact, compute=compute, hook=watched(kill_the_scheduler))
    assert 0 < run_stage(WriteFiles(), artifact).units_skipped < 4


@pytest.mark.slow
def test_a_question_to_a_scheduler_that_has_gone_away_does_not_wait_for_it_to_come_back() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    compute = Compute(dask_address=address, connect_limit_s=START_LIMIT_S)
    with (
        started_scheduler(address) as scheduler,
        started_worker(address),
        executor_for(compute) as executor,
    ):
        assert isinstance(executor, DaskExecutor)
        assert executor.threads() == 1
        os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.wait()
        time.sleep(0.5)  # so that a new connection is needed, as the client has seen that it lost the old one
        killed = time.monotonic()
        with pytest.raises(StageError, match=r"^dask: the scheduler has gone away \(connecting\); start it and run"):
            executor.threads()
        assert time.monotonic() - killed < START_LIMIT_S / 2


def test_a_scheduler_that_does_not_answer_is_named() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    compute = Compute(dask_address=address, connect_limit_s=0.5)
    with (
        pytest.raises(PipelineError, match=rf"dask address '{address}': no scheduler answers within 0.5 s"),
        executor_for(compute),
    ):
        pass


def test_a_server_that_is_no_scheduler_is_not_waited_for() -> None:
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        compute = Compute(dask_address=f"tcp://127.0.0.1:{server.server_port}", connect_limit_s=0.5)
        with (
            pytest.raises(
                PipelineError, match=r"no scheduler answers within 0.5 s \(.+\); start one, or correct the address"
            ),
            executor_for(compute),
        ):
            pass
        server.shutdown()


def test_a_scheduler_without_workers_is_named() -> None:
    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        compute = Compute(dask_address=address, connect_limit_s=0.5)
        with (
            pytest.raises(
                PipelineError, match=rf"{address}': 0 workers after 0.5 s, 1 are expected; start workers, or"
            ),
            executor_for(compute),
        ):
            pass


def test_ctrl_c_ends_the_wait_for_workers_and_the_caller_can_say_so() -> None:
    seen: list[str] = []

    @contextmanager
    def waiting() -> Iterator[None]:
        signal.raise_signal(signal.SIGINT)
        seen.append("held back until here")
        try:
            yield
        except KeyboardInterrupt:
            seen.append("seen")
            raise

    with LocalCluster(n_workers=0, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        compute = Compute(dask_address=cluster.scheduler_address, connect_limit_s=5000)
        with pytest.raises(KeyboardInterrupt), executor_for(compute, waiting=waiting):
            pass
    assert seen == ["held back until here", "seen"]


@pytest.mark.slow
def test_a_scheduler_that_goes_away_while_workers_are_waited_for_is_named() -> None:
    address = f"tcp://127.0.0.1:{free_port()}"

    @contextmanager
    def waiting() -> Iterator[None]:
        os.killpg(scheduler.pid, signal.SIGKILL)
        scheduler.wait()
        yield

    compute = Compute(dask_address=address, connect_limit_s=START_LIMIT_S)
    with (
        started_scheduler(address) as scheduler,
        pytest.raises(StageError, match=r"^dask: the scheduler has gone away \(.+\); start it and run the same"),
        executor_for(compute, waiting=waiting),
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


def test_no_unit_waits_on_a_worker_and_shares_the_blame_for_killing_it() -> None:
    taken: list[str] = []

    def units() -> Iterator[str]:
        for unit in ("a", "b"):
            taken.append(unit)
            yield unit

    for executor in (InlineExecutor(), DaskExecutor(cast("Client", QuietClient(after_first="running")))):
        taken.clear()
        outcomes = executor.outcomes(str, units())
        assert next(outcomes).unit == "a"
        assert taken == ["a"]
        outcomes.close()


class LateFuture:
    """A unit whose worker died when it was done: Dask makes it anew while its result is being asked for."""

    status = "finished"

    def __init__(self, client: "QuietClient") -> None:
        self.client, self.asked, self.released = client, 0, False

    def add_done_callback(self, function: Callable[["LateFuture"], None]) -> None:
        function(self)

    def result(self, timeout: float) -> str:
        self.asked += 1
        if self.asked == 1:
            self.client.status = self.client.after_first
            raise TimeoutError
        return "made anew"

    def release(self) -> None:
        self.released = True


class QuietClient:
    """A client of Dask that is connected, until the first result was waited for in vain."""

    status = "running"

    def __init__(self, after_first: str) -> None:
        self.after_first = after_first
        self.futures: list[LateFuture] = []

    def submit(self, *_arguments: object, pure: bool) -> LateFuture:
        assert not pure
        self.futures.append(LateFuture(self))
        return self.futures[-1]

    def cancel(self, futures: list[LateFuture], *, force: bool) -> None:
        assert force

    def nthreads(self, *, callback_timeout: float) -> dict[str, int]:
        assert callback_timeout > 0
        return {"worker": 1}


def test_a_result_that_is_made_anew_is_waited_for() -> None:
    client = QuietClient(after_first="running")
    (outcome,) = DaskExecutor(cast("Client", client)).outcomes(str, ["a"])
    assert (outcome.unit, outcome.result, outcome.error) == ("a", "made anew", None)
    (future,) = client.futures
    assert (future.asked, future.released) == (2, True)


def test_a_result_is_not_waited_for_when_the_scheduler_is_gone() -> None:
    client = QuietClient(after_first="closed")
    with pytest.raises(StageError, match=r"dask: the scheduler has gone away \(closed\)"):
        list(DaskExecutor(cast("Client", client)).outcomes(str, ["a"]))
