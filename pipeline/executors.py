"""Where units run: in this process, or on Dask workers on this machine or others."""

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from pipeline.errors import PipelineError, StageError
from pipeline.interrupts import held_back, let_through
from pipeline.local_cluster import local_cluster

if TYPE_CHECKING:
    from distributed import Client, Future

logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Answer = TypeVar("Answer")
Unit = str

# Workers on this machine appear, sooner or later: a busy machine takes long to import what they need.
_LOCAL_START_LIMIT_S = 300.0

# What Dask's client calls itself while it has a scheduler.
_CONNECTED = "running"

_LOOK_S = 0.05  # between two looks at what has ended, and whether the scheduler is still there
_CLIENT_LOG = "distributed.client"
_ANSWER_LIMIT_S = 5.0  # for a question's few bytes of answer, before looking whether one will come at all
_STOP_LIMIT_S = 30.0  # for threads that wait for units to see that they won't come
_CLOSE_LIMIT_S = 10.0  # for the client to take leave of its scheduler


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
    Threads may share it. None of them waits for a scheduler that has gone away, or for units when it is stopped.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._stopping = False
        self._in_use = 0
        self._left = threading.Condition()

    def outcomes(self, function: Callable[[Unit], Result], units: Sequence[Unit]) -> Generator[Outcome[Result]]:
        """Run the function on every unit; a unit whose worker dies is run again, a few times at most.

        Raises:
            PipelineError: If the scheduler goes away, or this is stopped; what the workers still finish is found by
                the next run.
        """
        waiting = deque(units)
        running: dict[Future[Result], Unit] = {}
        with self._used():
            try:
                self._begin(function, waiting, running)
                while running:
                    future = self._next(running)
                    outcome = self._outcome(future, running.pop(future))
                    self._begin(function, waiting, running)
                    yield outcome
            finally:
                self._let_go(running)

    def width(self) -> int:
        """Return the number of threads of all workers that are there, or 1 if they are on their way.

        Raises:
            StageError: If the scheduler has gone away.
        """
        return max(1, sum(self._threads().values()))

    def workers(self) -> int:
        """Return how many workers are there.

        Raises:
            StageError: If the scheduler has gone away.
        """
        return len(self._threads())

    def _threads(self) -> dict[str, int]:
        """Ask for the number of threads of each worker."""
        with self._scheduler_missed():
            return self._answer(lambda limit_s: self._client.nthreads(callback_timeout=limit_s))

    def stop(self) -> None:
        """Begin no more units, and wait until no thread waits for one; the client can be closed then."""
        self._stopping = True
        with self._left:
            if not self._left.wait_for(lambda: not self._in_use, _STOP_LIMIT_S):
                logger.debug("dask: %d threads still wait for units", self._in_use)

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """Note that a thread makes use of this."""
        with self._left:
            self._in_use += 1
        try:
            yield
        finally:
            with self._left:
                self._in_use -= 1
                self._left.notify_all()

    def _begin(
        self,
        function: Callable[[Unit], Result],
        waiting: deque[Unit],
        running: "dict[Future[Result], Unit]",
    ) -> None:
        """Begin as many units as there are free threads; one at least, which waits for a worker to come back."""
        if not waiting:
            return
        self._check_in_charge()
        alone = len(waiting) == 1 and not running  # as ever, where somebody else sees to how many are begun
        room = 1 if alone else self.width() - len(running)
        with self._scheduler_missed():
            for _ in range(min(room, len(waiting))):
                unit = waiting.popleft()
                running[self._client.submit(function, unit, pure=False)] = unit

    def _next(self, running: "Iterable[Future[Result]]") -> "Future[Result]":
        """Wait for a unit to end, and look now and then, for what is sent to a scheduler that is gone never ends."""
        while True:
            for future in running:
                if future.done():
                    return future
            self._check_in_charge()
            time.sleep(_LOOK_S)

    def _outcome(self, future: "Future[Result]", unit: Unit) -> Outcome[Result]:
        """Read what became of one unit."""
        with self._scheduler_missed():
            if future.status == "finished":
                outcome: Outcome[Result] = Outcome(unit, self._answer(future.result), None)
            elif future.status == "error":
                error = self._answer(future.exception)
                outcome = Outcome(unit, None, error if isinstance(error, Exception) else RuntimeError(repr(error)))
            else:
                message = f"{unit} is {future.status}"
                raise CancelledError(message)
            future.release()
        return outcome

    def _answer(self, ask: Callable[[float], Answer]) -> Answer:
        """Ask until there is an answer, for workers may be slow to give one, or make it anew for one that has died.

        Left to itself, the client waits for a scheduler that has gone away as long as it did to connect at first.

        Args:
            ask: Takes how long to wait [s], and raises TimeoutError after that.

        Raises:
            PipelineError: If this is stopped, or the scheduler has gone away.
        """
        while True:
            try:
                return ask(_ANSWER_LIMIT_S)
            except TimeoutError:
                self._check_in_charge()

    def _let_go(self, running: "dict[Future[Result], Unit]") -> None:
        """Take back the units that have not ended."""
        if not running or self._client.status != _CONNECTED:
            return
        try:
            self._client.cancel(list(running), force=True)
        except (OSError, CancelledError) as error:  # what led here is what the user has to know
            logger.debug("dask: units in hand could not be taken back (%s)", error)

    def _check_in_charge(self) -> None:
        """Refuse to wait for what will not come.

        Raises:
            PipelineError: If this is stopped, or the scheduler has gone away.
        """
        if self._stopping:
            message = "dask: the run is being stopped; run the same command to go on"
            raise PipelineError(message)
        if self._client.status != _CONNECTED:
            raise StageError(_gone(self._client.status))

    @contextlib.contextmanager
    def _scheduler_missed(self) -> Iterator[None]:
        """Tell errors that come of a scheduler which has gone away as such, whatever the client makes of them.

        Raises:
            StageError: If the scheduler has gone away.
        """
        try:
            yield
        except PipelineError:
            raise
        except (OSError, CancelledError) as error:
            raise StageError(_gone(str(error))) from error
        except Exception as error:
            if self._client.status == _CONNECTED:
                raise
            raise StageError(_gone(str(error))) from error


