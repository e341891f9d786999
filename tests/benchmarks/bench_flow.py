"""What the flow costs: a look at 1,000 finished units, and 1,000 trivial units to do, beside plain loops over them."""

import os
import tempfile
import time
from pathlib import Path

import pipeline.dataflow
from flows.logging_setup import configure_logging
from flows.prefect_environment import prefect_home, set_prefect_environment
from flows.prefect_server import prefect_server
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
    from flows.flow_run import run_flow

    start = time.perf_counter()
    run_flow(settings, "prepare", "prepare")
    return seconds_since(start)


def look(settings: Settings) -> float:
    """Find out that all is done, as ``ovseg run`` does before it starts anything."""
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
        with prefect_server(prefect_home(folder), start_limit_s=300):
            started_s = seconds_since(start)
            import flows.flow_run  # noqa: F401 - not to be timed

            plain_s, runner_s = plain_loop(folder / "plain"), shard_runner(folder / "runner")
            flow_s = through_the_flow(settings)
            done_s, look_s = through_the_flow(settings), look(settings)
    print(f"Prefect's server on a fresh database: {started_s:.1f} s")
    print(f"{UNITS} trivial units to do, ms per unit: plain loop {1e3 * plain_s / UNITS:.1f}, ", end="")
    print(f"shard runner {1e3 * runner_s / UNITS:.1f}, flow {1e3 * flow_s / UNITS:.1f} ({flow_s / plain_s:.1f}x)")
    print(f"{UNITS} units that are done: ovseg run looks for {look_s:.2f} s, a flow run of it takes {done_s:.2f} s")


if __name__ == "__main__":
    main()
