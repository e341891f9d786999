"""Set up before any test module is imported: one thread for torch, shape checks for ovseg_models."""

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

# Read when torch is first imported; tests of the storage never import it, so it isn't imported here to be printed.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OVSEG_TEXT_CACHE"] = "off"  # tests of the cache make their own; none writes into a user's home

# A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# CI judges the change, not its luck: there hypothesis draws the same examples each time, elsewhere new ones. How long
# an example takes depends on what else the machine does, and judges nothing.
hypothesis.settings.register_profile(
    "project",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
hypothesis.settings.load_profile("project")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let the tests of tests/gpu run on a device of one's own."""
    parser.addoption("--device", default="cpu", help="where tests/gpu computes: cpu, cuda or cuda:N (make test-gpu)")


# jaxtyping gives the compiled file of a checked module a name of its own, and by mistake those of all modules that are
# first imported by it: where Python writes none (PYTHONDONTWRITEBYTECODE), each test process would compile torch and
# what it needs, 2000 modules in 11 s. So only our own files get that name.
_name_of_checked = jaxtyping._import_hook._optimized_cache_from_source
_CHECKED = str(Path(__file__).parents[1] / "ovseg_models")


def _name_of_compiled(typechecker: str, /, path: str, debug_override: bool | None = None) -> str:
    if str(path).startswith(_CHECKED):
        return _name_of_checked(typechecker, path, debug_override)
    return importlib.util.cache_from_source(path, debug_override)


jaxtyping._import_hook._optimized_cache_from_source = _name_of_compiled
jaxtyping.install_import_hook("ovseg_models", "beartype.beartype")


@pytest.fixture
def without_shape_checks() -> Iterator[None]:
    """Call the code as users do, without run-time types, to see the errors that it raises itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
