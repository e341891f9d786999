"""What the page asks for: the pair to look at, its pictures, and a place for what was said of it."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from flows.local_server import AllowedHosts
from pipeline.audit.audit import Audit
from pipeline.errors import PipelineError
from storage_schemas.errors import StorageError
from storage_schemas.verdicts import VerdictName

_FILES = {
    "": ("page.html", "text/html"),
    "page.css": ("page.css", "text/css"),
    "page.js": ("page.js", "text/javascript"),
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self'; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class _Said(BaseModel):
    """What is sent of a pair."""

    pair: str
    verdict: VerdictName


def audit_app(audit: Audit) -> AllowedHosts:
    """Return the page's server; requests of other pages are refused.

    Requests are answered one after the other, so that verdicts are written in their order.
    """
    app = FastAPI(title="ovseg pairs audit", docs_url=None, redoc_url=None, openapi_url=None)

    def state(pair: str | None) -> dict[str, Any]:
        found = audit.findings()
        return {
            "pair": None if pair is None else audit.shown(pair),
            "judged": audit.judged,
            "expected": audit.expected,
            "precision": None if found is None else found.precision._asdict(),
            "skipped": 0 if found is None else found.skipped,
        }

    @app.middleware("http")
    async def with_headers(request: Request, call_next: Any) -> Response:
        response: Response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    async def refused(request: Request, error: Exception) -> Response:
        del request
        return Response(str(error), 409, media_type="text/plain")

    for kind in (PipelineError, StorageError):
        app.add_exception_handler(kind, refused)

    for name, (file, media_type) in _FILES.items():
        content = (Path(__file__).parent / file).read_bytes()

        async def sent(content: bytes = content, media_type: str = media_type) -> Response:
            return Response(content, media_type=media_type)

        app.add_api_route(f"/{name}", sent, methods=["GET"])

    @app.get("/state")
    async def current() -> dict[str, Any]:
        return state(audit.next_pair())

    @app.get("/picture/{pair}")
    async def picture(pair: str) -> Response:
        return Response(audit.picture(pair), media_type="image/png")

    @app.get("/crop/{pair}")
    async def crop(pair: str) -> Response:
        return Response(audit.crop(pair), media_type="image/png")

    @app.post("/verdict")
    async def judge(said: _Said) -> dict[str, Any]:
        audit.judge(said.pair, said.verdict)
        return state(audit.next_pair())

    @app.post("/undo")
    async def undo() -> dict[str, Any]:
        return state(audit.undo() or audit.next_pair())

    return AllowedHosts(app)


@contextmanager
def served(audit: Audit, listener: socket.socket) -> Iterator[None]:
    """Serve the page from a thread while the block runs.

    Args:
        listener: Bound to an address of this machine.
    """
    server = uvicorn.Server(uvicorn.Config(audit_app(audit), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join()
