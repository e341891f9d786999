"""Prefect's pages after a run, in a headless browser: runs, tasks, artifacts with their pictures."""

import ipaddress
import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import pytest

from flows.command import main
from tests.flows import flow_stages
from tests.flows.flow_stages import Plan
from tests.flows.photo_app.browser import Page, chromium, open_browser
from tests.flows.prefect_pages import Pages

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(chromium() is None, reason="no Chromium on PATH; install Debian's package chromium"),
]


@pytest.fixture(scope="module")
def pages(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Pages:
    """Run the two small stages once."""
    folder, known = tmp_path_factory.mktemp("run"), Pages(prefect_api)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.dataflow.dataflow", flow_stages.small_dataflow)
        patch.setattr(flow_stages, "CURRENT", Plan())
        assert main(["run", "--config", str(settings_in(folder))]) == 0
    return known


def settings_in(folder: Path) -> Path:
    """Write settings of the runs directory whose files the server shows."""
    path, runs = folder / "settings.toml", Path(os.environ["PREFECT_HOME"]).parent
    path.write_text(f'name = "paged"\nruns_dir = "{runs}"\n')
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with open_browser(tmp_path_factory.mktemp("browser")) as page:
        page.resize(1400, 1000)
        yield page


def shows(browser: Page, *texts: str) -> bool:
    for text in texts:
        browser.wait_for(f"document.body.innerText.includes({text!r})")
    return True


def test_the_pages_show_runs_tasks_and_artifacts(pages: Pages, browser: Page) -> None:
    address, runs = pages.api.removesuffix("/api"), pages.flow_runs()
    browser.open(f"{address}/runs/flow-run/{runs['paged']['id']}")
    assert shows(browser, "paged", "Completed", "Logs")
    browser.open(f"{address}/runs/flow-run/{runs['prepare paged']['id']}")
    assert shows(browser, "prepare paged", "3 Task runs", "Task Runs")
    leaf = "[...document.querySelectorAll('*')].find(e => !e.children.length && e.textContent.trim() === 'Task Runs')"
    browser.run(f"{leaf}.click()")
    assert shows(browser, *(f"test small shard-0000{number}" for number in range(3)))
    shown = pages.artifacts(runs["evaluate paged"])
    browser.open(f"{address}/artifacts/artifact/{shown['evaluate-units']['id']}")
    assert shows(browser, "skipped", "rows not ok", "finished")
    browser.open(f"{address}/artifacts/artifact/{shown['test-small-shard-00000-sheet']['id']}")
    picture = "document.querySelector('img[src^=\"data:image/png\"]')"
    assert browser.wait_for(f"{picture} !== null && {picture}.naturalWidth") == 1
    browser.open(f"{address}/artifacts/artifact/{shown['test-small-shard-00000-card']['id']}")
    assert shows(browser, "All is well")


def test_links_lead_to_the_reports_and_their_folder(pages: Pages, browser: Page) -> None:
    address, runs = pages.api.removesuffix("/api"), pages.flow_runs()
    of_run, of_stage = pages.artifacts(runs["paged"]), pages.artifacts(runs["evaluate paged"])
    for artifact, link, shown in (
        (of_stage["test-small-links"], "shard-00000.report.html", "All scores are here"),
        (of_run["run-reports"], "shard-00000.report.html", "All scores are here"),
        (of_stage["test-small-links"], "small-", "shard-00000.sheet.png"),
    ):
        browser.open(f"{address}/artifacts/artifact/{artifact['id']}")
        found = (
            f"[...document.querySelectorAll('a[href*=\"/files/\"]')].find(each => each.innerText.includes({link!r}))"
        )
        browser.wait_for(f"{found} !== undefined")
        assert browser.run(f"{found}.href").startswith(f"{address}/files/test/small-")
        browser.run(f"{found}.removeAttribute('target')")  # the tab that is looked at
        browser.run(f"{found}.click()")
        browser.wait_for("location.pathname.startsWith('/files/')")
        assert shows(browser, shown)
    browser.run("[...document.querySelectorAll('a')].find(each => each.innerText.includes('sheet.png')).click()")
    assert browser.wait_for("document.images.length && document.images[0].naturalWidth") == 1


def test_the_pages_ask_nobody_else(browser: Page) -> None:
    asked = {urlsplit(request).hostname for request in browser.requests if not re.match("(data|blob|about):", request)}
    assert asked == {"127.0.0.1"}
    assert ipaddress.ip_address("127.0.0.1").is_loopback


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_the_api_answers_no_page_of_another_address(prefect_api: str, headers: dict[str, str]) -> None:
    own = prefect_api.removesuffix("/api")
    answered = httpx.get(f"{prefect_api}/health", headers={"Origin": own})
    assert (answered.status_code, answered.headers["access-control-allow-origin"]) == (200, own)
    refused = httpx.delete(f"{prefect_api}/flow_runs/{uuid4()}", headers=headers)
    assert refused.status_code == 403
    assert "access-control-allow-origin" not in refused.headers
