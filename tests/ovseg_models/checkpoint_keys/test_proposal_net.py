import json

import pytest
import torch

from ovseg_models.checkpoint_keys.proposal_net import (
    arguments_from_published,
    proposal_net_from_published,
    proposal_net_to_published,
    published_names,
)
from ovseg_models.proposal_presets import build_proposal_net

SMALL = {
    "embedding_dim": 12,
    "embedding_hidden_dim": 16,
    "queries": 7,
    "hidden_dim": 16,
    "mask_dim": 16,
    "norm_groups": 4,
    "heads": 2,
    "feedforward_dim": 24,
    "decoder_layers": 2,
}
SWIN = SMALL | {
    "backbone": "swin_tiny_patch4_window7_224",
    "backbone_arguments": {
        "timm_arguments": {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4}
    },
}
RESNET = SMALL | {
    "backbone": "resnet101s",
    "backbone_arguments": {
        "frozen_batch_norm": True,
        "timm_arguments": {"layers": [1, 1, 1, 1], "channels": [4, 6, 8, 10], "stem_width": 4},
    },
}
PREDICTOR = "sem_seg_head.predictor."

# Key and shape in the published checkpoints, for Swin-B with ViT-L/14 and R101c with ViT-B/16.
COMMON = {
    "sem_seg_head.pixel_decoder.adapter_1.norm.weight": (256,),
    "sem_seg_head.pixel_decoder.layer_1.weight": (256, 256, 3, 3),
    "sem_seg_head.pixel_decoder.layer_3.norm.bias": (256,),
    "sem_seg_head.pixel_decoder.mask_features.weight": (256, 256, 3, 3),
    "sem_seg_head.pixel_decoder.mask_features.bias": (256,),
    PREDICTOR + "transformer.decoder.layers.0.self_attn.in_proj_weight": (768, 256),
    PREDICTOR + "transformer.decoder.layers.5.multihead_attn.in_proj_bias": (768,),
    PREDICTOR + "transformer.decoder.layers.5.multihead_attn.out_proj.weight": (256, 256),
    PREDICTOR + "transformer.decoder.layers.3.linear1.weight": (2048, 256),
    PREDICTOR + "transformer.decoder.layers.3.linear2.weight": (256, 2048),
    PREDICTOR + "transformer.decoder.layers.3.norm3.weight": (256,),
    PREDICTOR + "transformer.decoder.norm.bias": (256,),
    PREDICTOR + "query_embed.weight": (100, 256),
    PREDICTOR + "input_proj.bias": (256,),
    PREDICTOR + "mask_embed.layers.2.weight": (256, 256),
    PREDICTOR + "class_embed.layers.0.weight": (1024, 256),
    "criterion.empty_weight": (172,),
}
SWIN_B = COMMON | {
    "backbone.patch_embed.proj.weight": (128, 3, 4, 4),
    "backbone.patch_embed.norm.bias": (128,),
    "backbone.layers.2.blocks.17.attn.relative_position_bias_table": (529, 16),
    "backbone.layers.3.blocks.1.attn.relative_position_index": (144, 144),
    "backbone.layers.1.blocks.0.attn.qkv.weight": (768, 256),
    "backbone.layers.0.blocks.1.mlp.fc1.weight": (512, 128),
    "backbone.layers.0.downsample.reduction.weight": (256, 512),
    "backbone.layers.2.downsample.norm.weight": (2048,),
    "backbone.norm3.weight": (1024,),
    "sem_seg_head.pixel_decoder.adapter_3.weight": (256, 512, 1, 1),
    "sem_seg_head.pixel_decoder.layer_4.weight": (256, 1024, 3, 3),
    PREDICTOR + "input_proj.weight": (256, 1024, 1, 1),
    PREDICTOR + "class_embed.layers.1.weight": (768, 1024),
    "clip_adapter.non_object_embedding": (1, 768),
}
R101C = COMMON | {
    "backbone.stem.conv1.weight": (64, 3, 3, 3),
    "backbone.stem.conv3.weight": (128, 64, 3, 3),
    "backbone.stem.conv3.norm.running_var": (128,),
    "backbone.res2.0.shortcut.weight": (256, 128, 1, 1),
    "backbone.res4.22.conv2.weight": (256, 256, 3, 3),
    "backbone.res5.2.conv3.norm.weight": (2048,),
    "sem_seg_head.pixel_decoder.adapter_3.weight": (256, 1024, 1, 1),
    PREDICTOR + "input_proj.weight": (256, 2048, 1, 1),
    PREDICTOR + "class_embed.layers.1.weight": (512, 1024),
    "clip_adapter.non_object_embedding": (1, 512),
}


