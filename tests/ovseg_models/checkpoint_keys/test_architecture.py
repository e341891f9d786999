import json

import pytest
import torch

from ovseg_models.checkpoint_keys.architecture import arguments_from_published
from ovseg_models.checkpoint_keys.proposal_net import proposal_net_from_published, proposal_net_to_published
from ovseg_models.proposal_presets import build_proposal_net

SMALL_SWIN = {
    "backbone": "swin_base_patch4_window12_384",
    "backbone_arguments": {
        "timm_arguments": {"embed_dim": 8, "depths": [1, 2, 3, 1], "num_heads": [1, 2, 2, 4], "window_size": 3}
    },
    "embedding_dim": 12,
    "embedding_hidden_dim": 16,
    "queries": 7,
    "hidden_dim": 24,
    "mask_dim": 20,
    "norm_groups": 4,
    "heads": 2,
    "feedforward_dim": 28,
    "encoder_layers": 1,
    "decoder_layers": 3,
}


@pytest.mark.parametrize(("preset", "backbone"), [("r101c", "r101c"), ("swin_b", "swin_base_patch4_window12_384")])
def test_the_papers_nets_are_recognised(preset, backbone):
    with torch.device("meta"):
        net = build_proposal_net(preset)
        arguments = arguments_from_published(proposal_net_to_published(net.state_dict()))
        rebuilt = build_proposal_net(**json.loads(json.dumps(arguments)))
    assert arguments["backbone"] == backbone
    assert proposal_net_from_published(proposal_net_to_published(net.state_dict()), rebuilt.state_dict()).report.fits
    assert rebuilt.arguments["embedding_dim"] == net.arguments["embedding_dim"]
    assert [p.requires_grad for p in rebuilt.parameters()] == [p.requires_grad for p in net.parameters()]


def test_every_size_is_read_from_the_shapes():
    published = proposal_net_to_published(build_proposal_net(**SMALL_SWIN).state_dict())
    assert arguments_from_published(published, heads=2, norm_groups=4) == SMALL_SWIN
    old = {key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor for key, tensor in published.items()}
    assert arguments_from_published(old, heads=2, norm_groups=4) == SMALL_SWIN


def test_a_linear_class_head_leaves_the_embedding_sizes_open():
    published = proposal_net_to_published(build_proposal_net(**SMALL_SWIN).state_dict())
    published = {key: tensor for key, tensor in published.items() if "class_embed" not in key}
    published["sem_seg_head.predictor.class_embed.weight"] = torch.zeros(134, 24)
    arguments = arguments_from_published(published)
    assert arguments["queries"] == 7
    assert not {"embedding_dim", "embedding_hidden_dim"} & arguments.keys()


@pytest.mark.parametrize("name", ["resnet50", "resnet101"])
def test_maskformers_plain_resnets_are_recognised(name):
    with torch.device("meta"):
        net = build_proposal_net(**SMALL_SWIN | {"backbone": name, "backbone_arguments": {}})
        arguments = arguments_from_published(proposal_net_to_published(net.state_dict()))
    assert arguments["backbone"] == name
    assert arguments["backbone_arguments"] == {"freeze_at": 2, "frozen_batch_norm": True}


def test_other_files_are_refused():
    with pytest.raises(ValueError, match=r"its backbone has \(0, 0, 0, 0\) blocks per stage and no deep stem"):
        arguments_from_published({"visual.proj": torch.zeros(2, 2)})
    published = proposal_net_to_published(build_proposal_net(**SMALL_SWIN).state_dict())
    del published["sem_seg_head.predictor.query_embed.weight"]
    with pytest.raises(ValueError, match=r"query_embed\.weight is not among its \d+ keys"):
        arguments_from_published(published)
