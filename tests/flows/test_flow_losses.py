"""The flow as a process that loses what it leans on: Prefect's server, a worker of Dask, Dask's scheduler."""

import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import Popen

import psutil
import pytest

from tests.flows.flow_process import UNITS, command_of, done_units, flow_command, group, paused, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # each starts processes that import torch, Prefect and Dask


def server_of(process: Popen[str]) -> psutil.Process:
    """Find the Prefect server that a flow started."""
    (server,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "flows.prefect_server" in command_of(child)
    ]
    return server


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_a_killed_server_ends_the_run_and_a_killed_run_its_server(
    settings_file: Path, own_server: dict[str, str], finish: Callable[[], list[str]], reference: list[str]
) -> None:
    # Each of Prefect's calls would be tried again twice, 55 s in all.
    environment = {**paused(0.3), **own_server, "PREFECT_CLIENT_MAX_RETRIES": "0"}
    with group(flow_command(settings_file), **environment) as process:
        wait_until(lambda: done_units(settings_file) >= 1, process=process)
        server = server_of(process)
        server.kill()
        _, printed = process.communicate(timeout=600)
        assert process.returncode == 1, printed
        assert "ovseg: Prefect's server: does not answer any more" in printed
        assert "what the stages made is kept, run the same command to go on" in printed
        assert "Traceback" not in printed
    (next(settings_file.parent.glob("runs/test/*/shard-00007.json"))).unlink()
    with group(flow_command(settings_file), **environment) as process:
        wait_until(lambda: done_units(settings_file) >= UNITS, process=process)
        server = server_of(process)
        process.kill()
        wait_until(lambda: has_ended(server), limit_s=300)
    assert finish() == reference


def test_a_server_that_is_not_there_is_named(settings_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        url = f"http://127.0.0.1:{other.getsockname()[1]}/api"
    with group(flow_command(settings_file), PREFECT_API_URL=url) as process:
        _, printed = process.communicate(timeout=600)
    assert process.returncode == 1, printed
    assert f"ovseg: Prefect's server: Failed to reach API at {url}" in printed
    assert "start it there, or correct PREFECT_API_URL" in printed
    assert "Traceback" not in printed


def address_in(scheduler_file: Path) -> str | None:
    """Read a scheduler's address, as soon as the scheduler has written it down."""
    text = scheduler_file.read_text() if scheduler_file.exists() else ""
    address = re.search(r"tcp://127\.0\.0\.1:\d+", text)
    return address[0] if address else None


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[Popen[str]]]]:
    """Start a scheduler and workers as a user does by hand; yields its address and all processes, scheduler first."""
    dask = [sys.executable, "-m", "dask"]
    file = folder / "scheduler.json"
    quiet = {"DASK_LOGGING__DISTRIBUTED": "error"}
    with ExitStack() as stack:
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        processes = [stack.enter_context(group([*scheduler, "--scheduler-file", str(file)], **quiet))]
        wait_until(lambda: address_in(file) is not None)
        worker = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        processes += [stack.enter_context(group(worker, **quiet)) for _ in range(workers)]
        yield address_in(file) or "", processes


def test_a_cluster_started_by_hand_loses_a_worker_and_then_its_scheduler(
    prefect_api: str, settings_file: Path, finish: Callable[[], list[str]], reference: list[str]
) -> None:
    log = settings_file.parent / "calls"
    with cluster(settings_file.parent, workers=2) as (address, (scheduler, victim, _)):
        options = ("--set", f"dask.address={address}", "--set", "dask.connect_limit_s=2000")
        with group(flow_command(settings_file, *options), **paused(0.4), TEST_LOG=str(log)) as process:
            wait_until(lambda: done_units(settings_file) >= 1, process=process)
            time.sleep(0.3)  # each worker is in the middle of a unit, which takes 1.6 s
            victim.kill()
            before = done_units(settings_file)
            wait_until(lambda: done_units(settings_file) >= before + 2, process=process)
            assert process.poll() is None
            scheduler.kill()
            _, printed = process.communicate(timeout=600)  # less than the client would look for the scheduler
        assert process.returncode == 1, printed
        assert "dask: the scheduler has gone away" in printed
        assert "it is tried again" not in printed
        assert "Dask dashboard: http://" in printed
        assert "Traceback" not in printed
        assert done_units(settings_file) < UNITS
    assert finish() == reference
