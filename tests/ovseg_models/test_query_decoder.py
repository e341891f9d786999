import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.query_decoder import QueryDecoder, sine_positions

SIZES = {"queries": 5, "width": 8, "heads": 2, "feedforward_width": 12}


def build(encoder_layers=0, decoder_layers=3):
    torch.manual_seed(0)
    decoder = QueryDecoder(6, **SIZES, encoder_layers=encoder_layers, decoder_layers=decoder_layers, dropout=0.1)
    for name, parameter in decoder.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.normal_(parameter, 0.5, 0.5)
    return decoder.eval()


def naive_attention(state, name, query, key, value):
    weights, biases = state[f"{name}.in_proj_weight"].chunk(3), state[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    heads = []
    for qh, kh, vh in zip(*(x.chunk(SIZES["heads"], -1) for x in (q, k, v)), strict=True):
        heads.append((qh @ kh.T / math.sqrt(qh.shape[-1])).softmax(-1) @ vh)
    return torch.cat(heads, -1) @ state[f"{name}.out_proj.weight"].T + state[f"{name}.out_proj.bias"]


def naive_norm(state, name, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def naive_feedforward(state, name, x):
    hidden = F.relu(x @ state[f"{name}.linear1.weight"].T + state[f"{name}.linear1.bias"])
    return hidden @ state[f"{name}.linear2.weight"].T + state[f"{name}.linear2.bias"]


def naive_decoder(state, feature_map, encoder_layers, decoder_layers):
    """One image, all decoder layers; feature_map [channels height width]."""
    weight = state["input_projection.weight"][:, :, 0, 0]
    memory = feature_map.flatten(1).T @ weight.T + state["input_projection.bias"]
    positions = torch.tensor(naive_positions(8, *feature_map.shape[1:])).flatten(1).T
    for layer in range(encoder_layers):
        name = f"encoder_layers.{layer}"
        placed = memory + positions
        memory = memory + naive_attention(state, f"{name}.self_attention", placed, placed, memory)
        memory = naive_norm(state, f"{name}.norm1", memory)
        memory = naive_norm(state, f"{name}.norm2", memory + naive_feedforward(state, name, memory))
    queries = state["query_positions.weight"]
    x = torch.zeros_like(queries)
    outputs = []
    for layer in range(decoder_layers):
        name = f"decoder_layers.{layer}"
        x = naive_norm(
            state, f"{name}.norm1", x + naive_attention(state, f"{name}.self_attention", x + queries, x + queries, x)
        )
        found = naive_attention(state, f"{name}.cross_attention", x + queries, memory + positions, memory)
        x = naive_norm(state, f"{name}.norm2", x + found)
        x = naive_norm(state, f"{name}.norm3", x + naive_feedforward(state, name, x))
        outputs.append(naive_norm(state, "norm", x))
    return torch.stack(outputs)


def naive_positions(width, rows, columns):
    half = width // 2
    table = [[[0.0] * columns for _ in range(rows)] for _ in range(width)]
    for row in range(rows):
        for column in range(columns):
            for channel in range(half):
                wavelength = 10000 ** (2 * (channel // 2) / half)
                wave = math.cos if channel % 2 else math.sin
                table[channel][row][column] = wave((row + 1) / (rows + 1e-6) * 2 * math.pi / wavelength)
                table[half + channel][row][column] = wave((column + 1) / (columns + 1e-6) * 2 * math.pi / wavelength)
    return table


@pytest.mark.parametrize("encoder_layers", [0, 2])
@torch.no_grad()
def test_equals_a_naive_twin(encoder_layers):
    decoder = build(encoder_layers)
    feature_map = torch.randn(2, 6, 3, 4)
    found = decoder(feature_map, every_layer=True)
    for row in range(2):
        expected = naive_decoder(decoder.state_dict(), feature_map[row], encoder_layers, 3)
        torch.testing.assert_close(found[:, row], expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_last_layer_alone_is_the_last_of_all():
    decoder = build()
    feature_map = torch.randn(2, 6, 3, 4)
    alone = decoder(feature_map, every_layer=False)
    assert alone.shape == (1, 2, 5, 8)
    assert torch.equal(alone[0], decoder(feature_map, every_layer=True)[-1])


@pytest.mark.parametrize(("width", "rows", "columns"), [(8, 3, 5), (12, 1, 1), (4, 2, 7)])
def test_positions_equal_a_naive_twin(width, rows, columns):
    found = sine_positions(width, rows, columns, like=torch.zeros(1))
    torch.testing.assert_close(found, torch.tensor(naive_positions(width, rows, columns)), rtol=1e-5, atol=1e-5)


def test_permuted_query_positions_permute_the_outputs():
    decoder = build()
    feature_map = torch.randn(1, 6, 3, 4)
    order = torch.tensor([3, 1, 4, 0, 2])
    with torch.no_grad():
        plain = decoder(feature_map, every_layer=True)
        decoder.query_positions.weight.copy_(decoder.query_positions.weight[order].clone())
        moved = decoder(feature_map, every_layer=True)
    torch.testing.assert_close(moved, plain[:, :, order])


def test_attention_and_feedforward_weights_start_by_xavier():
    decoder = QueryDecoder(
        6, queries=5, width=64, heads=2, feedforward_width=128, encoder_layers=0, decoder_layers=1, dropout=0.0
    )
    layer = decoder.decoder_layers[0]
    for weight in (layer.self_attention.in_proj_weight, layer.linear1.weight, layer.linear2.weight):
        bound = (6 / sum(weight.shape)) ** 0.5
        assert 0.95 * bound < weight.abs().max() <= bound
