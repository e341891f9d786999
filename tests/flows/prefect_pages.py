"""What a Prefect server knows of the runs of a test."""

import json
import time
import urllib.error
import urllib.request
from typing import Any


def sent(address: str, document: dict[str, Any]) -> Any:
    """Send what the pages send; a server that says it is too busy is asked again, as Prefect's own client does."""
    request = urllib.request.Request(
        address, data=json.dumps(document).encode(), headers={"content-type": "application/json"}
    )
    for _ in range(10):
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise
        time.sleep(2)
    message = f"{address}: is busy all the time"
    raise AssertionError(message)


class Pages:
    """What the server knows of the runs since this was made."""

    def __init__(self, api: str) -> None:
        self.api = api
        self.before = {run["id"] for run in self.read("flow_runs")}

    def read(self, what: str, **filters: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            page = sent(f"{self.api}/{what}/filter", {"limit": 200, "offset": len(found), **filters})
            found += page
            if len(page) < 200:
                return found

    def flow_runs(self) -> dict[str, dict[str, Any]]:
        return {run["name"]: run for run in self.read("flow_runs") if run["id"] not in self.before}

    def task_runs(self, flow_run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {run["name"]: run for run in self.read("task_runs", flow_runs={"id": {"any_": [flow_run["id"]]}})}

    def artifacts(self, flow_run: dict[str, Any]) -> dict[str, Any]:
        found = self.read("artifacts", artifacts={"flow_run_id": {"any_": [flow_run["id"]]}})
        return {artifact["key"]: artifact for artifact in found}
