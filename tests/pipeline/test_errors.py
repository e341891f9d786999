"""Which errors may pass."""

import pytest

from pipeline.errors import PipelineError, may_pass
from storage_schemas.errors import WriteError


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize("error", [OSError("i/o"), TimeoutError(), ConnectionResetError(), WriteError("no space")])
def test_errors_of_devices_and_networks_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("x"),
        PermissionError("x"),
        ValueError("x"),
        PipelineError("settings"),
        caused(WriteError("x"), PermissionError("x")),
    ],
)
def test_errors_of_settings_inputs_and_paths_stay(error: Exception) -> None:
    assert not may_pass(error)
