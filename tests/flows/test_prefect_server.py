"""Which server a run uses: the one that ``ovseg ui`` announces, if it lives and answers in time."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from flows.prefect_server import announced, announced_server

ROOT = Path(__file__).parents[2]


class Health(BaseHTTPRequestHandler):
    """Says that it is well, as Prefect does, from the second question on."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if len(self.asked) > 1 else 503)
        self.end_headers()
        self.wfile.write(b"true")

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Say nothing."""


@contextmanager
def starting_server() -> Iterator[str]:
    Health.asked = []
    with HTTPServer(("127.0.0.1", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def test_a_server_that_is_starting_is_waited_for(tmp_path: Path) -> None:
    with starting_server() as url, announced(tmp_path, url):
        assert announced_server(tmp_path, wait_s=60) == url
    assert Health.asked == ["/api/health"] * 2
    assert announced_server(tmp_path, wait_s=60) is None  # it is announced no more


def test_a_server_that_does_not_answer_in_time_is_none(tmp_path: Path) -> None:
    with starting_server() as url, announced(tmp_path, url):
        assert announced_server(tmp_path, wait_s=0) is None


ANNOUNCING = """
import pathlib, sys
from flows.prefect_server import announced
with announced(pathlib.Path(sys.argv[1]), "http://127.0.0.1:9/api"):
    print("announced", flush=True)
    input()
"""


def test_a_server_that_was_killed_is_none_also_when_its_number_is_taken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    monkeypatch.setattr("time.sleep", looks.append)
    command = [sys.executable, "-c", ANNOUNCING, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"announced\n"
        assert announced_server(tmp_path, wait_s=0.5) is None
        assert looks  # it was waited for, for it lives
        looks.clear()
        process.kill()
    assert announced_server(tmp_path, wait_s=600) is None
    path = tmp_path / "server.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pid": os.getppid()}))
    assert announced_server(tmp_path, wait_s=600) is None
    assert not looks


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"api_url": "http://127.0.0.1:9/api", "pid": "x"}',
        '{"api_url": "http://127.0.0.1:9/api", "pid": 1}',
    ],
)
def test_an_announcement_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    assert announced_server(tmp_path, wait_s=60) is None


TALKATIVE = """
import sys
from flows import prefect_server
def serve(listener, runs):
    sys.stdout.write("x" * 1_000_000)
    sys.stdout.flush()
prefect_server.serve_prefect = serve
prefect_server.main()
"""


def test_a_server_may_say_more_than_its_address_though_nobody_listens() -> None:
    environment = os.environ | {"OVSEG_SERVED_RUNS": "runs"}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", TALKATIVE], cwd=ROOT, env=environment, **streams) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"http://127.0.0.1:")
        assert process.wait(timeout=200) == 0
