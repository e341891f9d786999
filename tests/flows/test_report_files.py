"""Which files the server of Prefect's pages gives away: reports below the runs directory, and nothing else."""

import asyncio
import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest

from flows.local_server import AllowedHosts, digest_of_place
from flows.report_files import ReportFiles


async def pages(scope: Any, receive: Any, send: Any) -> None:
    """Stand where Prefect's own pages are."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"the pages"})


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    runs = tmp_path / "runs"
    for name in ("reports/demo-1/report.html", "prefect/notes.txt", "pairs/demo-2/card/contact_sheet.png"):
        (runs / name).parent.mkdir(parents=True)
        (runs / name).write_bytes(b"<b>what is in it</b>")
    (runs / "reports/demo-1/report.md").write_text("# Übersicht")
    (runs / "pairs/demo-2/shard-00000.tar").write_bytes(b"-" * 1234)
    (runs / "pairs/demo-2/naïve <b> 100%#?.svg").write_text("<svg/>")
    (runs / ".models").mkdir()
    (runs / ".models/a.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "runs-other").mkdir()
    (tmp_path / "runs-other/secret.txt").write_text("secret")
    (runs / "out.txt").symlink_to(tmp_path / "secret.txt")
    (runs / "away").symlink_to(tmp_path / "runs-other")
    os.mkfifo(runs / "pipe.txt")
    return runs


def asked(runs: Path, path: str, method: str = "GET", **headers: str) -> httpx.Response:
    """Ask as uvicorn passes it on: unlike browsers and clients it leaves dots in the path."""
    app = AllowedHosts(ReportFiles(pages, runs=runs, private=[runs / "prefect"]))
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()  # the browser stays, and says no more

    raw = [(name.lower().encode(), value.encode()) for name, value in ({"Host": "127.0.0.1:4200"} | headers).items()]
    scope = {"type": "http", "method": method, "path": unquote(path), "raw_path": path.encode(), "headers": raw}
    asyncio.run(app(scope, receive, send))
    body = b"".join(message.get("body", b"") for message in sent[1:])
    return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)


def test_reports_are_shown_without_any_right_for_their_scripts(runs: Path) -> None:
    shown = asked(runs, "/files/reports/demo-1/report.html")
    assert (shown.status_code, shown.text) == (200, "<b>what is in it</b>")
    assert shown.headers["content-type"] == "text/html; charset=utf-8"
    policy = shown.headers["content-security-policy"].split("; ")
    assert "default-src 'none'" in policy
    assert not [rule for rule in policy if rule.startswith(("script-src", "connect-src"))]
    assert shown.headers["x-content-type-options"] == "nosniff"
    assert shown.headers["x-ovseg-runs"] == digest_of_place(runs)
    text = asked(runs, "/files/reports/demo-1/report.md")
    assert (text.headers["content-type"], text.text) == ("text/plain; charset=utf-8", "# Übersicht")
    picture = asked(runs, "/files/pairs/demo-2/card/contact_sheet.png", "HEAD")
    assert (picture.headers["content-type"], picture.content) == ("image/png", b"")


def test_folders_are_listed_with_links_to_what_can_be_shown(runs: Path) -> None:
    listed = asked(runs, "/files/pairs/demo-2/").text
    assert '<a href="card/">card/</a>' in listed
    assert 'href="na%C3%AFve%20%3Cb%3E%20100%25%23%3F.svg">naïve &lt;b&gt; 100%#?.svg</a>' in listed
    assert "shard-00000.tar</td><td>1,234 bytes" in listed
    assert asked(runs, "/files/pairs/demo-2/na%C3%AFve%20%3Cb%3E%20100%25%23%3F.svg").text == "<svg/>"
    top = asked(runs, "/files/").text
    assert all(f'<a href="{name}/">' in top for name in ("reports", "pairs"))
    assert not [name for name in ("prefect", ".models", "out.txt", "away", "secret") if name in top]
    moved = asked(runs, "/files/pairs/demo-2")
    assert (moved.status_code, moved.headers["location"]) == (307, "/files/pairs/demo-2/")


@pytest.mark.parametrize(
    "path",
    [
        *("/files/../secret.txt", "/files/%2e%2e/secret.txt", "/files/reports/..%2f..%2f..%2fsecret.txt"),
        *("/files/..%5csecret.txt", "/files//etc/passwd", "/files/%2fetc%2fpasswd", "/files/../runs-other/secret.txt"),
        *("/files/out.txt", "/files/away/", "/files/away/secret.txt", "/files/.models/a.json", "/files/.models/"),
        *("/files/prefect/", "/files/prefect/notes.txt", "/files/reports/../prefect/notes.txt", "/files/pipe.txt"),
        *("/files/pairs/demo-2/shard-00000.tar", "/files/absent.html", "/files/%00", "/files/" + "x" * 4000),
        *("/files/%ff.txt", "/files/reports/demo-1/report.html%0a"),
    ],
)
def test_nothing_else_of_this_machine_is_given_away(path: str, runs: Path) -> None:
    refused = asked(runs, path)
    assert refused.status_code == 404
    assert "secret" not in refused.text
    assert "what is in it" not in refused.text


def test_nothing_can_be_written_and_other_pages_are_not_answered(runs: Path) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert asked(runs, "/files/reports/demo-1/report.html", method).status_code == 405
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        assert asked(runs, "/files/reports/demo-1/report.html", **headers).status_code == 403


@pytest.mark.parametrize("path", ["/", "/runs", "/filesystem", "/api/files/"])
def test_all_other_addresses_are_prefects(path: str, runs: Path) -> None:
    assert asked(runs, path).text == "the pages"


def test_a_runs_directory_that_is_not_there_yet_is_no_error(tmp_path: Path) -> None:
    assert asked(tmp_path / "runs", "/files/").status_code == 404
