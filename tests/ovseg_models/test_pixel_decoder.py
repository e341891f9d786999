import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.backbones import FeatureMaps
from ovseg_models.pixel_decoder import PixelDecoder

CHANNELS = (4, 6, 8, 10)


def draw_maps(batch=2, sizes=((12, 10), (6, 5), (3, 3), (2, 2))):
    return FeatureMaps(*(torch.randn(batch, channels, *size) for channels, size in zip(CHANNELS, sizes, strict=True)))


def test_equals_a_naive_twin_at_odd_sizes():
    torch.manual_seed(0)
    decoder = PixelDecoder(CHANNELS, width=8, mask_width=12, norm_groups=2)
    for name, parameter in decoder.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    maps = draw_maps()
    state = decoder.state_dict()

    def conv_norm(x, name):
        weight = state[f"{name}.conv.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2).unflatten(1, (2, 4))
        mean, var = x.mean((2, 3, 4), keepdim=True), x.var((2, 3, 4), correction=0, keepdim=True)
        x = ((x - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
        return x * state[f"{name}.norm.weight"][:, None, None] + state[f"{name}.norm.bias"][:, None, None]

    y = F.relu(conv_norm(maps.res5, "smooth.3"))
    for level, feature_map in ((2, maps.res4), (1, maps.res3), (0, maps.res2)):
        finer = conv_norm(feature_map, f"lateral.{level}")
        rows = torch.arange(finer.shape[2]) * y.shape[2] // finer.shape[2]
        columns = torch.arange(finer.shape[3]) * y.shape[3] // finer.shape[3]
        y = F.relu(conv_norm(finer + y[:, :, rows][:, :, :, columns], f"smooth.{level}"))
    expected = F.conv2d(y, state["mask_features.weight"], state["mask_features.bias"], padding=1)
    found = decoder(maps)
    assert found.shape == (2, 12, 12, 10)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_start_uniform_within_the_root_of_three_over_the_inputs():
    decoder = PixelDecoder(CHANNELS, width=32, mask_width=32, norm_groups=4)
    bound = (3 / (32 * 9)) ** 0.5
    assert 0.95 * bound < decoder.mask_features.weight.abs().max() <= bound
    assert not decoder.mask_features.bias.any()
    assert decoder.lateral[0].conv.weight.abs().max() <= (3 / CHANNELS[0]) ** 0.5
    assert not any("conv.bias" in name for name in decoder.state_dict())
