"""What the flow costs: 1,000 finished units, 1,000 trivial ones beside plain loops over them, 1,000 bare task runs."""

import os
import tempfile
import time
from pathlib import Path

import psutil

import pipeline.dataflow
from flows.logging_setup import configure_logging
from flows.prefect_server import prefect_home, prefect_server, set_prefect_environment
from pipeline.executors import InlineExecutor
from pipeline.settings import Settings
from pipeline.shard_runner import run_stage
from pipeline.stages import is_complete
from tests.flows import flow_stages
from tests.flows.flow_stages import Plan, small_dataflow
from tests.pipeline.runner_jobs import WriteFiles, planned

UNITS = 1000
JOB = WriteFiles(suffixes=("bin",))


def seconds_since(start: float) -> float:
    return time.perf_counter() - start


def plain_loop(runs: Path) -> float:
    """Make and commit the units in a bare loop."""
    artifact = planned(runs, UNITS)
    with artifact.writing():
        start = time.perf_counter()
        for unit in artifact.description.units:
            JOB.run("state", artifact, unit)
        return seconds_since(start)


def shard_runner(runs: Path) -> float:
    start = time.perf_counter()
    run_stage(JOB, planned(runs, UNITS))
    return seconds_since(start)


def through_the_flow(settings: Settings) -> float:
    from flows.ovseg_flow import run_flow

    start = time.perf_counter()
    run_flow(settings, "prepare", "prepare")
    return seconds_since(start)


def bare_task_runs(settings: Settings, runs: Path) -> str:
    """Show units that do nothing as task runs, and say what that costs until the server has received them all."""
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.events.worker import EventsWorker

    from flows.stage_board import StageBoard
    from flows.unit_tasks import TaskRunExecutor

    artifact, board = planned(runs, UNITS), StageBoard(small_dataflow(settings), "prepare")
    units = artifact.description.units

    @flow(name="bare task runs", persist_result=False)
    def run_units() -> None:
        for _ in TaskRunExecutor(InlineExecutor(), artifact, settings.flow, board).outcomes(len, units):
            pass

    (server,) = psutil.Process().children()
    with get_client(sync_client=True) as client:
        shown_before = client.request("POST", "/task_runs/count", json={}).json()
        start, cpu, server_cpu = time.perf_counter(), time.process_time(), sum(server.cpu_times()[:2])
        run_units()
        EventsWorker.drain_all(timeout=60)
        run_s, cpu_s = seconds_since(start), time.process_time() - cpu
        while client.request("POST", "/task_runs/count", json={}).json() < shown_before + UNITS:
            time.sleep(0.2)
    shown_s, server_s = seconds_since(start), sum(server.cpu_times()[:2]) - server_cpu
    return (
        f"{UNITS} units that do nothing, as task runs: {run_s:.1f} s ({cpu_s:.1f} CPU-s); the pages show all after "
        f"{shown_s:.1f} s (the server's {server_s:.1f} CPU-s)"
    )


def look(settings: Settings) -> float:
    """Check that all is done, as ``ovseg run`` does before it starts anything."""
    start = time.perf_counter()
    assert is_complete(pipeline.dataflow.dataflow(settings), "prepare")
    return seconds_since(start)


def main() -> None:
    configure_logging("error")  # else Prefect writes to the terminal
    pipeline.dataflow.dataflow = small_dataflow
    flow_stages.CURRENT = Plan(units=UNITS, job=JOB)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory).absolute()
        settings = Settings(name="bench", runs_dir=folder / "flow")
        set_prefect_environment(prefect_home(folder), server_start_limit_s=300)
        os.environ.pop("PREFECT_API_URL", None)
        start = time.perf_counter()
        with prefect_server(prefect_home(folder), runs=folder, start_limit_s=300):
            started_s = seconds_since(start)
            import flows.ovseg_flow  # noqa: F401 - not to be timed

            plain_s, runner_s = plain_loop(folder / "plain"), shard_runner(folder / "runner")
            flow_s = through_the_flow(settings)
            bare = bare_task_runs(settings, folder / "bare")
            done_s, look_s = through_the_flow(settings), look(settings)
    print(f"Prefect's server on a fresh database: {started_s:.1f} s")
    print(f"{UNITS} trivial units to do, ms per unit: plain loop {1e3 * plain_s / UNITS:.1f}, ", end="")
    print(f"shard runner {1e3 * runner_s / UNITS:.1f}, flow {1e3 * flow_s / UNITS:.1f} ({flow_s / plain_s:.1f}x)")
    print(bare)
    print(f"{UNITS} units that are done: ovseg run looks for {look_s:.2f} s, a flow run of it takes {done_s:.2f} s")


if __name__ == "__main__":
    main()
