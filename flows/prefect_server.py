"""A Prefect server for a run: the one that the environment or ``ovseg ui`` names, else one for the time of the run.

Prefect's own ways to start one do not suffice (docs/internals/architecture.md says why). Ours shows the UI, does not
see a Ctrl-C that is meant for the run, and ends with the process that started it, however that ends: it is this module
as a program (``python -m flows.prefect_server``), which prints its address as soon as the port is its own, and ends
when its standard input does. Whoever started it holds the other end, and a killed process lets go of it.

Nothing here imports Prefect at the top: `set_prefect_environment` sets the variables that it reads when first imported.
"""

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from flows.local_server import FILES, RUNS_HEADER, AllowedHosts, digest_of_place, reach_this_machine_directly
from pipeline.errors import PipelineError
from pipeline.interrupts import held_back

logger = logging.getLogger(__name__)

# Nothing is reported to anybody, and a server that has gone away is given up after seconds instead of minutes. The
# server stores what it receives in batches, at least every second: one by one it needs 40 CPU-s for 1,000 task runs.
_CONSTANT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
END_LIMIT_S = 10.0
"""How long a server may take to write down what it still holds in memory [s]."""
_SERVER_FILE = "server.json"
_RUNS_VARIABLE = "OVSEG_SERVED_RUNS"
_ANSWER_LIMIT_S = 5.0


def prefect_home(runs_dir: Path) -> Path:
    """Return where Prefect keeps its database: ``RUNS/prefect``, or where ``PREFECT_HOME`` says."""
    return Path(os.environ.get("PREFECT_HOME") or runs_dir / "prefect").absolute()


