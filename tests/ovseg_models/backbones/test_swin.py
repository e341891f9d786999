import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.backbones import build_backbone
from ovseg_models.backbones.swin import SwinBackbone, SwinBlock
from ovseg_models.checkpoint_keys.backbone import published_backbone_names
from tests.ovseg_models.published_model import swin

WINDOW = 4
DEPTHS, HEADS = (2, 2, 2, 2), (1, 2, 4, 8)
TINY = {"embed_dim": 8, "depths": DEPTHS, "num_heads": HEADS, "window_size": WINDOW}


def tiny_swin(seed: int = 0) -> SwinBackbone:
    torch.manual_seed(seed)
    backbone = build_backbone("swin_tiny_patch4_window7_224", timm_arguments=TINY).eval()
    for name, parameter in backbone.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, mean=0.5, std=0.5)  # so that no bias and no norm is trivial
        else:
            torch.nn.init.normal_(parameter, std=0.3)  # so that attention is far from uniform
    return backbone


def published_tensors(backbone: torch.nn.Module) -> dict[str, torch.Tensor]:
    state = backbone.state_dict()
    return {theirs: state[ours] for ours, theirs in published_backbone_names(state).items()}


@pytest.mark.parametrize("size", [(40, 56), (36, 32), (64, 64)])
@torch.no_grad()
def test_equals_a_naive_twin_at_sizes_that_are_no_multiple_of_the_window(size):
    backbone = tiny_swin()
    images = torch.randn(2, 3, *size)
    tensors = published_tensors(backbone)
    maps = backbone(images)
    for row, image in enumerate(images):
        for found, expected in zip(maps, swin(image, tensors, DEPTHS, HEADS, WINDOW), strict=True):
            torch.testing.assert_close(found[row], expected, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_equals_timm_where_every_map_is_a_multiple_of_the_window_and_not_elsewhere():
    backbone = tiny_swin()
    stock = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, always_partition=True, strict_img_size=False, **TINY
    ).eval()
    stock.load_state_dict(backbone.body.state_dict())
    backbone.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    images = torch.randn(1, 3, 128, 128)
    for found, expected in zip(backbone(images), stock(images), strict=True):
        torch.testing.assert_close(found.permute(0, 2, 3, 1), expected)
    images = torch.randn(1, 3, 36, 44)
    assert not torch.allclose(backbone(images).res2.permute(0, 2, 3, 1), stock(images)[0], atol=0.1)


@torch.no_grad()
def test_sides_that_four_does_not_divide_are_zero_padded():
    backbone = tiny_swin()
    image = torch.randn(1, 3, 33, 46)
    padded = F.pad(image, (0, 2, 0, 3))
    for found, expected in zip(backbone(image), backbone(padded), strict=True):
        torch.testing.assert_close(found, expected)


def test_every_parameter_gets_a_gradient_and_drop_path_grows_linearly():
    backbone = tiny_swin().train()
    sum(feature_map.square().mean() for feature_map in backbone(torch.randn(2, 3, 40, 40))).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())
    blocks = [module for module in backbone.modules() if isinstance(module, SwinBlock)]
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in blocks]
    torch.testing.assert_close(torch.tensor(rates), torch.linspace(0, 0.3, 8))


def test_a_batch_equals_its_images_alone():
    backbone = tiny_swin()
    images = torch.randn(2, 3, 44, 60)
    with torch.no_grad():
        together = backbone(images)
        alone = [backbone(image[None]) for image in images]
    for level in range(4):
        torch.testing.assert_close(together[level], torch.cat([maps[level] for maps in alone]))
