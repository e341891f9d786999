"""``ovseg app``: a page in the browser where one chooses a photograph, types names and sees masks."""

import importlib.util
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from flows.local_server import is_loopback, reach_this_machine_directly
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from ovseg_models.segmenter import Segmenter
    from pipeline.pair_index import PairIndex

_LOGGER = logging.getLogger(__name__)
_EXAMPLE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
_EXAMPLES_MAX = 12
_MIB = 2**20


def app(
    *,
    model: Path,
    examples: Path | None = None,
    index: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    memory: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    host: str = "127.0.0.1",
    port: Annotated[int, tyro.conf.arg(metavar="0..65535")] = 0,
    namer: Annotated[
        Literal["crops", "one-pass", "pooled"] | None,
        tyro.conf.arg(help_behavior_hint="(default: as the segmenter says)"),
    ] = None,
    device: str = "auto",
    allowed_hosts: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME")] = (),
    max_upload_mib: int = 20,
    memory_mib: int = 512,
) -> None:
    """Show a page in the browser: choose a photograph, type class names, see masks.

    The page is for this machine alone unless --host says otherwise; whoever reaches it may use it, there is no login.
    Nothing is sent anywhere else. Uploaded files are kept in a temporary folder that is removed at the end; other names
    for the same photograph don't run the image models again. Ctrl-C ends it. Needs the extra 'app' (Gradio).

    Args:
        model: Folder of a segmenter.
        examples: Folder of photographs that the page offers; the first 12 by name.
        index: Folder of an index of mined pairs ('ovseg pairs index'); a click on a mask shows the nearest ones.
        memory: File of remembered masks, made if need be; whoever uses the page may add masks to it.
        host: Address to listen on; 0.0.0.0 = every machine of the network may use it.
        port: Port to listen on; 0 = a free one from 7860 on.
        namer: How CLIP sees masks: a crop of each, or the picture in one pass, which is many times as fast.
        allowed_hosts: Further names under which browsers reach the page, beside this machine's own and its numbers.
        device: Where to compute: auto (CUDA where there is one), cpu, cuda, cuda:1 and so on.
        max_upload_mib: Largest file that may be uploaded, in MiB.
        memory_mib: Memory for the photographs that were segmented last, in MiB.

    Raises:
        PipelineError: If Gradio is not installed, a value is out of range, the segmenter cannot be loaded, the address
            is not one of this machine, or the port is taken.
    """
    if not 0 <= port <= 65535:
        raise PipelineError(f"--port: found {port}, 0 (a free one) to 65535 is expected; give another one")
    for option, value in (("--max-upload-mib", max_upload_mib), ("--memory-mib", memory_mib)):
        if value < 1:
            raise PipelineError(f"{option}: found {value}, at least 1 is expected; give more")
    _refuse_unusable_address(host, port)
    photographs = [] if examples is None else _photographs(examples)
    if importlib.util.find_spec("gradio") is None:
        raise PipelineError("ovseg app: Gradio is not installed; run: pip install 'ovseg-pipeline[app]'")
    segmenter, neighbours = _loaded(model, device, namer, index, memory)
    with tempfile.TemporaryDirectory(prefix="ovseg-app-", ignore_cleanup_errors=True) as uploads:
        # Gradio reads these variables when it is imported, and later.
        os.environ |= {"GRADIO_TEMP_DIR": uploads, "GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
        reach_this_machine_directly()
        from flows.photo_app.encoded_images import EncodedImages
        from flows.photo_app.page import build_page, serve

        images = EncodedImages(segmenter, limit_bytes=memory_mib * _MIB)
        page = build_page(
            segmenter,
            images,
            title=f"ovseg: {model.name}",
            examples=photographs,
            neighbours=neighbours,
            memory=memory,
        )
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
            raise PipelineError(
                f"--port: {port} of {host} cannot be listened on ({error}); give another one"
            ) from error
        if not is_loopback(host):
            _LOGGER.warning("--host %s: every machine that can reach this one may use the page", host)
        sys.stdout.write(f"{address} shows the page; Ctrl-C ends it\n")
        sys.stdout.flush()
        ended = threading.Event()  # the page is served by other threads
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        ended.wait()
        page.close(verbose=False)


def _loaded(
    model: Path, device: str, namer: str | None, index: Path | None, memory: Path | None
) -> "tuple[Segmenter, PairIndex | None]":
    """Load a segmenter with its memory, and the index of pairs that its CLIP made.

    Raises:
        PipelineError: If one cannot be loaded, or is of another CLIP.
    """
    from ovseg_models.memory import Memory
    from ovseg_models.segmenter import Segmenter

    try:
        segmenter = Segmenter.load(model, device=device, **({} if namer is None else {"namer": namer}))
        if memory is not None and memory.exists():
            segmenter.memory = Memory.load(memory)
        neighbours = None
        if index is not None:
            from pipeline.pair_index import PairIndex  # of the extra 'pipeline'

            neighbours = PairIndex.open(index)
            if neighbours.space != segmenter.space:
                raise PipelineError(
                    f"--index: {index} was made by another CLIP than {model} has; make an index with this model by "
                    "'ovseg pairs index'"
                )
    except (ValueError, OSError, RuntimeError) as error:
        raise PipelineError(str(error)) from error
    return segmenter, neighbours


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
        raise PipelineError(
            f"--host {host} --port {port}: cannot be listened on ({error.strerror or error}); "
            "give an address of this machine and a free port"
        ) from error


def _photographs(folder: Path) -> list[Path]:
    """List the photographs that the page offers."""
    if not folder.is_dir():
        raise PipelineError(f"--examples: {folder} is no folder; give a folder of photographs")
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _EXAMPLE_SUFFIXES and path.is_file())
    if not found:
        suffixes = ", ".join(sorted(_EXAMPLE_SUFFIXES))
        raise PipelineError(f"--examples: {folder} holds no {suffixes}; give another folder")
    return found[:_EXAMPLES_MAX]
