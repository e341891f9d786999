"""Where units run: in this process, or on Dask workers on this machine or others."""

import contextlib
import itertools
import logging
import multiprocessing.resource_tracker
import os
import signal
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster, as_completed

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Unit = str

# A unit that kills its worker this often more fails; the workers that it killed are started again in between.
_RETRIES_AFTER_A_DEAD_WORKER = 2

# Workers on this machine appear, sooner or later: a busy machine takes long to import what they need.
_LOCAL_START_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Compute:
    """Where and how wide a stage runs; none of it changes a result.

    Attributes:
        workers: Worker processes to start on this machine; 0 runs in this process.
        dask_address: Address of a running Dask scheduler (``"tcp://10.0.0.1:8786"``), whose workers are used instead.
            They must see the artifact's directory under the same path.
        connect_limit_s: How long to wait for that scheduler, and then for its workers [s].
        dashboard_port: Port of the Dask dashboard on 127.0.0.1 for workers on this machine; 0 takes a free one.
    """

    workers: int = 0
    dask_address: str = ""
    connect_limit_s: float = 30.0
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

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit; an exception of one unit doesn't stop the others.

        No more units are begun once the generator is closed.
        """
        ...

    def width(self) -> int:
        """Return how many units can run at the same time as things stand; at least 1."""
        ...


class InlineExecutor:
    """Runs units one after another in this process."""

    def width(self) -> int:
        """Return 1."""
        return 1

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit in order."""
        for unit in units:
            try:
                result = function(unit)
            except Exception as error:  # one bad unit must not stop the others; the runner counts it
                yield Outcome(unit, None, error)
            else:
                yield Outcome(unit, result, None)


class DaskExecutor:
    """Runs units on the workers of a Dask scheduler, as many at a time as the workers have threads.

    Units that wait on a worker would share the blame when the one that runs there kills it, so none wait there.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit; a unit whose worker dies is run again, a few times at most.

        Raises:
            PipelineError: If the scheduler goes away; what its workers still finish is found by the next run.
        """
        from distributed import as_completed

        waiting = iter(units)
        running: dict[Future[Result], Unit] = {}
        completed = as_completed(loop=self._client.loop)
        try:
            self._begin(function, waiting, running, completed)
            for future in completed:
                outcome = self._outcome(future, running.pop(future))
                self._begin(function, waiting, running, completed)
                yield outcome
        finally:
            if running:
                self._client.cancel(list(running), force=True)

    def width(self) -> int:
        """Return the number of threads of all workers that are there, or 1 if they are on their way."""
        threads: int = sum(self._client.nthreads().values())
        return max(1, threads)

    def _begin(
        self,
        function: Callable[[Unit], Result],
        waiting: Iterator[Unit],
        running: "dict[Future[Result], Unit]",
        completed: "as_completed",
    ) -> None:
        """Begin as many units as there are free threads; one at least, which waits for a worker to come back."""
        for unit in itertools.islice(waiting, max(0, self.width() - len(running))):
            future = self._client.submit(function, unit, pure=False)
            running[future] = unit
            completed.add(future)

    def _outcome(self, future: "Future[Result]", unit: Unit) -> Outcome[Result]:
        """Read what became of one unit."""
        if future.status == "finished":
            outcome: Outcome[Result] = Outcome(unit, future.result(), None)
        elif future.status == "error":
            error = future.exception()
            outcome = Outcome(unit, None, error if isinstance(error, Exception) else RuntimeError(repr(error)))
        else:
            message = f"dask: {unit} is {future.status}, the scheduler has gone away; start it and run again"
            raise PipelineError(message)
        future.release()
        return outcome


@contextlib.contextmanager
def executor_for(compute: Compute) -> Iterator[Executor]:
    """Start, or connect to, the workers that the settings name, and stop what was started.

    Raises:
        PipelineError: If workers cannot be started here, or the named scheduler cannot be reached or has none.
    """
    if not compute.dask_address and compute.workers == 0:
        yield InlineExecutor()
        return
    with contextlib.ExitStack() as started:
        with _interrupts_held_back():  # Dask cannot end workers that are still starting
            dask_logger = started.enter_context(_quiet_dask())
            address = started.enter_context(_cluster_address(compute))
            wanted = (1, compute.connect_limit_s) if compute.dask_address else (compute.workers, _LOCAL_START_LIMIT_S)
            client = started.enter_context(_client(address, *wanted))
        # Ending, Dask tells at length of workers in the middle of a unit, and of a scheduler that has gone away.
        started.callback(dask_logger.setLevel, logging.CRITICAL)
        logger.info("Dask dashboard: %s", client.dashboard_link)
        yield DaskExecutor(client)


@contextlib.contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Let a Ctrl-C that comes while the block runs take effect at its end."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread gets them, and may do this
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


@contextlib.contextmanager
def _quiet_dask() -> Iterator[logging.Logger]:
    """Let Dask's own log tell of warnings only, for the time being."""
    import distributed  # importing it sets its log level

    dask_logger = logging.getLogger(distributed.__name__)
    level = dask_logger.level
    dask_logger.setLevel(logging.WARNING)
    try:
        yield dask_logger
    finally:
        dask_logger.setLevel(level)


@contextlib.contextmanager
def _cluster_address(compute: Compute) -> Iterator[str]:
    """Yield the address of a scheduler: the named one, or that of workers started here for the time being."""
    if compute.dask_address:
        yield compute.dask_address
        return
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": _RETRIES_AFTER_A_DEAD_WORKER,
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "error",
    }
    with _environment_kept(), dask.config.set(settings), _local_cluster(compute.dashboard_port) as cluster:
        cluster.scale(compute.workers)
        yield cluster.scheduler_address


def _local_cluster(dashboard_port: int) -> "LocalCluster":
    """Start a scheduler whose workers, started later, never see a Ctrl-C.

    Ctrl-C reaches the whole process group. It is meant for this process, which ends its workers in order. Dask starts
    them from its own thread, and what a thread blocks is blocked in its children.

    Raises:
        PipelineError: If the scheduler cannot be started, because the dashboard's port is taken, say.
    """
    from distributed import LocalCluster

    where = f"dask workers on this machine, dashboard_port {dashboard_port}"
    multiprocessing.resource_tracker.ensure_running()  # starting it unblocks Ctrl-C, so it is started before
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        socket.create_server(("127.0.0.1", dashboard_port)).close()  # Dask itself would take another one
        return LocalCluster(
            n_workers=0,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=f"127.0.0.1:{dashboard_port}",
            memory_limit=0,
        )
    except (OSError, RuntimeError) as error:
        message = f"{where}: cannot be started ({error}); choose another port, or 0 for any"
        raise PipelineError(message) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Take back what Dask puts into the environment for its workers, such as one thread for torch."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _client(address: str, workers: int, timeout_s: float) -> Iterator["Client"]:
    """Connect to a scheduler and wait for its workers.

    Raises:
        PipelineError: If there is no scheduler, or it has too few workers.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        message = (
            f"dask address {address!r}: no scheduler answers within {timeout_s:g} s ({error}); start one or mend it"
        )
        raise PipelineError(message) from error
    with client:
        try:
            client.wait_for_workers(workers, timeout=timeout_s)
        except TimeoutError as error:
            found = f"{len(client.nthreads())} workers after {timeout_s:g} s, {workers} are wanted"
            message = f"dask address {address!r}: {found}; start workers, or raise dask.connect_limit_s"
            raise PipelineError(message) from error
        yield client
