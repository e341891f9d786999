"""Workers of Dask on this machine, for the time of a block. They never see a Ctrl-C, and are ended in order."""

import contextlib
import logging
import multiprocessing.resource_tracker
import os
import signal
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from distributed import LocalCluster

logger = logging.getLogger(__name__)

# A unit that kills its worker this often more fails; the workers that it killed are started again in between.
_RETRIES_AFTER_A_DEAD_WORKER = 2

_STOP_LIMIT_S = 120.0  # for workers to stop, and to start before that if they are still at it


@contextlib.contextmanager
def local_cluster(workers: int, dashboard_port: int) -> Iterator[str]:
    """Start a scheduler and workers, which may still be starting then; yields the scheduler's address.

    Call it with Ctrl-C held back, which starting and ending processes does not bear.

    Args:
        workers: How many processes, of one thread each.
        dashboard_port: Port of the Dask dashboard on 127.0.0.1; 0 takes a free one.

    Raises:
        PipelineError: If the scheduler cannot be started, because the dashboard's port is taken, say.
    """
    import dask

    settings = {
        "distributed.scheduler.allowed-failures": _RETRIES_AFTER_A_DEAD_WORKER,
        # Errors of units come back as outcomes; what is left are tracebacks of workers whose scheduler has just ended.
        "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    }
    with _environment_kept(), dask.config.set(settings):
        cluster = _started(dashboard_port)
        try:
            cluster.scale(workers)
            yield cluster.scheduler_address
        finally:
            try:
                cluster.close(timeout=_STOP_LIMIT_S)  # workers that are still starting end after their start
            except TimeoutError:  # Dask tries once more when Python ends, and kills them then
                logger.debug("dask: workers did not stop within %g s", _STOP_LIMIT_S)


def _started(dashboard_port: int) -> "LocalCluster":
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
