"""The files of a runs directory for the browser, beside Prefect's pages, so that their links can be followed.

Browsers open no ``file://`` link from a page that came over the network, not even from 127.0.0.1. So the server of
Prefect's pages also gives away what a browser can show of the runs directory, under ``/files/``, and nothing else of
this machine. Every answer forbids scripts: the pages share an address with Prefect's API, which can start runs.
"""

from collections.abc import Collection
from html import escape
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from flows.local_server import FILES, RUNS_HEADER, App, Receive, Scope, Send, digest_of_place
from storage_schemas.report_files import PAGES, PICTURES, TEXTS

_SHOWN = frozenset({*PAGES, *PICTURES, *TEXTS, "json", "jsonl", "toml", "txt", "css"})
_MEDIA_TYPE = dict.fromkeys(("md", "toml", "jsonl"), "text/plain")  # else browsers save them
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_LISTING = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><link rel="icon" href="data:,">
<style>:root {{ color-scheme: light dark; font: 16px/1.6 system-ui, sans-serif; }}
body {{ max-width: 60rem; margin: 1.5rem auto; padding: 0 1rem; overflow-wrap: anywhere; }}
td:last-child {{ text-align: right; padding-left: 2rem; white-space: nowrap; opacity: .7; }}</style></head>
<body><h1>{title}</h1><table>{rows}</table></body></html>
"""


class ReportFiles:
    """ASGI middleware that answers for `FILES`, read-only, and leaves all else to the app behind it.

    Of the runs directory it gives away the files that a browser can show, and lists of folders, in which other files
    have no link. Not given away are hidden files, links that lead out of the directory, and ``private``.

    Args:
        app: What answers other requests.
        runs: Runs directory.
        private: Folders whose files stay private, such as that of Prefect's database.
    """

    def __init__(self, app: App, *, runs: Path, private: Collection[Path]) -> None:
        self._app = app
        self._runs = runs.resolve()
        self._private = [folder.resolve() for folder in private]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or not (scope["path"] + "/").startswith(FILES):
            await self._app(scope, receive, send)
            return
        answer = await self._answer(scope)
        answer.headers.update(_HEADERS | {RUNS_HEADER: digest_of_place(self._runs)})
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope) -> Response:
        """Return the answer to a request; what may not be seen is answered as what is not there."""
        asked = scope["path"].removeprefix(FILES.rstrip("/"))
        absent = Response("There is no such file in the runs directory.\n", HTTPStatus.NOT_FOUND)
        if scope["method"] not in {"GET", "HEAD"}:
            return Response(status_code=HTTPStatus.METHOD_NOT_ALLOWED, headers={"Allow": "GET, HEAD"})
        parts = [part for part in asked.split("/") if part]
        if any(part.startswith(".") or not part.isprintable() or "\\" in part for part in parts):
            return absent
        try:
            path = self._runs.joinpath(*parts).resolve()
            if not path.is_relative_to(self._runs) or any(path.is_relative_to(folder) for folder in self._private):
                return absent
            if path.is_dir():
                return self._listing(path) if asked.endswith("/") else RedirectResponse(quote(f"{scope['path']}/"))
            if not path.is_file() or _suffix(path) not in _SHOWN:
                return absent
            return FileResponse(path, media_type=_MEDIA_TYPE.get(_suffix(path)), stat_result=path.stat())
        except OSError:  # a name that is too long, a folder without permission, a file that has just gone
            return absent

    def _listing(self, folder: Path) -> Response:
        """List a folder: folders first, then files with their sizes."""
        rows = [] if folder == self._runs else ['<tr><td><a href="../">..</a></td><td></td></tr>']
        for path in sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name)):
            if path.name.startswith(".") or path.is_symlink() or path in self._private:
                continue
            name = escape(path.name.encode(errors="replace").decode())
            if path.is_dir():
                rows.append(f'<tr><td><a href="{quote(path.name)}/">{name}/</a></td><td></td></tr>')
                continue
            linked = f'<a href="{quote(path.name)}">{name}</a>' if _suffix(path) in _SHOWN else name
            rows.append(f"<tr><td>{linked}</td><td>{path.stat().st_size:,} bytes</td></tr>")
        shown = "/".join(("runs directory", *folder.relative_to(self._runs).parts))
        return HTMLResponse(_LISTING.format(title=escape(shown), rows="\n".join(rows)))


def _suffix(path: Path) -> str:
    return path.suffix.removeprefix(".").lower()
