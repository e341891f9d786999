"""All stages on a CUDA device without numbers: every operand is on its device, and of the type that is meant.

Forward passes and losses only: backward passes don't work here, as they need CUDA's threads of autograd.
`make test-gpu` runs them where there is a GPU.
"""

from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch.amp import GradScaler

from ovseg_models.precision import half_precision
from pipeline.finetune.task import FinetuneTask
from pipeline.settings import Precision
from pipeline.train_proposals.task import Vocabulary
from pipeline.training.loop import StepContext
from pipeline.training.processes import Processes
from tests.fake_cuda import CUDA, FakeCuda
from tests.pipeline.finetune import test_task as finetuning
from tests.pipeline.finetune.made_pairs import made_pairs
from tests.pipeline.train_proposals import test_task as proposals

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = get_args(Precision)
ON_CUDA = Processes(0, 1, CUDA)


class WithoutBackward(StepContext):
    """A step that looks at the losses where it would begin to send gradients back."""

    def backward(self, loss):
        assert loss.requires_grad
        assert (loss.dtype, loss.device, loss.shape) == (torch.float32, CUDA, ())


def step(precision):
    return WithoutBackward(ON_CUDA, 1, GradScaler("cuda", enabled=False), half_precision(CUDA, precision))


@pytest.mark.parametrize(
    ("precision", "unlabelled"), [*((precision, "background") for precision in PRECISIONS), ("fp32", "left_out")]
)
def test_stage_1_computes_net_matching_and_losses(precision, unlabelled):
    host = proposals.task(unlabelled_pixels=unlabelled)
    left = []
    host.net.register_forward_hook(lambda _module, _inputs, output: left.append(output))
    with FakeCuda() as device:
        host.net.to(CUDA)
        vocabulary = Vocabulary(host.vocabulary.text_embeddings.to(CUDA), host.vocabulary.places)
        task = replace(host, processes=ON_CUDA, vocabulary=vocabulary)
        device.waits.clear()
        terms = task.backward(task.net, proposals.batch(), step(precision))
    assert {name: (value.dtype, value.device) for name, value in terms.items()} == dict.fromkeys(
        ["loss", "classification", "focal", "dice"], (torch.float32, CUDA)
    )
    (output,) = left
    assert all(layer.mask_logits.dtype == HALF.get(precision, torch.float32) for layer in output.layers)
    assert all(layer.mask_logits.device == CUDA for layer in output.layers)
    assert device.waits == {"to the host": 1}  # the costs of all layers together


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=5)


@pytest.mark.parametrize(
    ("precision", "loss"), [*((precision, "contrastive") for precision in PRECISIONS), ("fp32", "noun-aware")]
)
def test_stage_3_computes_tower_and_losses(pairs, precision, loss):
    host = finetuning.task_of(pairs, "ft+mpt", loss=loss)
    batch = finetuning.batch_of(host)
    left = []
    with FakeCuda() as device:
        host.adapted.to(CUDA)
        task: FinetuneTask = replace(host, processes=ON_CUDA, noun_embeddings=host.noun_embeddings.to(CUDA))
        task.optimizer()
        device.waits.clear()
        block = task.adapted.clip.visual.transformer.resblocks[0]
        block.mlp.register_forward_hook(lambda _module, _inputs, output: left.append(output.dtype))
        task.model.register_forward_hook(lambda _module, _inputs, output: left.append(output.dtype))
        terms = task.backward(task.model, batch, step(precision))
        task.after_step()
    assert left == [HALF.get(precision, torch.float32), torch.float32]
    assert terms["loss"].device == terms["logit_scale"].device == CUDA
    assert terms["loss"].dtype == torch.float32
    assert not device.waits
