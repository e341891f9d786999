"""Processes of their own, for tests that kill them or need several: forked from one that has imported torch.

A fresh interpreter takes five to ten seconds of CPU for imports alone. A forked process has memory, locks and a process
id of its own as well, and ends at any moment by a kill.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import multiprocessing.forkserver
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import dask

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "pytest",
        "torch.utils.tensorboard.writer",
        "flows.command",
        "pipeline.stages",
        "pipeline.train_proposals.training",
        "pipeline.finetune.training",
    ]
)


def start(
    target: Callable[..., object],
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    stderr: Path | None = None,
    result: Connection | None = None,
) -> ForkServerProcess:
    """Start a process that calls a function of a module.

    Args:
        environment: Variables to set in it.
        stderr: File to which what it says there is appended.
        result: Where it sends what the function returns.
    """
    process = _CONTEXT.Process(target=_called, args=(target, arguments, dict(environment or {}), stderr, result))
    process.start()
    return process


def _called(
    target: Callable[..., object],
    arguments: Sequence[object],
    environment: Mapping[str, str],
    stderr: Path | None,
    result: Connection | None,
) -> None:
    os.setsid()  # so that a kill ends its own children as well
    os.environ.update(environment)
    if stderr is not None:
        with stderr.open("ab") as file:
            os.dup2(file.fileno(), 2)
    returned = target(*arguments)
    if result is not None:
        result.send(returned)


def start_group(
    count: int, target: Callable[..., object], *arguments: object, stderr: Path | None = None
) -> list[ForkServerProcess]:
    """Start processes that find each other, with the variables that torchrun sets."""
    return [start(target, *arguments, environment=each, stderr=stderr) for each in _environments(count)]


def results_of_group(count: int, target: Callable[..., Any], *arguments: object) -> list[Any]:
    """Call a function in processes that find each other; return what it returns, by rank."""
    ends = [_CONTEXT.Pipe(duplex=False) for _ in range(count)]
    finish(
        [
            start(target, *arguments, environment=each, result=sender)
            for each, (_, sender) in zip(_environments(count), ends, strict=True)
        ]
    )
    return [receiver.recv() for receiver, _ in ends]


def _environments(count: int) -> list[dict[str, str]]:
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
    return [{**place, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def finish(processes: Sequence[ForkServerProcess]) -> None:
    """Wait until all have ended; one that failed ends the others, as torchrun does.

    Raises:
        AssertionError: If one has failed.
    """
    waiting = {process.sentinel: process for process in processes}
    while waiting:
        for sentinel in multiprocessing.connection.wait(list(waiting)):
            process = waiting.pop(sentinel)  # type: ignore[call-overload]
            process.join()
            if process.exitcode:
                kill(list(waiting.values()))
                raise AssertionError(f"{process.name} ended with {process.exitcode}")


def run(target: Callable[..., object], *arguments: object, stderr: Path | None = None) -> None:
    """Call a function in a process of its own.

    Raises:
        AssertionError: If it fails.
    """
    finish([start(target, *arguments, stderr=stderr)])


@contextlib.contextmanager
def dask_workers() -> Iterator[None]:
    """Let Dask fork the workers that it starts."""
    multiprocessing.forkserver.ensure_running()  # with what is imported here, before Dask names what it needs
    with dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}):
        yield


def kill(processes: Sequence[ForkServerProcess]) -> None:
    """End processes, and what they have started, at once."""
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL
