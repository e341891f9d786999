"""What servers of this machine share: they are reached without a proxy, and answer no page of somebody else.

A server on 127.0.0.1 without a login is open to every web page that the user's browser shows: pages may send it
requests, and a name of theirs may suddenly mean 127.0.0.1 (DNS rebinding). So a request is answered only if its
``Host`` is a name of this server and, where a page sent it, its ``Origin`` is this server. Numbers cannot be rebound,
so a server that listens for other machines answers to all of them.
"""

import hashlib
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FILES = "/files/"
"""Where the server of Prefect's pages shows the files of the runs directory; see `report_files`."""
RUNS_HEADER = "X-Ovseg-Runs"
"""Header of these answers: which runs directory it is, see `digest_of_place`."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def reach_this_machine_directly() -> None:
    """Keep this machine's own addresses off proxies, in this process and those that it starts.

    Libraries read either spelling of the variable; what the user has named there stays.
    """
    named = [name for variable in ("no_proxy", "NO_PROXY") for name in os.environ.get(variable, "").split(",")]
    hosts = dict.fromkeys([*filter(None, (name.strip() for name in named)), *LOOPBACK])
    os.environ |= dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(hosts))


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def digest_of_place(folder: Path) -> str:
    """Return what a folder is known by to whoever knows its path, and to nobody else."""
    return hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()


class AllowedHosts:
    """ASGI middleware that refuses requests to other hosts, and those that other pages send.

    Args:
        app: What answers the others.
        host: Address that the server listens on.
        names: Further names under which it is reached.
    """

    def __init__(self, app: App, *, host: str = LOOPBACK[0], names: Iterable[str] = ()) -> None:
        self._app = app
        self._names = {*LOOPBACK, host.strip("[]").lower(), *(name.strip("[]").lower() for name in names)}
        self._any_number = not is_loopback(host)
        if self._any_number:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it; what is no request passes."""
        fault = self._fault(scope) if scope["type"] in {"http", "websocket"} else ""
        if not fault:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # the handshake, before which nothing may be sent
            await send({"type": "websocket.close", "code": 1008, "reason": fault})
        else:
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": f"{fault}\n".encode()})

    def _fault(self, scope: Scope) -> str:
        """Return why a request is refused; empty if it is not."""
        headers = [(name.lower(), value.decode("latin-1")) for name, value in scope["headers"]]
        hosts = [value for name, value in headers if name == b"host"]
        origins = [value for name, value in headers if name == b"origin"]
        own = _host_and_port(f"//{hosts[0]}") if len(hosts) == 1 else None
        if own is None or not self._is_own(own[0]):
            return "This server does not answer to that Host; name it with --allowed-hosts if it is meant."
        for origin in origins:
            asker = _host_and_port(origin)
            # Another name of this server is fine, another port is another server.
            if asker is None or not self._is_own(asker[0]) or asker[1] != own[1]:
                return "This server does not answer pages of other addresses."
        return ""

    def _is_own(self, host: str) -> bool:
        """Return whether a host is this server."""
        if host in self._names:
            return True
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return False
        return self._any_number


def _host_and_port(address: str) -> tuple[str, int | None] | None:
    """Read host and port of an address; None if it has none or is broken."""
    try:
        parts = urlsplit(address)
        return (parts.hostname, parts.port) if parts.hostname else None
    except ValueError:
        return None