@pytest.mark.parametrize(("preset", "shapes", "count"), [("swin_b", SWIN_B, 505), ("r101c", R101C, 678)])
def test_the_published_keys_and_shapes_at_true_size(preset, shapes, count):
    """954 and 983 keys are in the published files; 449 and 305 of them are CLIP's and its two pixel constants."""
    with torch.device("meta"):
        state = build_proposal_net(preset).state_dict()
    published = proposal_net_to_published(state)
    assert len(published) == count
    assert {key: tuple(published[key].shape) for key in shapes} == shapes
    assert len({*published_names(state).values()}) == len(state)


@pytest.mark.parametrize("arguments", [SWIN, RESNET], ids=["swin", "resnet"])
def test_the_round_trip_is_exact(arguments):
    state = build_proposal_net(**arguments).state_dict()
    published = proposal_net_to_published(state, num_classes=4)
    fresh = build_proposal_net(**arguments).state_dict()
    conversion = proposal_net_from_published(published, fresh)
    assert conversion.report.fits, conversion.report.describe()
    assert conversion.tensors.keys() == state.keys()
    assert all(torch.equal(conversion.tensors[key], state[key]) for key in state)
    again = proposal_net_to_published(conversion.tensors, num_classes=4)
    assert again.keys() == published.keys()
    assert all(torch.equal(again[key], published[key]) for key in published)
    torch.testing.assert_close(published["criterion.empty_weight"], torch.tensor([1, 1, 1, 1, 0.1]))


def test_clip_and_buffers_are_ignored_and_faults_listed():
    state = build_proposal_net(**RESNET).state_dict()
    published = proposal_net_to_published(state)
    published |= {
        "clip_adapter.clip_model.visual.proj": torch.zeros(4, 2),
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
        "sem_seg_head.surprise": torch.zeros(1),
        PREDICTOR + "query_embed.weight": torch.zeros(100, 16),
    }
    del published["clip_adapter.non_object_embedding"]
    report = proposal_net_from_published(published, state).report
    assert report.missing == ("clip_adapter.non_object_embedding",)
    assert report.unexpected == ("sem_seg_head.surprise",)
    assert report.misshapen == (PREDICTOR + "query_embed.weight (100, 16), expected (7, 16)",)
    assert report.notes == ()


def test_the_first_head_version_is_read():
    state = build_proposal_net(**SWIN).state_dict()
    published = proposal_net_to_published(state)
    old = {key.replace("sem_seg_head.pixel_decoder.", "sem_seg_head."): tensor for key, tensor in published.items()}
    assert old.keys() != published.keys()
    conversion = proposal_net_from_published(old, build_proposal_net(**SWIN).state_dict())
    assert conversion.report.fits, conversion.report.describe()
    assert all(torch.equal(conversion.tensors[key], state[key]) for key in state)


def test_maskformers_own_checkpoint_is_read_but_for_its_class_head():
    state = build_proposal_net(**SWIN).state_dict()
    published = {
        key: tensor
        for key, tensor in proposal_net_to_published(state, num_classes=133).items()
        if "class_embed" not in key and not key.startswith("clip_adapter.")
    }
    published |= {
        PREDICTOR + "class_embed.weight": torch.zeros(134, 16),
        PREDICTOR + "class_embed.bias": torch.zeros(134),
    }
    fresh = build_proposal_net(**SWIN).state_dict()
    tensors, report = proposal_net_from_published(published, fresh)
    assert report.unexpected == (PREDICTOR + "class_embed.bias", PREDICTOR + "class_embed.weight")
    assert report.missing == (
        "clip_adapter.non_object_embedding",
        *(f"{PREDICTOR}class_embed.layers.{i}.{kind}" for i in (0, 1) for kind in ("bias", "weight")),
    )
    with pytest.raises(ValueError, match=r"MaskFormer's own, with a linear head for 133 classes .* must be trained"):
        report.require_fit("maskformer.pth")
    for key in state:
        kept = key.startswith("embedding_head.") or key == "no_object_embedding"
        assert torch.equal(tensors[key], fresh[key] if kept else state[key]), key


def test_batch_norm_counters_have_no_published_key_and_keep_their_value():
    arguments = RESNET | {"backbone_arguments": RESNET["backbone_arguments"] | {"frozen_batch_norm": False}}
    state = build_proposal_net(**arguments).state_dict()
    published = proposal_net_to_published(state)
    assert not any(key.endswith("num_batches_tracked") for key in published)
    fresh = build_proposal_net(**arguments)
    conversion = proposal_net_from_published(published, fresh.state_dict())
    assert conversion.report.fits
    fresh.load_state_dict(conversion.tensors)


def test_keys_that_are_not_ours_are_refused():
    state = build_proposal_net(**RESNET).state_dict()
    with pytest.raises(ValueError, match=r"proposal net key 'head\.weight': no published layout names it"):
        proposal_net_to_published(state | {"head.weight": torch.zeros(1)})


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
