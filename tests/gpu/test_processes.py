"""Several processes, one per GPU, take the steps that one takes. On a CPU they are two, and exchange through gloo."""

import json
import shutil

import pytest
import torch

from flows.command import main
from pipeline.stages import run
from tests import forked
from tests.pipeline.planned import artifact_of
from tests.pipeline.train_proposals.tiny_training import tiny_config, tiny_settings

pytestmark = pytest.mark.gpu

STEPS, BATCH = 3, 8


def changes_of(device):
    return [
        f"compute.device={device.type}",
        f"proposal_net.training.steps={STEPS}",
        f"proposal_net.training.batch_images={BATCH}",
    ]


def metrics_of(artifact):
    lines = map(json.loads, (artifact.directory / "report.metrics.jsonl").read_text().splitlines())
    return [line for line in lines if line["group"] == "train"]


def succeed(words):
    assert main(words) == 0


@pytest.mark.slow
def test_processes_take_the_steps_of_one(device, found, tmp_path):
    gpus = torch.cuda.device_count() if device.type == "cuda" else 2
    if gpus < 2:
        pytest.skip("one GPU: NCCL takes one for each process")
    count = max(number for number in range(2, min(gpus, BATCH) + 1) if BATCH % number == 0)
    one = run("train-proposals", tiny_settings(tmp_path / "one", changes_of(device))).artifact
    runs = tmp_path / "several"
    shutil.copytree(tmp_path / "one" / "scenes", runs / "scenes")
    command = ["train-proposals", "--config", str(tiny_config(tmp_path / "config"))]
    changes = [f"--set={change}" for change in [f"runs_dir={runs}", *changes_of(device)]]
    forked.finish(forked.start_group(count, succeed, [*command, *changes]))
    several = artifact_of(tiny_settings(runs, changes_of(device)), "proposal_net")
    one, several = metrics_of(one), metrics_of(several)
    assert [line["step"] for line in several] == list(range(1, STEPS + 1))
    differences = [abs(line["loss"] / other["loss"] - 1) for line, other in zip(several, one, strict=True)]
    found("processes", count)
    found("largest relative difference of a loss", max(differences))
    assert max(differences) < 1e-4