def _gone(reason: str) -> str:
    return f"dask: the scheduler has gone away ({reason}); start it and run the same command again"


@contextlib.contextmanager
def executor_for(
    compute: Compute, *, waiting: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
) -> Iterator[Executor]:
    """Start, or connect to, the workers that the settings name, and stop what was started.

    Args:
        compute: Where units run.
        waiting: What surrounds the wait for workers: told of a Ctrl-C, it can speak before what was started is
            stopped, which takes as long as the start.

    Raises:
        PipelineError: If workers cannot be started here, or the named scheduler cannot be reached or has none.
    """
    if not compute.dask_address and compute.workers == 0:
        yield InlineExecutor()
        return
    # Dask is not to be cut when it starts or ends processes: it would lose them, and say so at length.
    with held_back(), contextlib.ExitStack() as started:
        dask_logger = started.enter_context(_quiet_dask())
        address = started.enter_context(_cluster_address(compute))
        wanted = (1, compute.connect_limit_s) if compute.dask_address else (compute.workers, _LOCAL_START_LIMIT_S)
        client = started.enter_context(_client(address, wanted[1]))
        with waiting():
            _await_workers(client, address, *wanted)
        # Ending, Dask tells at length of workers in the middle of a unit, and of a scheduler that has gone away.
        started.callback(dask_logger.setLevel, logging.CRITICAL)
        logger.info("Dask dashboard: %s", client.dashboard_link)
        executor = DaskExecutor(client)
        started.callback(executor.stop)
        with let_through():
            yield executor


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
    with local_cluster(compute.workers, compute.dashboard_port) as address:
        yield address


@contextlib.contextmanager
def _client(address: str, timeout_s: float) -> Iterator["Client"]:
    """Connect to a scheduler.

    Raises:
        PipelineError: If there is none.
    """
    from distributed import Client

    class PunctualClient(Client):
        """A client that waits for what has been reached, and is no scheduler, no longer than for one to be reached."""

        def start(self, **arguments: Any) -> None:
            super().start(callback_timeout=timeout_s + _ANSWER_LIMIT_S, **arguments)

    logging.getLogger(_CLIENT_LOG).setLevel(logging.NOTSET)  # an earlier client was silenced when it was closed
    try:
        client = PunctualClient(address, timeout=timeout_s, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        message = (
            f"dask address {address!r}: no scheduler answers within {timeout_s:g} s ({error}); start one or mend it"
        )
        raise PipelineError(message) from error
    try:
        yield client
    finally:
        _close(client)


def _await_workers(client: "Client", address: str, wanted: int, timeout_s: float) -> None:
    """Wait for the workers of a scheduler; a Ctrl-C takes effect between two questions.

    Raises:
        PipelineError: If there are too few in time, or the scheduler goes away.
    """
    end, executor = time.monotonic() + timeout_s, DaskExecutor(client)
    while (found := executor.workers()) < wanted:
        if time.monotonic() > end:
            message = (
                f"dask address {address!r}: {found} workers after {timeout_s:g} s, {wanted} are wanted; start workers, "
                "or raise dask.connect_limit_s"
            )
            raise PipelineError(message)
        with let_through():
            time.sleep(_LOOK_S)


def _close(client: "Client") -> None:
    """Close a client, whose scheduler may have gone away, so that nothing it says of that hides why the run ends."""
    # Beyond the end, since one that looks for a lost scheduler says a little later that it gives up, when it is closed.
    logging.getLogger(_CLIENT_LOG).setLevel(logging.CRITICAL)
    try:
        client.close(timeout=_CLOSE_LIMIT_S)
    except (OSError, RuntimeError, AssertionError) as error:
        logger.debug("dask: the client did not end in order (%r)", error)
