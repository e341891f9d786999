"""Lets the caller of a stage have a hand in how its units are run, which the stage need not know of.

The Prefect flow uses it to make a task run of every unit, and to try a unit again where that may help.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from pipeline.executors import Executor
from storage_schemas.artifact import Artifact
from storage_schemas.errors import WriteError


class Supervisor(Protocol):
    """Puts something of its own around the executor of every stage that runs in its block."""

    def supervise(self, artifact: Artifact, executor: Executor) -> Executor:
        """Return what runs the units of an artifact in place of the executor, and by means of it."""
        ...


_supervisor: ContextVar[Supervisor | None] = ContextVar("supervisor", default=None)


@contextlib.contextmanager
def supervised_by(supervisor: Supervisor) -> Iterator[None]:
    """Let a supervisor see to the units of all stages that are run in the block, in this thread."""
    token = _supervisor.set(supervisor)
    try:
        yield
    finally:
        _supervisor.reset(token)


def supervised(artifact: Artifact, executor: Executor) -> Executor:
    """Return the executor as the supervisor in charge wants it, or as it is if there is none."""
    supervisor = _supervisor.get()
    return executor if supervisor is None else supervisor.supervise(artifact, executor)


_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def may_pass(error: BaseException) -> bool:
    """Tell whether an error may be gone when the unit is tried again a little later.

    Those of devices and networks may. Wrong settings, inputs and code stay wrong, and so does a path that is not there
    or that nobody may read.
    """
    if isinstance(error, WriteError):  # what the operating system said is its cause, which is lost between processes
        return not isinstance(error.__cause__, _LASTING)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)
