"""The environment variables that Prefect reads when it is first imported; what the user has set stays."""

import os
from pathlib import Path

from flows.local_server import reach_this_machine_directly

# Nothing is reported to anybody, and a server that has gone away is given up after seconds instead of minutes. The
# server stores what it receives in batches, at least every second: one by one it needs 40 CPU-s for 1,000 task runs.
_CONSTANT = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_FLUSH_INTERVAL": "1",
    "PREFECT_CLIENT_MAX_RETRIES": "2",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def prefect_home(runs_dir: Path) -> Path:
    """Return where Prefect keeps its database: ``RUNS/prefect``, or where ``PREFECT_HOME`` says."""
    return Path(os.environ.get("PREFECT_HOME") or runs_dir / "prefect").absolute()


def set_prefect_environment(home: Path, *, server_start_limit_s: int) -> None:
    """Prepare the import of Prefect in this process and those that it starts.

    Args:
        home: From `prefect_home`.
        server_start_limit_s: How long Prefect's own temporary server may take to start [s].
    """
    variables = {
        **_CONSTANT,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(server_start_limit_s),
    }
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    reach_this_machine_directly()
