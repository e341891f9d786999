"""The flow as a process in a network namespace that has no interface but the loopback."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.flow_process import digests, flow_command, group, paused
from tests.flows.outside_watch import OUTSIDE, WATCH


def namespaces_are_permitted() -> bool:
    """Return whether a process may have a network of its own, and start its loopback."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rn", "bash", "-c", "ip link set lo up"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(2400),  # it starts processes that import torch, and a server of Prefect
    pytest.mark.skipif(not namespaces_are_permitted(), reason="network namespaces are not permitted here"),
]

# Python imports it at its start from PYTHONPATH.
SITECUSTOMIZE = f"""{WATCH}
with open(os.environ["TEST_WATCHED"], "a") as log:
    log.write(" ".join(sys.orig_argv) + "\\n")
"""


@pytest.fixture
def watched(tmp_path: Path) -> dict[str, str]:
    """Lay out what watches Python processes; returns the environment that makes them load it."""
    folder = tmp_path / "watch"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    logs = {OUTSIDE: str(tmp_path / "outside.log"), "TEST_WATCHED": str(tmp_path / "watched.log")}
    return {"PYTHONPATH": str(folder), **logs}


def test_the_watch_sees_who_looks_elsewhere(watched: dict[str, str]) -> None:
    program = "import socket; socket.socket(type=socket.SOCK_DGRAM).connect(('192.0.2.7', 9))"
    with group(["unshare", "-rn", sys.executable, "-c", program], **watched) as process:
        process.communicate()
    assert Path(watched[OUTSIDE]).read_text() == "socket.connect 192.0.2.7\n"


def test_a_run_without_a_network_speaks_to_this_machine_alone(
    settings_file: Path, reference: list[str], watched: dict[str, str]
) -> None:
    command = flow_command(settings_file, "--set", "compute.workers=1")
    alone = f"ip link set lo up && exec {shlex.join(command)}"
    # Proxies that answer nothing: what speaks to this machine must not ask them, and a SOCKS one must not stop it.
    proxies = {
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
        "all_proxy": "socks5://127.0.0.1:9",
    }
    home = settings_file.parent / "prefect"
    own_server = {"PREFECT_API_URL": "", "PREFECT_HOME": str(home)}
    with group(["unshare", "-rn", "bash", "-c", alone], **paused(0.0), **own_server, **watched, **proxies) as process:
        _, printed = process.communicate(timeout=1200)
        assert process.returncode == 0, printed
    outside = Path(watched[OUTSIDE])
    assert not outside.exists(), outside.read_text()
    processes = Path(watched["TEST_WATCHED"]).read_text()
    assert "flow_program" in processes
    assert "flows.prefect_server" in processes
    assert "spawn_main" in processes  # Dask's worker
    assert not re.search("error|warning|telemetry|Traceback", printed, re.IGNORECASE), printed
    log = (home / "server.log").read_text()
    assert not re.search("telemetry|api.prefect.io|Traceback", log, re.IGNORECASE), log
    assert digests(settings_file.parent / "runs") == reference
