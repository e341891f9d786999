import itertools

import pytest
import timm
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.backbones import build_backbone
from ovseg_models.backbones.swin import SwinBackbone, SwinBlock
from ovseg_models.checkpoint_keys.backbone import published_backbone_names

WINDOW = 4
HEADS = (1, 2, 4, 8)
TINY = {"embed_dim": 8, "depths": [2, 2, 2, 2], "num_heads": HEADS, "window_size": WINDOW}


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


def layer_norm(x, tensors, name):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def naive_window_attention(x, tensors, name, heads, shift):
    """Attend within each window by looking every token up on the padded map; x [height width channels]."""
    height, width, channels = x.shape
    padded_h, padded_w = (-(-size // WINDOW) * WINDOW for size in (height, width))
    padded = torch.zeros(padded_h, padded_w, channels)
    padded[:height, :width] = x
    result = torch.zeros_like(padded)
    table = tensors[f"{name}.relative_position_bias_table"]
    for top, left in itertools.product(range(0, padded_h, WINDOW), range(0, padded_w, WINDOW)):
        places = [(top + i, left + j) for i in range(WINDOW) for j in range(WINDOW)]
        sources = [((r + shift) % padded_h, (c + shift) % padded_w) for r, c in places]
        wrapped = [(r >= padded_h - shift, c >= padded_w - shift) for r, c in places]
        tokens = torch.stack([padded[source] for source in sources])
        qkv = tokens @ tensors[f"{name}.qkv.weight"].T + tensors[f"{name}.qkv.bias"]
        q, k, v = qkv.chunk(3, dim=-1)
        outputs = []
        for head, (qh, kh, vh) in enumerate(zip(*(t.chunk(heads, dim=-1) for t in (q, k, v)), strict=True)):
            logits = qh @ kh.T * (channels // heads) ** -0.5
            for a, b in itertools.product(range(WINDOW**2), repeat=2):
                dy, dx = places[a][0] - places[b][0], places[a][1] - places[b][1]
                logits[a, b] += table[(dy + WINDOW - 1) * (2 * WINDOW - 1) + dx + WINDOW - 1, head]
                if shift and wrapped[a] != wrapped[b]:
                    logits[a, b] += -100
            outputs.append(logits.softmax(-1) @ vh)
        out = torch.cat(outputs, -1) @ tensors[f"{name}.proj.weight"].T + tensors[f"{name}.proj.bias"]
        for source, token in zip(sources, out, strict=True):
            result[source] = token
    return result[:height, :width]


def naive_swin(image, tensors, depths=(2, 2, 2, 2)):
    """The published network in plain steps; image [3 height width], height and width multiples of 4."""
    x = F.conv2d(image[None], tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=4)
    x = layer_norm(x[0].permute(1, 2, 0), tensors, "patch_embed.norm")
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shift = WINDOW // 2 if block % 2 else 0
            normed = layer_norm(x, tensors, f"{name}.norm1")
            x = x + naive_window_attention(normed, tensors, f"{name}.attn", HEADS[stage], shift)
            hidden = layer_norm(x, tensors, f"{name}.norm2") @ tensors[f"{name}.mlp.fc1.weight"].T
            hidden = F.gelu(hidden + tensors[f"{name}.mlp.fc1.bias"])
            x = x + hidden @ tensors[f"{name}.mlp.fc2.weight"].T + tensors[f"{name}.mlp.fc2.bias"]
        maps.append(layer_norm(x, tensors, f"norm{stage}").permute(2, 0, 1))
        if stage < len(depths) - 1:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            name = f"layers.{stage}.downsample"
            x = layer_norm(x, tensors, f"{name}.norm") @ tensors[f"{name}.reduction.weight"].T
    return maps


@pytest.mark.parametrize("size", [(40, 56), (36, 32), (64, 64)])
@torch.no_grad()
def test_equals_a_naive_twin_at_sizes_that_are_no_multiple_of_the_window(size):
    backbone = tiny_swin()
    images = torch.randn(2, 3, *size)
    tensors = published_tensors(backbone)
    maps = backbone(images)
    for row, image in enumerate(images):
        for found, wanted in zip(maps, naive_swin(image, tensors), strict=True):
            torch.testing.assert_close(found[row], wanted, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_equals_timm_where_every_map_is_a_multiple_of_the_window_and_not_elsewhere():
    backbone = tiny_swin()
    stock = timm.create_model(
        "swin_tiny_patch4_window7_224", features_only=True, always_partition=True, strict_img_size=False, **TINY
    ).eval()
    stock.load_state_dict(backbone.body.state_dict())
    backbone.norms = torch.nn.ModuleList(torch.nn.Identity() for _ in range(4))
    images = torch.randn(1, 3, 128, 128)
    for found, wanted in zip(backbone(images), stock(images), strict=True):
        torch.testing.assert_close(found.permute(0, 2, 3, 1), wanted)
    images = torch.randn(1, 3, 36, 44)
    assert not torch.allclose(backbone(images).res2.permute(0, 2, 3, 1), stock(images)[0], atol=0.1)


@torch.no_grad()
def test_sides_that_four_does_not_divide_are_zero_padded():
    backbone = tiny_swin()
    image = torch.randn(1, 3, 33, 46)
    padded = F.pad(image, (0, 2, 0, 3))
    for found, wanted in zip(backbone(image), backbone(padded), strict=True):
        torch.testing.assert_close(found, wanted)


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
