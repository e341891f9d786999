"""AdamW's groups on the paper's nets."""

import re

import pytest
import torch
from torch import nn

from ovseg_models.proposal_presets import build_proposal_net
from pipeline.train_proposals.task import learning_rates
from pipeline.training.learning_rates import parameter_groups


def groups_by_name(net: nn.Module, **numbers: float) -> dict[str, tuple[float, float]]:
    groups = parameter_groups(learning_rates(net, **numbers))
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = {
        names[id(parameter)]: (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found)
    return found


WITHOUT_DECAY = re.compile(r"norms?\d?\.(\d\.)?(weight|bias)$|query_positions|relative_position_bias_table$")


@pytest.mark.parametrize(("preset", "factor", "tables"), [("r101c", 0.1, 53), ("swin_b", 1.0, 189)])
def test_every_trained_parameter_is_in_the_group_that_the_paper_says(preset: str, factor: float, tables: int) -> None:
    with torch.device("meta"):
        net = build_proposal_net(preset)
    found = groups_by_name(net, learning_rate=2e-4, backbone_rate_factor=factor, weight_decay=1e-4)
    trained = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert found.keys() == trained
    rates = {name.startswith("backbone."): rate for name, (rate, _) in found.items()}
    assert rates == {True: pytest.approx(2e-4 * factor), False: 2e-4}
    exempt = {name for name, (_, decay) in found.items() if decay == 0}
    assert exempt == {name for name in trained if WITHOUT_DECAY.search(name)}
    assert len(exempt) == tables
    assert found["no_object_embedding"][1] == 1e-4
    assert found["mask_head.layers.0.weight"] == (2e-4, 1e-4)


def test_embedding_tables_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    net = nn.ModuleDict({"backbone": nn.Linear(2, 2), "table": nn.Embedding(3, 2), "norm": nn.GroupNorm(1, 2)})
    net["backbone"].bias.requires_grad_(False)
    found = groups_by_name(net, learning_rate=1.0, backbone_rate_factor=0.5, weight_decay=0.1)
    assert found == {
        "backbone.weight": (0.5, 0.1),
        "table.weight": (1.0, 0.0),
        "norm.weight": (1.0, 0.0),
        "norm.bias": (1.0, 0.0),
    }
