"""Where units run: in this process, or on Dask workers on this machine or others."""

import contextlib
import logging
import multiprocessing.resource_tracker
import os
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pipeline.errors import PipelineError, StageError
from pipeline.interrupts import held_back, let_through

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Answer = TypeVar("Answer")
Unit = str

_CONNECTED = "running"  # the status of a Dask client that has a scheduler
_CHECK_S = 0.5  # between two checks, while units run, that the scheduler is still there
_ANSWER_LIMIT_S = 5.0  # for the few bytes of an answer, before the same check
_CLOSE_LIMIT_S = 10.0  # for the client to sign off from its scheduler
_LOCAL_START_LIMIT_S = 300.0  # for workers on this machine; a busy one takes long to import what they need
_LOCAL_STOP_LIMIT_S = 120.0  # for them to stop, and to start before that if they are still at it
# A unit that kills its worker this often more fails; the workers that it killed are started again in between.
_RETRIES_AFTER_A_DEAD_WORKER = 2


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
    """How one unit ended: with the function's result, or with the error that it raised."""

    unit: Unit
    result: Result | None
    error: Exception | None


class Executor(Protocol):
    """Maps a function over units and yields the outcomes as they come."""

    def outcomes(self, function: Callable[[Unit], Result], units: Iterable[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit; an exception of one unit doesn't stop the others.

        A unit is taken from the iterable when it begins. None begins after the generator is closed.
        """
        ...


class InlineExecutor:
    """Runs units one after another in this process."""

    def outcomes(self, function: Callable[[Unit], Result], units: Iterable[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit in order."""
        for unit in units:
            try:
                result = function(unit)
            except Exception as error:  # one bad unit must not stop the others; the runner counts it
                yield Outcome(unit, None, error)
            else:
                yield Outcome(unit, result, None)


class DaskExecutor:
    """Runs units on the workers of a Dask scheduler; never waits for a scheduler that has gone away.

    Dask's client would: it reconnects for good, and its futures stay pending. So every wait here is short, and is
    followed by a check of the client's status.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client

    def outcomes(self, function: Callable[[Unit], Result], units: Iterable[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit; a unit whose worker dies is run again, a few times at most.

        Raises:
            StageError: If the scheduler goes away; what the workers still finish is found by the next run.
        """
        waiting = iter(units)
        running: dict[Future[Result], Unit] = {}
        # Filled by a thread of Dask's. Not `as_completed`, which has no limit to its wait for the next one.
        ended: SimpleQueue[Future[Result]] = SimpleQueue()
        try:
            while True:
                # No more units than threads: one that waits on a worker shares the blame when another kills that
                # worker, and is given up with it. Dask's own worker-saturation bounds large batches alone, and is set
                # where the scheduler is started, which may be by somebody else.
                for unit in islice(waiting, max(0, self.threads() - len(running))):
                    with self._scheduler_expected():
                        # Impure: Dask must not take a unit for one of the same name that it made before.
                        future = self._client.submit(function, unit, pure=False)
                    running[future] = unit
                    future.add_done_callback(ended.put)
                if not running:
                    return
                future = self._next(ended)
                yield self._outcome(future, running.pop(future))
        finally:  # also where the caller stops early, and on Ctrl-C
            if running and self._client.status == _CONNECTED:
                try:
                    self._client.cancel(list(running), force=True)
                except (OSError, CancelledError) as error:  # the user has to know what led here, not this
                    logger.debug("dask: running units could not be cancelled (%s)", error)

    def threads(self) -> int:
        """Return the number of threads of all workers, or 1 while there are none, since new ones may be starting.

        Raises:
            StageError: If the scheduler has gone away.
        """
        return max(1, sum(self._threads_by_worker().values()))

    def workers(self) -> int:
        """Return the number of workers.

        Raises:
            StageError: If the scheduler has gone away.
        """
        return len(self._threads_by_worker())

    def _threads_by_worker(self) -> dict[str, int]:
        with self._scheduler_expected():
            return self._answer(lambda limit_s: self._client.nthreads(callback_timeout=limit_s))

    def _next(self, ended: "SimpleQueue[Future[Result]]") -> "Future[Result]":
        """Wait for a unit to end; those that were sent to a scheduler that has gone away never do."""
        while True:
            self._check_connected()
            with contextlib.suppress(Empty):
                return ended.get(timeout=_CHECK_S)

    def _outcome(self, future: "Future[Result]", unit: Unit) -> Outcome[Result]:
        with self._scheduler_expected():
            if future.status == "finished":
                outcome: Outcome[Result] = Outcome(unit, self._answer(future.result), None)
            elif future.status == "error":
                error = self._answer(future.exception)
                outcome = Outcome(unit, None, error if isinstance(error, Exception) else RuntimeError(repr(error)))
            else:  # cancelled or lost, which happens to units of this client when its scheduler goes away
                raise CancelledError(f"{unit} is {future.status}")
            future.release()
        return outcome

    def _answer(self, ask: Callable[[float], Answer]) -> Answer:
        """Ask until there is an answer: workers may be slow, and a result that died with its worker is made again.

        Without a limit, the client would wait for a scheduler that has gone away as long as it did to connect.

        Args:
            ask: Takes how long to wait [s], and raises TimeoutError after that.

        Raises:
            StageError: If the scheduler has gone away.
        """
        while True:
            try:
                return ask(_ANSWER_LIMIT_S)
            except TimeoutError:
                self._check_connected()

    def _check_connected(self) -> None:
        """Refuse to wait for a scheduler that has gone away.

        Raises:
            StageError: If it has.
        """
        if self._client.status != _CONNECTED:
            raise StageError(_gone(self._client.status))

    @contextlib.contextmanager
    def _scheduler_expected(self) -> Iterator[None]:
        """Report any error that comes of a scheduler which has gone away as that.

        Raises:
            StageError: If the scheduler has gone away.
        """
        try:
            yield
        except PipelineError:
            raise
        except Exception as error:
            if isinstance(error, OSError | CancelledError) or self._client.status != _CONNECTED:
                raise StageError(_gone(str(error))) from error
            raise


def _gone(reason: str) -> str:
    return f"dask: the scheduler has gone away ({reason}); start it and run the same command again"


@contextlib.contextmanager
def executor_for(
    compute: Compute, *, waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
) -> Iterator[Executor]:
    """Start, or connect to, the workers that the settings name, and stop what was started.

    Args:
        waiting: Surrounds the wait for workers. It sees a Ctrl-C before what was started is stopped, which takes as
            long as the start.

    Raises:
        PipelineError: If workers cannot be started here, or the named scheduler cannot be reached or has none.
    """
    if not compute.dask_address and compute.workers == 0:
        yield InlineExecutor()
        return
    # A Ctrl-C while Dask starts or ends processes would leave some behind. It is let through where this process only
    # waits: for workers, and in the caller's block.
    with held_back(), contextlib.ExitStack() as started:
        dask_logger = started.enter_context(_quiet_dask())
        if compute.dask_address:
            address, expected, limit_s = compute.dask_address, 1, compute.connect_limit_s
        else:
            address = started.enter_context(_local_cluster(compute.workers, compute.dashboard_port))
            expected, limit_s = compute.workers, _LOCAL_START_LIMIT_S
        client = started.enter_context(_client(address, limit_s))
        executor = DaskExecutor(client)
        with waiting():
            _await_workers(executor, address, expected, limit_s)
        # At its end Dask logs workers in the middle of a unit, and a scheduler that has gone away, at length.
        started.callback(dask_logger.setLevel, logging.CRITICAL)
        logger.info("Dask dashboard: %s", client.dashboard_link)
        with let_through():
            yield executor


@contextlib.contextmanager
def _local_cluster(workers: int, dashboard_port: int) -> Iterator[str]:
    """Start a scheduler and workers of one thread each, which may still be starting then; yields its address.

    Call it with Ctrl-C held back. The workers never see a Ctrl-C: it reaches the whole process group, and is meant for
    this process, which ends its workers in order.

    Raises:
        PipelineError: If the scheduler cannot be started, because the dashboard's port is taken, say.
    """
    import dask
    from distributed import LocalCluster

    settings = {
        "distributed.scheduler.allowed-failures": _RETRIES_AFTER_A_DEAD_WORKER,
        # Errors of units come back as outcomes; what is left are tracebacks of workers whose scheduler has just ended.
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    }
    with _environment_kept(), dask.config.set(settings):
        # Dask starts workers from a thread of its own, which the cluster starts. A thread inherits the signals that are
        # blocked where it is started, and so do the processes that it starts. (The resource tracker of multiprocessing
        # unblocks Ctrl-C when it starts, so it is started before.)
        multiprocessing.resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            socket.create_server(("127.0.0.1", dashboard_port)).close()  # Dask itself would take another port
            cluster = LocalCluster(
                n_workers=0,
                threads_per_worker=1,
                processes=True,
                host="127.0.0.1",
                dashboard_address=f"127.0.0.1:{dashboard_port}",
                memory_limit=0,
            )
        except (OSError, RuntimeError) as error:
            raise PipelineError(
                f"dask workers on this machine, dashboard_port {dashboard_port}: cannot be started ({error}); choose "
                "another port, or 0 for any"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            cluster.scale(workers)
            yield cluster.scheduler_address
        finally:
            try:
                cluster.close(timeout=_LOCAL_STOP_LIMIT_S)  # workers that are still starting end after their start
            except TimeoutError:  # Dask tries once more when Python ends, and kills them then
                logger.debug("dask: workers did not stop within %g s", _LOCAL_STOP_LIMIT_S)


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    """Restore the environment, into which Dask puts things for its workers, such as one thread for torch."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


@contextlib.contextmanager
def _client(address: str, timeout_s: float) -> Iterator["Client"]:
    """Connect to a scheduler.

    Raises:
        PipelineError: If there is none.
    """
    from distributed import Client

    class ClientWithTimeout(Client):
        """Gives up on a server that accepts the connection and is no scheduler."""

        def start(self, **arguments: Any) -> None:
            super().start(callback_timeout=timeout_s + _ANSWER_LIMIT_S, **arguments)

    client_logger = logging.getLogger("distributed.client")
    client_logger.setLevel(logging.NOTSET)  # an earlier client was silenced when it was closed
    try:
        client = ClientWithTimeout(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise PipelineError(
            f"dask address {address!r}: no scheduler answers within {timeout_s:g} s ({error}); start one, or correct "
            "the address"
        ) from error
    try:
        yield client
    finally:
        # For good: a client that looks for a lost scheduler logs that it gives up a little after it was closed.
        client_logger.setLevel(logging.CRITICAL)
        try:
            client.close(timeout=_CLOSE_LIMIT_S)
        except (OSError, RuntimeError, AssertionError) as error:  # must not hide why the run ends
            logger.debug("dask: the client did not end in order (%r)", error)


def _await_workers(executor: DaskExecutor, address: str, expected: int, timeout_s: float) -> None:
    """Wait for the workers of a scheduler; a Ctrl-C takes effect between two requests, never within one.

    Raises:
        PipelineError: If there are too few in time, or the scheduler goes away.
    """
    end = time.monotonic() + timeout_s
    while (found := executor.workers()) < expected:
        if time.monotonic() > end:
            raise PipelineError(
                f"dask address {address!r}: {found} workers after {timeout_s:g} s, {expected} are expected; start "
                "workers, or raise dask.connect_limit_s"
            )
        with let_through():
            time.sleep(0.05)


@contextlib.contextmanager
def _quiet_dask() -> Iterator[logging.Logger]:
    """Limit Dask's own log to warnings."""
    import distributed  # importing it sets its log level

    dask_logger = logging.getLogger(distributed.__name__)
    level = dask_logger.level
    dask_logger.setLevel(logging.WARNING)
    try:
        yield dask_logger
    finally:
        dask_logger.setLevel(level)
