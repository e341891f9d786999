"""The device that ``--device`` names, and what its tests found, printed at the end."""

import pytest
import torch

from tests.gpu.report import OUTCOMES, Result, machine, markdown


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device under test: a CPU in `make test`, where the same code runs so that it is known to work."""
    chosen = torch.device(request.config.getoption("device"))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    return chosen


@pytest.fixture
def found(record_property):
    """Call it with a name and a figure, and the report has both."""
    return record_property


def pytest_terminal_summary(terminalreporter, config):
    device = torch.device(config.getoption("device"))
    if device.type == "cpu":
        return
    results = [
        result_of(report, outcome)
        for outcome in OUTCOMES
        for report in terminalreporter.stats.get(outcome, [])
        if "tests/gpu/" in report.nodeid
    ]
    terminalreporter.section("to be pasted into an issue")
    terminalreporter.write_line(markdown(machine(device), sorted(results, key=lambda result: result.test)))


def result_of(report: pytest.TestReport, outcome: str) -> Result:
    name = report.nodeid.split("tests/gpu/")[1]
    if outcome == "skipped":
        return Result(name, outcome, {}, report.longrepr[2].removeprefix("Skipped: "))
    if outcome in ("failed", "error"):
        crash = getattr(report.longrepr, "reprcrash", None)
        message = crash.message if crash is not None else str(report.longrepr)
        return Result(name, outcome, dict(report.user_properties), message.splitlines()[0])
    return Result(name, outcome, dict(report.user_properties))
