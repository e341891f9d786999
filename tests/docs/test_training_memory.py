"""The counted memory of docs/guides/train_proposals.md is what the tool counts; the tool counts bytes as they are."""

import re

import pytest
import torch
from torch import nn

from pipeline.settings import load_settings
from tests.docs.pages import ROOT
from tools.count_paper_work import CONFIGS, RUNS
from tools.count_training_memory import GPU_GIB, peak_gib, stage_3

PAGE = (ROOT / "docs" / "guides" / "train_proposals.md").read_text(encoding="utf-8")
ROW = re.compile(
    r"^\| (stage [13], .+?) \| (\d+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| (\d+) MiB \| (\d+) \|$", re.MULTILINE
)


def test_a_chain_of_layers_takes_weights_moments_gradients_and_what_it_keeps() -> None:
    rows, width = 64, 256
    square, tall = width * width * 4, rows * width * 4

    def step(model: nn.Module) -> torch.Tensor:
        return model(next(model.parameters()).detach().new_empty(rows, width)).sum()

    layers = [nn.Linear(width, width, bias=False), nn.Tanh(), nn.Linear(width, width, bias=False)]
    found = peak_gib(lambda: nn.Sequential(*layers), step) * 2**30
    # Two layers' weights and moments, one's gradient. Kept are the inputs and the activation; the output's gradient
    # is a view of one number, that of the activation is there when the second layer's gradient is complete.
    assert found == pytest.approx(2 * 3 * square + 2 * square + 3 * tall, rel=0.1)


def test_the_page_has_each_training_with_and_without_checkpointing() -> None:
    rows = ROW.findall(PAGE)
    assert len(rows) == 12
    for plain, again in zip(rows[::2], rows[1::2], strict=True):
        assert again[0] == f"{plain[0]}, checkpointing"
        assert float(again[2]) < 0.8 * float(plain[2])
    for _, batch, whole, half, quarter, sample, parts in rows:
        assert float(whole) - float(half) == pytest.approx(int(batch) / 2 * int(sample) / 1024, rel=0.05, abs=0.2)
        sizes = {1: float(whole), 2: float(half), 4: float(quarter)}
        assert int(parts) == next(number for number, gib in sizes.items() if gib <= GPU_GIB)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_row_of_the_page_is_current(checkpointing: bool) -> None:
    settings = load_settings(CONFIGS / f"{RUNS[0]}.toml")
    label = "stage 3, MPT, ViT-B-16, fp16" + (", checkpointing" if checkpointing else "")
    (row,) = (row for row in ROW.findall(PAGE) if row[0] == label)
    assert int(row[1]) == settings.finetune.mpt.batch_pairs
    assert f"{stage_3(settings, 'mpt', int(row[1]), checkpointing=checkpointing):.1f}" == row[2]
