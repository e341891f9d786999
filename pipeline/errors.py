"""Errors that a user of the pipeline can meet; commands show their messages without a traceback."""

from storage_schemas.errors import WriteError


class PipelineError(Exception):
    """Base of every error that this package raises on purpose."""


class StageError(PipelineError):
    """A stage ended without finishing its artifact; what is done of it stays done."""


_LASTING = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)


def may_pass(error: BaseException) -> bool:
    """Return whether an error may be gone when the unit is tried again a little later.

    Those of devices and networks may. Wrong settings, inputs and code stay wrong, and so does a path that does not
    exist or that must not be read.
    """
    if isinstance(error, WriteError):  # what the operating system said is its cause, which is lost between processes
        return not isinstance(error.__cause__, _LASTING)
    return isinstance(error, OSError) and not isinstance(error, _LASTING)
