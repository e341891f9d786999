"""Which server a run uses: the one that ``ovseg ui`` announces, if it lives and answers in time."""

import json
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


def test_a_server_that_was_killed_is_none(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    (tmp_path / "server.json").write_text(json.dumps({"api_url": "http://127.0.0.1:9/api", "pid": process.pid}))
    assert announced_server(tmp_path, wait_s=60) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"api_url": "http://127.0.0.1:9/api", "pid": "x"}'])
def test_an_announcement_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "server.json").write_text(text)
    assert announced_server(tmp_path, wait_s=60) is None
