"""Prefect's server as a program of its own: ``python -m flows.prefect_server_program``.

It prints its address as soon as the port is its own, and ends when its standard input does: whoever started it holds
the other end, and a killed process lets go of it.
"""

import os
import signal
import socket
import sys
import threading
import time

from flows.local_server import AllowedHosts
from pipeline.errors import PipelineError

END_LIMIT_S = 10.0
"""How long a server may take to write down what it still holds in memory [s]."""


def serve_prefect(listener: socket.socket) -> None:
    """Serve Prefect's API and UI until SIGTERM or SIGINT, to this machine's programs and to the UI's own pages.

    Args:
        listener: Bound to an address of this machine.
    """
    address = address_of(listener)
    os.environ["PREFECT_SERVER_UI_API_URL"] = f"{address}/api"
    # By default Prefect lets every web page read and delete; its own pages may be opened under another name.
    own_pages = ",".join(f"http://{name}:{listener.getsockname()[1]}" for name in ("127.0.0.1", "localhost"))
    os.environ["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] = own_pages
    import uvicorn
    from prefect.server.api.server import create_app

    uvicorn.Server(uvicorn.Config(AllowedHosts(create_app()), log_level="error", lifespan="on")).run(sockets=[listener])


def listening(port: int) -> socket.socket:
    """Take a port of 127.0.0.1.

    Raises:
        PipelineError: If it is taken.
    """
    try:
        return socket.create_server(("127.0.0.1", port))
    except OSError as error:
        message = f"port {port} of 127.0.0.1: cannot be taken ({error.strerror}); choose another with --port"
        raise PipelineError(message) from error


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
    serve_prefect(listener)


def _end_with_input() -> None:
    """End this process when its standard input ends: in order if it can, else after a while."""
    while os.read(sys.stdin.fileno(), 1):  # unlike a buffered read it holds no lock that Python needs to end
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(END_LIMIT_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
