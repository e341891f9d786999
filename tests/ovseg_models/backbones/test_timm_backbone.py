import pytest
import torch

from ovseg_models.backbones import build_backbone
from ovseg_models.checkpoint_keys.backbone import published_backbone_names
from tests.ovseg_models.published_model import r101c

SMALL = {"channels": [8, 16, 24, 32], "stem_width": 8}


def small_resnet(**arguments):
    return build_backbone("resnet10t", timm_arguments=SMALL, **arguments)


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    backbone = build_backbone("r101c").eval()
    for name, buffer in backbone.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
        elif name.endswith("running_mean"):
            buffer.normal_(0, 0.1)
        else:
            buffer.normal_(0.5, 0.2)
    return backbone


@torch.no_grad()
def test_r101c_equals_a_naive_twin_with_published_names(backbone):
    state = backbone.state_dict()
    tensors = {theirs: state[ours] for ours, theirs in published_backbone_names(state).items()}
    images = torch.randn(1, 3, 64, 96)
    maps = backbone(images)
    for found, expected in zip(maps, r101c(images, tensors), strict=True):
        torch.testing.assert_close(found / expected.abs().max(), expected / expected.abs().max(), rtol=0, atol=1e-5)
    assert [feature_map.shape[1] for feature_map in maps] == [256, 512, 1024, 2048] == list(backbone.channels)
    assert [tuple(feature_map.shape[2:]) for feature_map in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_r101c_trains_neither_stem_nor_res2_nor_any_norm(backbone):
    trained = {name.split(".")[1] for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {"layer2", "layer3", "layer4"}
    assert not [name for name, _ in backbone.named_parameters() if ".bn" in name or "downsample.1" in name]


@pytest.mark.parametrize(
    ("freeze_at", "frozen"),
    [(0, set()), (1, {"conv1", "bn1"}), (2, {"conv1", "bn1", "layer1"}), (3, {"conv1", "bn1", "layer1", "layer2"})],
)
def test_freeze_at_stops_the_first_stages_and_their_statistics(freeze_at, frozen):
    backbone = small_resnet(freeze_at=freeze_at).train()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    backbone(torch.randn(4, 3, 64, 64)).res5.square().sum().backward()
    with_gradient = {n.split(".")[1] for n, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert with_gradient == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"} - frozen
    after = backbone.state_dict()
    moved = {n.split(".")[1] for n in after if n.endswith("running_mean") and not torch.equal(after[n], before[n])}
    assert moved == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"} - frozen


def test_frozen_batch_norm_has_no_parameters_and_keeps_its_statistics():
    backbone = small_resnet(frozen_batch_norm=True).train()
    before = {name: tensor.clone() for name, tensor in backbone.named_buffers()}
    backbone(torch.randn(2, 3, 64, 64))
    assert before
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.named_buffers())
    assert not any("bn" in name for name, _ in backbone.named_parameters())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "swinv2_cr_tiny_ns_224", "mobilenetv3_small_050"])
@torch.no_grad()
def test_any_hierarchical_timm_network_gives_strides_4_to_32(name):
    arguments = {"timm_arguments": {"img_size": 64, "window_size": 2}} if name.startswith("swinv2") else {}
    backbone = build_backbone(name, **arguments).eval()
    maps = backbone(torch.randn(2, 3, 64, 64))
    assert [tuple(feature_map.shape) for feature_map in maps] == [
        (2, channels, side, side) for channels, side in zip(backbone.channels, (16, 8, 4, 2), strict=True)
    ]


def test_a_network_of_one_stride_is_refused():
    with pytest.raises(ValueError, match=r"'vit_tiny_patch16_224': its maps have strides \[16, 16, 16.*4, 8, 16, 32"):
        build_backbone("vit_tiny_patch16_224")


def test_freeze_at_out_of_bounds_or_unsupported_is_refused():
    with pytest.raises(ValueError, match="freeze_at is 6, 0 to 5 is expected"):
        small_resnet(freeze_at=6)
    with pytest.raises(ValueError, match="'mobilenetv3_small_050': freeze_at is 1, but its stages are not separable"):
        build_backbone("mobilenetv3_small_050", freeze_at=1)
