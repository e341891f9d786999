"""Runs that are started from Prefect's pages, by ``ovseg serve``."""

import os
import signal
import sys
from pathlib import Path
from subprocess import Popen
from typing import Any

import psutil
import pytest

from storage_schemas.artifact import artifacts_below
from tests.flows.flow_process import command_of, group, wait_until
from tests.flows.prefect_pages import Pages, sent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]  # it starts processes that import torch and Prefect

SCENES = """
[datasets.few]
dataset = "drawn-world"
split = "val"
drawn_world = { scenes = 4 }
scenes_per_shard = 2
"""


def runs_of(process: Popen[str]) -> list[psutil.Process]:
    """List the processes in which runs are still at work; Python's own tracker of shared resources stays to the end."""
    children = psutil.Process(process.pid).children(recursive=True)
    words = [" ".join(command_of(child)) for child in children]
    return [child for child, said in zip(children, words, strict=True) if said and "resource_tracker" not in said]


def test_a_run_is_started_from_a_form_of_all_settings(prefect_api: str, settings_file: Path) -> None:
    settings_file.write_text(settings_file.read_text() + SCENES)
    pages = Pages(prefect_api)
    before = {deployment["id"] for deployment in pages.read("deployments")}

    def offered() -> list[dict[str, Any]]:
        return [deployment for deployment in pages.read("deployments") if deployment["id"] not in before]

    command = [sys.executable, "-m", "flows.command", "serve", "--config", str(settings_file)]
    with group(command) as process:
        wait_until(lambda: bool(offered()), interval_s=0.5)
        (deployment,) = offered()
        form, filled_in = deployment["parameter_openapi_schema"], deployment["parameters"]["settings"]
        assert list(form["properties"]) == ["settings", "from_stage", "only_stage", "variant"]
        assert set(form["definitions"]["Settings"]["properties"]) == set(filled_in)
        assert filled_in["datasets"]["few"]["scenes_per_shard"] == 2
        filled_in["datasets"]["few"]["scenes_per_shard"] = 4  # as somebody may who fills in the form
        run = sent(
            f"{prefect_api}/deployments/{deployment['id']}/create_flow_run",
            {
                "parameters": {"settings": filled_in, "only_stage": "prepare"},
                "state": {"type": "SCHEDULED"},
                "idempotency_key": "once",
            },
        )
        started = {"flow_runs": {"id": {"any_": [run["id"]]}}}
        wait_until(
            lambda: pages.read("flow_runs", **started)[0]["state_type"] in {"COMPLETED", "FAILED", "CRASHED"},
            interval_s=0.5,
        )
        (ended,) = pages.read("flow_runs", **started)
        assert ended["state_type"] == "COMPLETED", ended["state"]["message"]
        wait_until(lambda: not runs_of(process), interval_s=0.5)
        os.killpg(process.pid, signal.SIGINT)
        _, printed = process.communicate(timeout=600)
        assert process.returncode == 0, printed
        assert "Traceback" not in printed
    (artifact,) = artifacts_below(settings_file.parent / "runs")
    assert (artifact.manifest().rows, len(artifact.description.units)) == (4, 1)
    (task,) = pages.task_runs(pages.flow_runs()["prepare trial"]).values()
    assert (task["name"], task["state_type"]) == (
        f"{artifact.identity.kind} {artifact.identity.name} shard-00000",
        "COMPLETED",
    )
