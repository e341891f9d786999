"""A headless Chromium that tests drive through its DevTools protocol: pages, files, requests, screenshots."""

import base64
import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--remote-debugging-port=0",
)
WAIT_S = 60


def chromium() -> str | None:
    """Return the path of a Chromium, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class PageLeftError(RuntimeError):
    """The browser went to another page before it answered."""


class Page:
    """One tab of the browser; `requests` holds the address of each request that it made."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self.requests: list[str] = []
        for domain in ("Page", "Network", "Runtime", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters) -> dict:
        """Call a method of the protocol and return its result."""
        self._number += 1
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=WAIT_S))
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self._number:
                if "error" in message:
                    if "navigated" in message["error"]["message"]:
                        raise PageLeftError(f"{method}: {message['error']}")
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]

    def run(self, script: str):
        """Return the value of an expression of the page."""
        ended = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in ended:
            raise RuntimeError(f"{script}: {ended['exceptionDetails']}")
        return ended["result"].get("value")

    def wait_for(self, script: str):
        """Wait until an expression of the page is true, and return its value."""
        deadline_s = time.monotonic() + WAIT_S
        while True:
            try:
                value = self.run(script)
            except PageLeftError:  # a click leads to another page, which is not there yet
                value = None
            if value:
                return value
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the page never came to {script}; it shows: {self.run('document.body.innerText')}")
            time.sleep(0.1)

    def open(self, address: str) -> None:
        """Load a page and wait for it to be drawn."""
        self.call("Page.navigate", url=address)
        self.wait_for("document.readyState === 'complete'")

    def choose_file(self, selector: str, path: Path) -> None:
        """Give a file to an input of the page, as a user's file dialog does."""
        found = self.call("Runtime.evaluate", expression=f"document.querySelector({selector!r})")
        self.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def resize(self, width_px: int, height_px: int, *, phone: bool = False) -> None:
        """Set the size of the window."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width_px, height=height_px, deviceScaleFactor=1, mobile=phone
        )

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))


@contextlib.contextmanager
def open_browser(folder: Path) -> Iterator[Page]:
    """Start a browser with a profile of its own in ``folder``, and end it.

    Raises:
        RuntimeError: If there is none, or it does not start.
    """
    program = chromium()
    if program is None:
        raise RuntimeError(f"no browser: none of {NAMES} is on PATH; install Debian's package chromium")
    command = [program, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
    with (folder / "browser.log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            with connect(_tab_address(folder, process), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()


def _tab_address(folder: Path, process: subprocess.Popen) -> str:
    """Wait for the browser's port, and return the address of its first tab."""
    import urllib.request

    port_file, deadline_s = folder / "profile" / "DevToolsActivePort", time.monotonic() + WAIT_S
    while not port_file.exists() or not port_file.read_text().strip():
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"the browser did not start: {(folder / 'browser.log').read_text()[-2000:]}")
        time.sleep(0.05)
    port = port_file.read_text().split()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=WAIT_S) as answered:
            tabs = [tab for tab in json.load(answered) if tab["type"] == "page"]
        if tabs:
            return tabs[0]["webSocketDebuggerUrl"]
        if time.monotonic() > deadline_s:
            raise RuntimeError("the browser opened no tab")
        time.sleep(0.05)
