"""One Prefect server for all tests of the flow in a process, started by the first test that asks for it."""

import fcntl
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.flows.flow_process import UNITS, digests


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the first server of all test processes leaves its new database: making one takes 12 CPU-s."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    return shared / "empty-prefect.db"


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """Start a server of Prefect, name it in the environment, and yield its API's address."""
    from flows.prefect_server import prefect_home, prefect_server, set_prefect_environment

    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.pop("PREFECT_HOME", None)
    runs = tmp_path_factory.mktemp("prefect")
    home = prefect_home(runs)
    set_prefect_environment(home, server_start_limit_s=600)
    with empty_database.with_suffix(".lock").open("w") as lock, ExitStack() as stack:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if empty_database.exists():
            copy_database(empty_database, home)
        url = stack.enter_context(prefect_server(home, runs=runs, start_limit_s=600))
        if not empty_database.exists():
            # A plain copy would miss what SQLite still keeps beside the file.
            with (
                closing(sqlite3.connect(home / "prefect.db")) as made,
                closing(sqlite3.connect(empty_database)) as kept,
            ):
                made.backup(kept)
        fcntl.flock(lock, fcntl.LOCK_UN)
        yield url
    os.environ.clear()
    os.environ.update(before)


def copy_database(empty_database: Path, home: Path) -> None:
    """Spare a server that is to start on a home the making of its database."""
    home.mkdir(parents=True)
    shutil.copyfile(empty_database, home / "prefect.db")


@pytest.fixture
def own_server(settings_file: Path, prefect_api: str, empty_database: Path) -> dict[str, str]:
    """Return the environment in which a flow starts a server of its own, whatever the tests have."""
    del prefect_api  # it has left the database
    home = settings_file.parent / "prefect"
    copy_database(empty_database, home)
    return {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Write settings that need nothing."""
    path = tmp_path / "settings.toml"
    path.write_text(
        f'name = "trial"\nruns_dir = "{tmp_path / "runs"}"\n[flow]\nretry_delay_s = 0.2\nserver_start_limit_s = 600\n'
    )
    return path


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Digests of both stages' manifests, made without Prefect."""
    from pipeline.shard_runner import run_stage
    from tests.flows.flow_stages import WriteReport
    from tests.pipeline.runner_jobs import WriteFiles, planned

    runs = tmp_path_factory.mktemp("reference")
    first = run_stage(WriteFiles(), planned(runs, UNITS, of="first"))
    run_stage(WriteReport(), planned(runs, 2, of=f"second, of {first.manifest.digest()}"))
    return digests(runs)


@pytest.fixture
def finish(prefect_api: str, monkeypatch: pytest.MonkeyPatch, settings_file: Path) -> Callable[[], list[str]]:
    """Run the flow to its end in this process; returns the digests of what it made."""
    from flows.command import main
    from tests.flows import flow_stages

    monkeypatch.setattr("pipeline.dataflow.dataflow", flow_stages.small_dataflow)
    monkeypatch.setattr(flow_stages, "CURRENT", flow_stages.Plan(units=UNITS))

    def run() -> list[str]:
        assert main(["run", "--config", str(settings_file)]) == 0
        return digests(settings_file.parent / "runs")

    return run
