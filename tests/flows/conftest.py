"""One Prefect server for all tests of the flow, which is started when the first of them wants it."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flows.flow_process import UNITS, digests


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of Prefect, name it in the environment, and yield its API's address."""
    from flows.prefect_server import prefect_home, prefect_server, set_prefect_environment

    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.pop("PREFECT_HOME", None)
    home = prefect_home(tmp_path_factory.mktemp("prefect"))
    set_prefect_environment(home, server_start_limit_s=600)
    with prefect_server(home, start_limit_s=600) as url:
        yield url
    os.environ.clear()
    os.environ.update(before)


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
