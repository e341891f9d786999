"""One Prefect server for all tests of the flow, which is started when the first of them wants it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server of Prefect, name it in the environment, and yield its API's address."""
    from flows.prefect_environment import prefect_home, set_prefect_environment
    from flows.prefect_server import prefect_server

    before = dict(os.environ)
    os.environ.pop("PREFECT_API_URL", None)
    os.environ.pop("PREFECT_HOME", None)
    home = prefect_home(tmp_path_factory.mktemp("prefect"))
    set_prefect_environment(home, server_start_limit_s=280)
    with prefect_server(home, start_limit_s=280) as url:
        yield url
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    """Write settings that need nothing."""
    path = tmp_path / "settings.toml"
    path.write_text(
        f'name = "trial"\nruns_dir = "{tmp_path / "runs"}"\n[flow]\nretry_delay_s = 0.2\nserver_start_limit_s = 280\n'
    )
    return path