def set_prefect_environment(home: Path, *, server_start_limit_s: int) -> None:
    """Prepare the import of Prefect in this process and those that it starts.

    Args:
        home: From `prefect_home`.
        server_start_limit_s: How long Prefect's own temporary server may take to start [s].
    """
    variables = {
        **_CONSTANT,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(server_start_limit_s),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    reach_this_machine_directly()


def serve_prefect(listener: socket.socket, runs: Path) -> None:
    """Serve Prefect's API and UI until SIGTERM or SIGINT, to this machine's programs and to the UI's own pages.

    Args:
        listener: Bound to an address of this machine.
        runs: Runs directory, whose reports are served beside the UI; see `ReportFiles`.
    """
    address = address_of(listener)
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"{address}/api"
    # By default Prefect lets every web page read and delete; its own pages may be opened under another name.
    own_pages = ",".join(f"http://{name}:{listener.getsockname()[1]}" for name in ("127.0.0.1", "localhost"))
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = own_pages
    import uvicorn
    from prefect.server.api.server import create_app

    from flows.report_files import ReportFiles

    served = AllowedHosts(ReportFiles(create_app(), runs=runs, private=(prefect_home(runs), runs / "prefect")))
    uvicorn.Server(uvicorn.Config(served, log_level="error", lifespan="on")).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """Take a port of 127.0.0.1.

    Raises:
        PipelineError: If it is taken.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise PipelineError(
            f"port {port} of 127.0.0.1: cannot be taken ({error.strerror}); choose another with --port"
        ) from error


def address_of(listener: socket.socket) -> str:
    """Return the address for browsers."""
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def main() -> None:
    """Serve on a free port until standard input ends."""
    listener = listening(0)
    sys.stdout.write(f"{address_of(listener)}\n")
    sys.stdout.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a pipe that nobody reads any more would fill up and stop us
    threading.Thread(target=_end_with_input, daemon=True).start()
    serve_prefect(listener, Path(os.environ[_RUNS_VARIABLE]))


def _end_with_input() -> None:
    """End this process when its standard input ends: in order if it can, else after a while."""
    while os.read(sys.stdin.fileno(), 1):  # unlike a buffered read it holds no lock that Python needs to end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_LIMIT_S)
    os.kill(os.getpid(), signal.SIGKILL)


@contextlib.contextmanager
def prefect_server(home: Path, *, runs: Path, start_limit_s: float) -> Iterator[str]:
    """Yield the address of a Prefect API, and make it Prefect's in this process and those that it starts.

    Call it before Prefect is imported.

    Args:
        home: Prefect's directory, where ``ovseg ui`` writes down its server's address.
        runs: Runs directory, whose reports a server that is started here serves.
        start_limit_s: How long to wait for a server that is started here [s].

    Raises:
        PipelineError: If a server is started here and doesn't answer in time.
    """
    with contextlib.ExitStack() as stack:
        url = os.environ.get("PREFECT_API_URL") or announced_server(home, wait_s=start_limit_s)
        if url is None:
            url = stack.enter_context(temporary_server(home, runs=runs, start_limit_s=start_limit_s))
        logger.info("Prefect UI: %s", url.removesuffix("/api"))
        before = os.environ.get("PREFECT_API_URL")
        os.environ["PREFECT_API_URL"] = url
        try:
            yield url
        finally:
            if before is None:
                del os.environ["PREFECT_API_URL"]


def announced_server(home: Path, *, wait_s: float) -> str | None:
    """Return the API's address of the server that ``ovseg ui`` runs on this home, if there is one and it answers.

    Args:
        wait_s: How long to wait for one that is starting [s].
    """
    try:
        document = json.loads((home / _SERVER_FILE).read_text(encoding="utf-8"))
        url, pid, begun = str(document["api_url"]), int(document["pid"]), str(document["begun"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    end = time.monotonic() + wait_s
    while not answers(url):
        if time.monotonic() > end or not begun or _begun(pid) != begun:  # killed, its number perhaps taken again
            return None
        time.sleep(0.1)
    return url


def _begun(pid: int) -> str:
    """Return when a process of this machine began [ticks since it was booted]; empty if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
    state, *fields = stat.rpartition(")")[2].split()  # the name before may hold anything; see proc_pid_stat(5)
    return "" if state == "Z" else fields[18]


@contextlib.contextmanager
def announced(home: Path, api_url: str) -> Iterator[None]:
    """Let runs with this home find a server while the block runs."""
    home.mkdir(parents=True, exist_ok=True)
    path = home / _SERVER_FILE
    document = {"api_url": api_url, "pid": os.getpid(), "begun": _begun(os.getpid())}
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def answers(api_url: str) -> bool:
    """Return whether a Prefect API answers and is well."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{api_url}/health", timeout=_ANSWER_LIMIT_S) as answer:
            return bool(json.load(answer) is True)
    except (OSError, ValueError):
        return False


def shows_files_of(api_url: str, runs: Path) -> bool:
    """Return whether a server shows the files of a runs directory; one elsewhere, or of other runs, does not."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(f"{api_url.removesuffix('/api')}{FILES}", timeout=_ANSWER_LIMIT_S) as answer:
            return bool(answer.headers.get(RUNS_HEADER) == digest_of_place(runs))
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def temporary_server(home: Path, *, runs: Path, start_limit_s: float) -> Iterator[str]:
    """Start a server on a free port of 127.0.0.1 and stop it in the end; yields its API's address.

    Raises:
        PipelineError: If it doesn't answer in time.
    """
    home.mkdir(parents=True, exist_ok=True)
    log = home / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.prefect_server"],
            env=os.environ | {_RUNS_VARIABLE: str(runs.absolute())},
            stdin=subprocess.PIPE,  # which ends when this process does
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # out of reach of a Ctrl-C
        )
    try:
        logger.info("starting Prefect's server for this run; with 'ovseg ui' in another terminal there is one at once")
        end = time.monotonic() + start_limit_s
        address = process.stdout.readline().decode().strip() if process.stdout is not None else ""
        while not (process.poll() is None and answers(f"{address}/api")):
            if process.poll() is not None or time.monotonic() > end:
                what = f"does not answer within {start_limit_s:g} s" if process.poll() is None else "has ended"
                raise PipelineError(f"Prefect's server: {what}; see {log}, or raise flow.server_start_limit_s")
            time.sleep(0.1)
        yield f"{address}/api"
    finally:
        with held_back():
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):  # it writes down what it still holds in memory
                process.wait(END_LIMIT_S)
            process.kill()
            process.communicate()


if __name__ == "__main__":
    main()
