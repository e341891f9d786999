"""The flow as a process: killed and interrupted, its server, Dask's workers and scheduler killed, without a network."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from flows.command import main
from pipeline.shard_runner import run_stage
from storage_schemas.artifact import artifacts_below
from tests.flows import flow_stages
from tests.flows.flow_stages import Plan, WriteReport
from tests.pipeline.runner_jobs import WriteFiles, planned

pytestmark = pytest.mark.timeout(900)  # each starts processes that import torch, and two a server, on a busy machine

ROOT = Path(__file__).parents[2]
UNITS = 8

# Laid into PYTHONPATH, it writes down each address outside this machine that a Python process looks up or connects to.
WATCH = """
import ipaddress, os, sys
def is_outside(host):
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host not in ("localhost", "")
def watch(event, arguments):
    host = None
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo" and arguments[0]:
        host = arguments[0] if isinstance(arguments[0], str) else arguments[0].decode()
    if host is not None and is_outside(host):
        with open(os.environ["TEST_OUTSIDE"], "a") as log:
            log.write(f"{event} {host}\\n")
sys.addaudithook(watch)
with open(os.environ["TEST_OUTSIDE"] + ".watched", "a") as log:
    log.write(" ".join(sys.orig_argv) + "\\n")
"""


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of both stages' manifests, made without Prefect."""
    runs = tmp_path_factory.mktemp("reference")
    first = run_stage(WriteFiles(), planned(runs, UNITS, of="first"))
    run_stage(WriteReport(), planned(runs, 2, of=f"second, of {first.manifest.digest()}"))
    return digests(runs)


@pytest.fixture
def finish(prefect_api: str, monkeypatch: pytest.MonkeyPatch, settings_file: Path) -> Callable[[], list[str]]:
    """Run the flow to its end in this process; returns the digests of what it made."""
    monkeypatch.setattr("pipeline.stages.STAGES", flow_stages.STAGES)
    monkeypatch.setattr(flow_stages, "CURRENT", Plan(units=UNITS))

    def run() -> list[str]:
        assert main(["run", "--config", str(settings_file)]) == 0
        return digests(settings_file.parent / "runs")

    return run


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


def flow_command(settings_file: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tests.flows.flow_program", "run", "--config", str(settings_file), *options]


def paused(pause_s: float) -> dict[str, str]:
    return {"TEST_UNITS": str(UNITS), "TEST_PAUSE_S": str(pause_s)}


def done_units(settings_file: Path) -> int:
    """Count the units of the first stage that have a sidecar."""
    return len(list(settings_file.parent.glob("runs/test/*/shard-*.json")))


def wait_until(holds: Callable[[], bool], limit_s: float = 280.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)


def server_of(process: subprocess.Popen[str]) -> psutil.Process:
    """Find the Prefect server that a flow started."""
    (server,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "flows.prefect_server_program" in child.cmdline()
    ]
    return server


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


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_ctrl_c_says_in_one_line_what_is_saved_and_how_to_go_on(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str], workers: int
) -> None:
    options = ("--set", f"compute.workers={workers}", "--log-level", "warning")
    with group(flow_command(settings_file, *options), **paused(0.3)) as process:
        wait_until(lambda: done_units(settings_file) >= 2)
        os.killpg(process.pid, signal.SIGINT)
        _, told = process.communicate(timeout=60)
        assert process.returncode == 130
    assert re.fullmatch(
        r"\S+ \S+ WARNING test small: interrupted; [0-7] of 8 units are saved, run the same command to go on\n", told
    ), told
    assert finish() == reference


@pytest.mark.slow
def test_the_server_of_a_killed_flow_ends_and_a_flow_outlives_no_killed_server(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str]
) -> None:
    without_server = {**paused(0.2), "PREFECT_API_URL": "", "PREFECT_HOME": str(settings_file.parent / "prefect")}
    with group(flow_command(settings_file), **without_server) as process:
        wait_until(lambda: done_units(settings_file) >= 1)
        server = server_of(process)
        process.kill()
        wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE, limit_s=30)
    with group(flow_command(settings_file), **without_server) as process:
        before = done_units(settings_file)
        wait_until(lambda: done_units(settings_file) > before)
        server_of(process).kill()
        _, told = process.communicate(timeout=250)
        assert process.returncode == 1, told
        assert "ovseg: Prefect's server: does not answer any more" in told
        assert "what the stages made is kept, run the same command to go on" in told
        assert "Traceback" not in told
    assert finish() == reference


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Start a scheduler and workers as a user does by hand; yields its address and all processes, scheduler first."""
    dask = [sys.executable, "-m", "dask"]
    file = folder / "scheduler.json"
    quiet = {"DASK_LOGGING__DISTRIBUTED": "error"}
    with ExitStack() as stack:
        scheduler = [*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"]
        processes = [stack.enter_context(group([*scheduler, "--scheduler-file", str(file)], **quiet))]
        wait_until(file.exists)
        worker = [*dask, "worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny", "--no-dashboard"]
        processes += [stack.enter_context(group(worker, **quiet)) for _ in range(workers)]
        yield re.search(r"tcp://127\.0\.0\.1:\d+", file.read_text())[0], processes


@pytest.mark.slow
def test_a_cluster_started_by_hand_loses_a_worker_and_then_its_scheduler(
    settings_file: Path, finish: Callable[[], list[str]], reference: list[str]
) -> None:
    with cluster(settings_file.parent, workers=2) as (address, (scheduler, victim, _)):
        options = ("--set", f"dask.address={address}", "--set", "dask.connect_limit_s=120")
        with group(flow_command(settings_file, *options), **paused(0.4)) as process:
            wait_until(lambda: done_units(settings_file) >= 1)
            time.sleep(0.2)  # each worker is in the middle of a unit, which takes 1.6 s
            victim.kill()
            before = done_units(settings_file)
            wait_until(lambda: done_units(settings_file) >= before + 2)
            scheduler.kill()
            _, told = process.communicate(timeout=120)
        assert process.returncode == 2, told
        assert re.search(r"ovseg: dask: shard-\d+ is \w+, the scheduler has gone away; start it and run again", told), (
            told
        )
        assert "Dask dashboard: http://" in told
        assert "Traceback" not in told
        assert done_units(settings_file) < UNITS
    assert finish() == reference


@pytest.mark.slow
def test_without_a_network_a_run_speaks_to_this_machine_alone(settings_file: Path, reference: list[str]) -> None:
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("network namespaces are not permitted here")
    watch = settings_file.parent / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    outside = settings_file.parent / "outside.log"
    environment = {
        **paused(0.0),
        "PREFECT_API_URL": "",
        "PREFECT_HOME": str(settings_file.parent / "prefect"),
        "PYTHONPATH": str(watch),
        "TEST_OUTSIDE": str(outside),
    }
    alone = "ip link set lo up && exec " + " ".join(flow_command(settings_file, "--set", "compute.workers=1"))
    with group(["unshare", "-rn", "bash", "-c", alone], **environment) as process:
        _, told = process.communicate(timeout=600)
        assert process.returncode == 0, told
    assert not outside.exists(), outside.read_text()
    watched = Path(f"{outside}.watched").read_text()
    assert "flow_program" in watched
    assert "prefect_server_program" in watched
    assert not re.search("error|warning|telemetry|Traceback", told, re.IGNORECASE), told
    log = settings_file.parent / "prefect" / "server.log"
    assert not re.search("telemetry|api.prefect.io|Traceback", log.read_text(), re.IGNORECASE), log.read_text()
    assert digests(settings_file.parent / "runs") == reference
