"""``ovseg app``: a page in the browser where one chooses a photograph, types names and sees masks."""

import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from flows.local_server import is_loopback, reach_this_machine_directly

if TYPE_CHECKING:
    from ovseg_models.segmenter import Segmenter

_LOGGER = logging.getLogger(__name__)
_EXAMPLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_EXAMPLES_MAX = 12
_MIB = 2**20


def app(
    *,
    model: Path,
    examples: Path | None = None,
    host: str = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(metavar="0..65535")] = 0,
    device: str = "cpu",
    allowed_hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (),
    max_upload_mib: int = 20,
    memory_mib: int = 512,
) -> None:
    """Show a page in the browser: choose a photograph, type class names, see masks.

    The page is for this machine alone unless --host says otherwise; whoever reaches it may use it, there is no login.
    Nothing is sent anywhere else. Uploaded files lie in a temporary folder that is removed at the end; other names for
    the same photograph don't run the image models again. Ctrl-C ends it. Needs the extra 'app' (Gradio).

    Args:
        model: Folder of a segmenter.
        examples: Folder of photographs that the page offers; the first 12 by name.
        host: Address to listen on; 0.0.0.0 = every machine of the network may use it.
        port: Port to listen on; 0 = a free one from 7860 on.
        allowed_hosts: Further names under which browsers reach the page, beside this machine's own and its numbers.
        device: Where to compute: cpu, cuda, cuda:1 and so on.
        max_upload_mib: Largest file that may be uploaded, in MiB.
        memory_mib: Memory for the photographs that were segmented last, in MiB.

    Raises:
        PipelineError: If Gradio is not installed, a value is out of range, the segmenter cannot be loaded, the address
            is not one of this machine, or the port is taken.
    """
    _refuse_wrong_values(port=port, max_upload_mib=max_upload_mib, memory_mib=memory_mib)
    _refuse_unusable_address(host, port)
    photographs = _photographs(examples)
    if importlib.util.find_spec("gradio") is None:
        raise _error("ovseg app: Gradio is not installed; run: pip install 'ovseg-pipeline[app]'")
    segmenter = _loaded(model, device)
    with _private_gradio():
        from flows.photo_app.encoded_images import EncodedImages
        from flows.photo_app.page import build_page, serve

        images = EncodedImages(segmenter, limit_bytes=memory_mib * _MIB)
        page = build_page(segmenter, images, title=f"ovseg: {model.name}", examples=photographs)
        try:
            address = serve(
                page,
                host=host,
                port=port,
                upload_limit_bytes=max_upload_mib * _MIB,
                examples=photographs,
                allowed_hosts=allowed_hosts,
            )
        except OSError as error:
            raise _error(f"--port: {port} of {host} cannot be listened on ({error}); give another one") from error
        if not is_loopback(host):
            _LOGGER.warning("--host %s: every machine that can reach this one may use the page", host)
        sys.stdout.write(f"{address} shows the page; Ctrl-C ends it\n")
        sys.stdout.flush()
        _wait_for_the_end()
        page.close(verbose=False)


def _refuse_wrong_values(*, port: int, max_upload_mib: int, memory_mib: int) -> None:
    """Refuse numbers out of range."""
    if not 0 <= port <= 65535:
        raise _error(f"--port: found {port}, 0 (a free one) to 65535 is expected; give another one")
    for option, value in (("--max-upload-mib", max_upload_mib), ("--memory-mib", memory_mib)):
        if value < 1:
            raise _error(f"{option}: found {value}, at least 1 is expected; give more")


def _refuse_unusable_address(host: str, port: int) -> None:
    """Refuse an address that cannot be listened on, which Gradio would try on a hundred ports in turn."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: a port just left is free
            listener.bind(address)
    except OSError as error:
        raise _error(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror or error}); "
            "give an address of this machine and a free port"
        ) from error


def _photographs(folder: Path | None) -> list[Path]:
    """List the photographs that the page offers."""
    if folder is None:
        return []
    if not folder.is_dir():
        raise _error(f"--examples: {folder} is no folder; give a folder of photographs")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _EXAMPLE_SUFFIXES and path.is_file())
    if not found:
        raise _error(f"--examples: {folder} holds no {', '.join(sorted(_EXAMPLE_SUFFIXES))}; give another folder")
    return found[:_EXAMPLES_MAX]


def _loaded(model: Path, device: str) -> "Segmenter":
    """Load the segmenter."""
    from ovseg_models.segmenter import Segmenter

    try:
        return Segmenter.load(model, device=device)
    except (ValueError, OSError, RuntimeError) as error:
        raise _error(str(error)) from error


@contextmanager
def _private_gradio() -> Iterator[None]:
    """Keep uploads in a folder that is removed at the end, telemetry off, and this machine's address off proxies.

    Gradio reads these variables when it is imported and later.
    """
    with tempfile.TemporaryDirectory(prefix="ovseg-app-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"GRADIO_TEMP_DIR": folder, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        reach_this_machine_directly()
        yield


def _wait_for_the_end() -> None:
    """Return at Ctrl-C, or when the process is asked to terminate."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _error(message: str) -> Exception:
    """Return an error that is shown without a traceback."""
    from pipeline.errors import PipelineError

    return PipelineError(message)
