"""Who a server of this machine answers: this machine's programs and its own pages, no page of somebody else."""

import asyncio
import os
import urllib.request
from typing import Any

import httpx
import pytest

from flows.local_server import LOOPBACK, AllowedHosts, reach_this_machine_directly
from flows.prefect_server import set_prefect_environment


async def answering(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"answered"})


def status(app: AllowedHosts, host: str, **headers: str) -> int:
    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:4200") as client:
            return await client.delete("/api/flow_runs/1", headers={"Host": host, **headers})

    return asyncio.run(ask()).status_code


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:4200", "LOCALHOST", "[::1]:4200", "127.0.0.1"])
def test_this_machines_programs_are_answered(host):
    assert status(AllowedHosts(answering), host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:4200",
        "127.0.0.1.evil.example",
        "192.0.2.7:4200",
        "localhost.",
        "[",
        "@localhost:x",
    ],
)
def test_other_names_are_refused_also_when_they_mean_this_machine(host):
    assert status(AllowedHosts(answering), host) == 403


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ("http://127.0.0.1:4200", 200),
        ("http://localhost:4200", 200),
        ("http://[::1]:4200", 200),
        ("http://evil.example", 403),
        ("https://evil.example:4200", 403),
        ("http://127.0.0.1:8000", 403),
        ("http://localhost", 403),
        ("null", 403),
        ("file://", 403),
        ("http://127.0.0.1:4200@evil.example", 403),
    ],
)
def test_pages_of_other_addresses_are_refused(origin, expected):
    assert status(AllowedHosts(answering), "127.0.0.1:4200", Origin=origin) == expected


def test_requests_without_one_host_are_refused():
    for headers in ([], [(b"host", b"127.0.0.1"), (b"host", b"evil.example")]):
        sent: list[Any] = []

        async def send(message: Any, sent: list[Any] = sent) -> None:
            sent.append(message)

        asyncio.run(AllowedHosts(answering)({"type": "http", "headers": headers}, None, send))
        assert sent[0]["status"] == 403


def test_websockets_are_refused_before_they_open():
    for origin, expected in ((b"http://evil.example", "websocket.close"), (b"http://localhost:4200", "accepted")):
        sent: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "accepted"})

        async def receive() -> dict[str, str]:
            return {"type": "websocket.connect"}

        async def send(message: Any, sent: list[str] = sent) -> None:
            sent.append(message["type"])

        headers = [(b"host", b"127.0.0.1:4200"), (b"origin", origin)]
        asyncio.run(AllowedHosts(app)({"type": "websocket", "headers": headers}, receive, send))
        assert sent == [expected]


def test_a_server_for_other_machines_answers_to_numbers_and_to_names_that_are_given():
    app = AllowedHosts(answering, host="0.0.0.0", names=["Lab-7.example"])
    assert status(app, "192.0.2.7:7860") == status(app, "[2001:db8::7]:7860") == status(app, "lab-7.example") == 200
    assert status(app, "192.0.2.7:7860", Origin="http://192.0.2.7:7860") == 200
    assert status(app, "evil.example") == status(app, "192.0.2.7:7860", Origin="http://evil.example") == 403


@pytest.mark.parametrize("variable", ["http_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("proxy", ["http://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_a_proxy_is_for_other_machines_alone(variable, proxy, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet.example")
    if proxy.startswith("socks") and variable.lower() != "all_proxy":
        pytest.skip("only all_proxy names SOCKS proxies")
    monkeypatch.setenv(variable, proxy)
    reach_this_machine_directly()
    client = httpx.Client()  # as Prefect's is made; a SOCKS proxy must not keep it from starting
    for host in ("http://127.0.0.1:4200", "http://localhost:4200", "http://[::1]:4200"):
        assert client._transport_for_url(httpx.URL(host)) is client._transport, host
    assert client._transport_for_url(httpx.URL("http://intranet.example")) is client._transport
    proxied = httpx.URL("https://example.org" if "https" in variable.lower() else "http://example.org")
    assert client._transport_for_url(proxied) is not client._transport
    assert urllib.request.proxy_bypass("127.0.0.1")


def test_prefects_environment_keeps_this_machine_off_proxies(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "environ", {"HTTP_PROXY": "http://127.0.0.1:9"})
    set_prefect_environment(tmp_path, server_start_limit_s=60)
    assert set(os.environ["no_proxy"].split(",")) == set(LOOPBACK)
