import pytest
import timm
import torch

from ovseg_models.backbones import build_backbone
from ovseg_models.checkpoint_keys.backbone import (
    backbone_from_published,
    published_backbone_names,
    relative_position_index,
)

SWIN = "swin_tiny_patch4_window7_224"
TINY_SWIN = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": [1, 2, 4, 8], "window_size": 4}
TINY_DEEP_RESNET = {"layers": [2, 1, 1, 1], "channels": [4, 6, 8, 10], "stem_width": 4}


def published(state):
    return {theirs: state[ours] for ours, theirs in published_backbone_names(state).items()}


def assert_holds(conversion, expected):
    assert conversion.report.fits, conversion.report.describe()
    assert conversion.tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(conversion.tensors[name], tensor), name


def test_names_of_the_published_resnet():
    names = published_backbone_names(
        build_backbone("resnet101s", timm_arguments=TINY_DEEP_RESNET, frozen_batch_norm=True).state_dict()
    )
    assert names["body.conv1.0.weight"] == "stem.conv1.weight"
    assert names["body.conv1.4.running_var"] == "stem.conv2.norm.running_var"
    assert names["body.conv1.6.weight"] == "stem.conv3.weight"
    assert names["body.bn1.bias"] == "stem.conv3.norm.bias"
    assert names["body.layer1.0.downsample.0.weight"] == "res2.0.shortcut.weight"
    assert names["body.layer1.0.downsample.1.running_mean"] == "res2.0.shortcut.norm.running_mean"
    assert names["body.layer1.1.conv3.weight"] == "res2.1.conv3.weight"
    assert names["body.layer4.0.bn2.weight"] == "res5.0.conv2.norm.weight"
    assert len(set(names.values())) == len(names)


def test_names_of_a_plain_stem():
    names = published_backbone_names(build_backbone("resnet18").state_dict())
    assert names["body.conv1.weight"] == "stem.conv1.weight"
    assert names["body.bn1.weight"] == "stem.conv1.norm.weight"
    assert not any(key.endswith("num_batches_tracked") for key in names)


@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_a_detectron2_resnet_is_read(prefix):
    source = build_backbone("resnet101s", timm_arguments=TINY_DEEP_RESNET).state_dict()
    file = {prefix + key: tensor for key, tensor in published(source).items()}
    file |= {f"{prefix}stem.fc.weight": torch.zeros(9, 10), f"{prefix}linear.bias": torch.zeros(9)}
    target = build_backbone("resnet101s", timm_arguments=TINY_DEEP_RESNET)
    assert_holds(backbone_from_published(file, target.state_dict()), source)


def test_an_official_swin_is_read_and_the_new_norms_stay():
    source = build_backbone(SWIN, timm_arguments=TINY_SWIN).state_dict()
    file = {key: tensor for key, tensor in published(source).items() if not key.startswith("norm")}
    assert "layers.0.downsample.reduction.weight" in file
    file |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(4, 16, 16),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(16, 16),
        "norm.weight": torch.zeros(64),
        "head.weight": torch.zeros(5, 64),
    }
    target = build_backbone(SWIN, timm_arguments=TINY_SWIN).state_dict()
    for name in target:
        if name.startswith("norms."):
            target[name] = source[name] = torch.rand_like(target[name])
    assert_holds(backbone_from_published(file, target), source)


def test_a_whole_timm_swin_gives_the_same_features():
    whole = timm.create_model(SWIN, num_classes=3, always_partition=True, strict_img_size=False, **TINY_SWIN).eval()
    backbone = build_backbone(SWIN, timm_arguments=TINY_SWIN).eval()
    conversion = backbone_from_published(whole.state_dict(), backbone.state_dict())
    conversion.report.require_fit("timm")
    backbone.load_state_dict(conversion.tensors)
    backbone.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    images = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = whole.forward_intermediates(images, intermediates_only=True)
        for found, feature_map in zip(backbone(images), expected, strict=True):
            torch.testing.assert_close(found, feature_map)


def test_our_own_layout_is_read():
    source = build_backbone("resnet18").state_dict()
    assert_holds(backbone_from_published(source, source), source)


def test_the_rebuilt_position_index_is_timms():
    attention = build_backbone(SWIN, timm_arguments=TINY_SWIN).body.layers_0.blocks[0].attn
    found = relative_position_index(attention.relative_position_bias_table)
    assert torch.equal(found, attention.relative_position_index)
    assert found.dtype == torch.int64


def test_missing_and_strange_keys_are_listed_in_the_files_names():
    state = build_backbone("resnet18").state_dict()
    file = published(state)
    del file["res3.0.shortcut.weight"]
    file["res9.0.conv1.weight"] = torch.zeros(1)
    file["stem.conv1.weight"] = torch.zeros(64, 3, 3, 3)
    report = backbone_from_published(file, state).report
    assert report.missing == ("res3.0.shortcut.weight",)
    assert report.unexpected == ("res9.0.conv1.weight",)
    assert report.misshapen == ("stem.conv1.weight (64, 3, 3, 3), expected (64, 3, 7, 7)",)


def test_a_family_without_a_published_layout_is_refused():
    state = build_backbone("convnext_atto").state_dict()
    with pytest.raises(ValueError, match=r"backbone key 'body\..*no published layout names it"):
        published_backbone_names(state)
