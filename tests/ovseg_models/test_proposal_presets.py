import json

import pytest
import torch

from ovseg_models.proposal_presets import PRESETS, build_proposal_net


def count(net, *, trainable):
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trainable)


@pytest.mark.parametrize(("preset", "millions", "dim"), [("r101c", 60.7, 512), ("swin_b", 102.8, 768)])
def test_the_papers_nets_have_their_parameter_counts(preset, millions, dim):
    with torch.device("meta"):
        net = build_proposal_net(preset)
    assert round(count(net, trainable=True) / 1e6, 1) == millions
    assert net.no_object_embedding.shape == (1, dim)
    assert net.query_decoder.query_positions.weight.shape == (100, 256)
    assert len(net.query_decoder.decoder_layers) == 6


def test_the_small_net_is_small():
    assert 0.5e6 < count(build_proposal_net("small"), trainable=False) < 0.7e6


def test_the_no_object_embedding_starts_with_the_given_deviation():
    torch.manual_seed(0)
    net = build_proposal_net("small", embedding_dim=2048, no_object_std=0.04)
    assert net.no_object_embedding.std().item() == pytest.approx(0.04, rel=0.1)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_arguments_survive_json_and_rebuild_the_net(preset):
    with torch.device("meta"):
        net = build_proposal_net(preset, queries=9)
        rebuilt = build_proposal_net(**json.loads(json.dumps(net.arguments)))
    shapes = {name: tensor.shape for name, tensor in net.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in rebuilt.state_dict().items()}
    assert rebuilt.arguments == net.arguments
    assert net.arguments["queries"] == 9
    assert net.arguments["pretrained"] is False


def test_unknown_and_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match=r"preset is 'r50', one of \['r101c', 'small', 'swin_b'\] is expected"):
        build_proposal_net("r50")
    with pytest.raises(ValueError, match=r"unknown arguments \['query'\]"):
        build_proposal_net("small", query=3)
    with pytest.raises(ValueError, match="no backbone is named"):
        build_proposal_net(queries=3)
    with pytest.raises(ValueError, match="queries is 0, at least 1 is expected"):
        build_proposal_net("small", queries=0)
    with pytest.raises(ValueError, match="hidden_dim is 66, a multiple of heads = 4 is expected"):
        build_proposal_net("small", hidden_dim=66)


@pytest.mark.parametrize(("source", "stride_px"), [("res3", 8), ("res4", 16), ("res5", 32)])
def test_the_queries_read_the_map_that_is_named(source: str, stride_px: int) -> None:
    net = build_proposal_net("small", query_source=source)
    seen = []
    net.query_decoder.register_forward_pre_hook(lambda _, arguments: seen.append(tuple(arguments[0].shape[-2:])))
    net(torch.zeros(2, 3, 64, 96))
    assert seen == [(64 // stride_px, 96 // stride_px)]


@pytest.mark.usefixtures("without_shape_checks")
def test_a_map_that_no_query_can_read_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query_source is 'res2', one of \['res3', 'res4', 'res5'\] is expected"):
        build_proposal_net("small", query_source="res2")
