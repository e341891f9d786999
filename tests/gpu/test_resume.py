"""A training that was stopped ends as one that was not: to the bit where algorithms are deterministic, else nearly."""

import numpy as np
import pytest
import safetensors.numpy
import torch

from pipeline.finetune.task import FinetuneTask
from pipeline.stages import run
from pipeline.train_proposals.task import ProposalTask
from tests.pipeline.finetune.finetune_run import small_settings
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.train_proposals.tiny_training import tiny_settings
from tests.pipeline.training.toy_run import Stopped

pytestmark = pytest.mark.gpu

TASKS = {"train-proposals": ProposalTask, "finetune": FinetuneTask}
STEPS, STOPPED_AFTER = 5, 4  # with a checkpoint after step 3, so that one step is taken twice


@pytest.fixture(autouse=True)
def _as_before():
    """`compute.deterministic` holds for the rest of a process; what it needs of cuBLAS `make test-gpu` sets."""
    yield
    torch.use_deterministic_algorithms(False)


def settings_of(stage, runs, device, pairs, deterministic):
    if stage == "train-proposals":
        settings = tiny_settings(runs, [f"proposal_net.training.steps={STEPS}"])
    else:
        phase = {"epochs": 2, "batch_pairs": 4, "warmup_steps": 2, "learning_rate": 1e-3}
        settings = small_settings(runs, pairs, mode="ft", ft=phase)
    compute = settings.compute.model_copy(update={"device": str(device), "deterministic": deterministic})
    return settings.model_copy(update={"compute": compute})


def weights_of(artifact):
    files = sorted(path for path in artifact.directory.glob("*.safetensors"))
    assert files
    return {
        f"{path.name} {name}": array
        for path in files
        for name, array in safetensors.numpy.load(path.read_bytes()).items()
    }


@pytest.mark.parametrize("deterministic", [False, True], ids=["as torch chooses", "deterministic"])
@pytest.mark.parametrize("stage", ["train-proposals", "finetune"])
def test_a_stop_changes_nothing(stage, deterministic, device, found, tmp_path, monkeypatch):
    if device.type == "cpu" and not deterministic:
        pytest.skip("a CPU knows deterministic algorithms alone")
    pairs = made_pairs(tmp_path / "pairs", scenes=6).directory if stage == "finetune" else None
    expected = weights_of(run(stage, settings_of(stage, tmp_path / "whole", device, pairs, deterministic)).artifact)
    settings, task = settings_of(stage, tmp_path / "stopped", device, pairs, deterministic), TASKS[stage]
    after_step, steps = task.after_step, []

    def stopping(self):
        after_step(self)
        steps.append(1)
        if len(steps) == STOPPED_AFTER:
            raise Stopped

    monkeypatch.setattr(task, "after_step", stopping)
    with pytest.raises(Stopped):
        run(stage, settings)
    weights = weights_of(run(stage, settings).artifact)
    assert len(steps) > STOPPED_AFTER
    assert weights.keys() == expected.keys()
    difference = max(float(np.abs(array - expected[name]).max()) for name, array in weights.items() if array.size)
    found("largest difference of a weight", difference)
    if deterministic or device.type == "cpu":
        assert all(np.array_equal(array, expected[name]) for name, array in weights.items())
    else:
        assert difference < 1e-3
