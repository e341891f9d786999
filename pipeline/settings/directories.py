"""The runs directory: found to be writable before hours are spent."""

import tempfile
from pathlib import Path

from pipeline.settings.errors import SettingsError


def writable_runs_dir(path: Path) -> Path:
    """Make the runs directory if it is not there, and try it by writing a file that vanishes at once.

    Returns:
        The path as it was given.

    Raises:
        SettingsError: If it cannot be made, is no directory, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except (FileExistsError, NotADirectoryError) as error:
        message = f"runs_dir: should be a directory, a file is in its place; choose another (got {path})"
        raise SettingsError([message]) from error
    except OSError as error:
        message = f"runs_dir: cannot be written to ({error.strerror}); make it writable or choose another (got {path})"
        raise SettingsError([message]) from error
