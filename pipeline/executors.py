"""Where units run: in this process, or on Dask workers on this machine or others."""

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Unit = str


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and how wide a stage runs; none of it changes a result.

    Attributes:
        workers: Worker processes to start on this machine; 0 runs in this process.
        dask_address: Address of a running Dask scheduler (``"tcp://10.0.0.1:8786"``), whose workers are used instead.
        connect_timeout_s: How long to wait for that scheduler [s].
        dashboard_port: Port of the Dask dashboard on 127.0.0.1 for workers on this machine; 0 takes a free one.
    """

    workers: int = 0
    dask_address: str = ""
    connect_timeout_s: float = 30.0
    dashboard_port: int = 0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What became of one unit.

    Attributes:
        unit: Its name.
        result: What the function returned; None if it raised.
        error: What it raised; None if it returned.
    """

    unit: Unit
    result: Result | None
    error: Exception | None


class Executor(Protocol):
    """Maps a function over units and yields the outcomes as they come."""

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Iterator[Outcome[Result]]:
        """Run the function on every unit; an exception of one unit doesn't stop the others."""
        ...


class InlineExecutor:
    """Runs units one after another in this process."""

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Iterator[Outcome[Result]]:
        """Run the function on every unit in order."""
        for unit in units:
            try:
                result = function(unit)
            except Exception as error:  # one bad unit must not stop the others; the runner counts it
                yield Outcome(unit, None, error)
            else:
                yield Outcome(unit, result, None)


class DaskExecutor:
    """Runs units on the workers of a Dask scheduler, at most a few per worker waiting at a time."""

    def __init__(self, client: "Client") -> None:
        self._client = client

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Iterator[Outcome[Result]]:
        """Run the function on every unit; a unit whose worker dies is run again on another one."""
        from distributed import as_completed

        names = {self._client.submit(function, unit, pure=False): unit for unit in units}
        try:
            for future in as_completed(list(names), loop=self._client.loop):
                unit = names.pop(future)
                error = future.exception()
                if error is None:
                    yield Outcome(unit, future.result(), None)
                else:
                    yield Outcome(unit, None, error if isinstance(error, Exception) else RuntimeError(repr(error)))
                future.release()
        finally:
            if names:
                self._client.cancel(list(names), force=True)


@contextlib.contextmanager
def executor_for(compute: Compute) -> Iterator[Executor]:
    """Start, or connect to, the workers that the settings name, and stop what was started.

    Raises:
        PipelineError: If the named scheduler cannot be reached.
    """
    if not compute.dask_address and compute.workers == 0:
        yield InlineExecutor()
        return
    logging.getLogger("distributed").setLevel(logging.WARNING)
    with _cluster_address(compute) as address, _client(address, compute.connect_timeout_s) as client:
        logger.info("Dask dashboard: %s", client.dashboard_link)
        yield DaskExecutor(client)


@contextlib.contextmanager
def _cluster_address(compute: Compute) -> Iterator[str]:
    """Yield the address of a scheduler: the named one, or that of workers started here for the time being."""
    if compute.dask_address:
        yield compute.dask_address
        return
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=compute.workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=f"127.0.0.1:{compute.dashboard_port}",
        memory_limit=0,
        silence_logs=logging.ERROR,
    ) as cluster:
        yield cluster.scheduler_address


@contextlib.contextmanager
def _client(address: str, timeout_s: float) -> Iterator["Client"]:
    """Connect to a scheduler, and shield its workers from a Ctrl-C that is meant for this process."""
    from distributed import Client

    try:
        client = Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        message = (
            f"dask address {address!r}: no scheduler answers within {timeout_s:g} s ({error}); start one or mend it"
        )
        raise PipelineError(message) from error
    with client:
        client.register_worker_callbacks(_leave_interrupts_to_the_client)
        yield client


def _leave_interrupts_to_the_client() -> None:
    """Let a worker finish or be cancelled in order: Ctrl-C reaches the whole process group."""
    with contextlib.suppress(ValueError):  # not the main thread: a threaded worker, whose owner gets the signal
        signal.signal(signal.SIGINT, signal.SIG_IGN)
