"""The published model in plain steps, read from its own key names: nothing of ``ovseg_models`` takes part.

Every function takes ``tensors``, the state dict of a published checkpoint or a part of it, and works on one image.
"""

import itertools
import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image

CLIP_MEAN = 255 * torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
CLIP_STD = 255 * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
PREDICTOR = "sem_seg_head.predictor."


def below(tensors, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def linear(x, tensors, name):
    return x @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def layer_norm(x, tensors, name):
    return F.layer_norm(x, x.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"])


def attention(tensors, name, query, key, value, heads, mask=0.0):
    """Attend with torch's names of the weights; rows are tokens."""
    weights, biases = tensors[f"{name}.in_proj_weight"].chunk(3), tensors[f"{name}.in_proj_bias"].chunk(3)
    q, k, v = (x @ w.T + b for x, w, b in zip((query, key, value), weights, biases, strict=True))
    found = [
        ((qh @ kh.T / math.sqrt(qh.shape[-1])) + mask).softmax(-1) @ vh
        for qh, kh, vh in zip(*(x.chunk(heads, -1) for x in (q, k, v)), strict=True)
    ]
    return linear(torch.cat(found, -1), tensors, f"{name}.out_proj")


def window_attention(x, tensors, name, heads, window, shift):
    """Attend within each window by looking every token up on the padded map; x [height width channels]."""
    height, width, channels = x.shape
    padded_h, padded_w = (-(-size // window) * window for size in (height, width))
    padded = torch.zeros(padded_h, padded_w, channels)
    padded[:height, :width] = x
    result = torch.zeros_like(padded)
    table = tensors[f"{name}.relative_position_bias_table"]
    for top, left in itertools.product(range(0, padded_h, window), range(0, padded_w, window)):
        places = [(top + i, left + j) for i in range(window) for j in range(window)]
        sources = [((r + shift) % padded_h, (c + shift) % padded_w) for r, c in places]
        wrapped = [(r >= padded_h - shift, c >= padded_w - shift) for r, c in places]
        qkv = linear(torch.stack([padded[source] for source in sources]), tensors, f"{name}.qkv")
        q, k, v = qkv.chunk(3, dim=-1)
        outputs = []
        for head, (qh, kh, vh) in enumerate(zip(*(t.chunk(heads, dim=-1) for t in (q, k, v)), strict=True)):
            logits = qh @ kh.T * (channels // heads) ** -0.5
            for a, b in itertools.product(range(window**2), repeat=2):
                dy, dx = places[a][0] - places[b][0], places[a][1] - places[b][1]
                logits[a, b] += table[(dy + window - 1) * (2 * window - 1) + dx + window - 1, head]
                if shift and wrapped[a] != wrapped[b]:
                    logits[a, b] += -100
            outputs.append(logits.softmax(-1) @ vh)
        out = linear(torch.cat(outputs, -1), tensors, f"{name}.proj")
        for source, token in zip(sources, out, strict=True):
            result[source] = token
    return result[:height, :width]


def swin(image, tensors, depths, heads, window):
    """Four maps [channels height width] of an image [3 height width] whose sides 4 divides."""
    x = F.conv2d(image[None], tensors["patch_embed.proj.weight"], tensors["patch_embed.proj.bias"], stride=4)
    x = layer_norm(x[0].permute(1, 2, 0), tensors, "patch_embed.norm")
    maps = []
    for stage, depth in enumerate(depths):
        for block in range(depth):
            name = f"layers.{stage}.blocks.{block}"
            shift = window // 2 if block % 2 else 0
            normed = layer_norm(x, tensors, f"{name}.norm1")
            x = x + window_attention(normed, tensors, f"{name}.attn", heads[stage], window, shift)
            hidden = F.gelu(linear(layer_norm(x, tensors, f"{name}.norm2"), tensors, f"{name}.mlp.fc1"))
            x = x + linear(hidden, tensors, f"{name}.mlp.fc2")
        maps.append(layer_norm(x, tensors, f"norm{stage}").permute(2, 0, 1))
        if stage < len(depths) - 1:
            x = F.pad(x, (0, 0, 0, x.shape[1] % 2, 0, x.shape[0] % 2))
            x = torch.cat([x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]], dim=-1)
            name = f"layers.{stage}.downsample"
            x = layer_norm(x, tensors, f"{name}.norm") @ tensors[f"{name}.reduction.weight"].T
    return maps


def r101c(images, tensors):
    """Four maps [batch channels height width]: where strides and dilations stand is what this states."""

    def conv_norm(x, name, stride=1, dilation=1):
        weight = tensors[f"{name}.weight"]
        x = F.conv2d(x, weight, stride=stride, dilation=dilation, padding=dilation * (weight.shape[-1] // 2))
        mean, var, scale, shift = (
            tensors[f"{name}.norm.{key}"][:, None, None] for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    x = F.relu(conv_norm(images, "stem.conv1", stride=2))
    x = F.relu(conv_norm(x, "stem.conv2"))
    x = F.relu(conv_norm(x, "stem.conv3"))
    x = F.max_pool2d(x, 3, stride=2, padding=1)
    maps = []
    for stage, depth in ((2, 3), (3, 4), (4, 23), (5, 3)):
        for block in range(depth):
            name = f"res{stage}.{block}"
            stride = 2 if block == 0 and stage > 2 else 1
            dilation = (1, 2, 4)[block] if stage == 5 else 1
            y = F.relu(conv_norm(x, f"{name}.conv1"))
            y = F.relu(conv_norm(y, f"{name}.conv2", stride=stride, dilation=dilation))
            y = conv_norm(y, f"{name}.conv3")
            x = F.relu(y + (conv_norm(x, f"{name}.shortcut", stride=stride) if block == 0 else x))
        maps.append(x)
    return maps


def mask_features(maps, tensors):
    """Run the pixel decoder over res2 to res5, each [channels height width]."""

    def conv_norm(x, name):
        weight = tensors[f"{name}.weight"]
        x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
        return F.group_norm(x, 32, tensors[f"{name}.norm.weight"], tensors[f"{name}.norm.bias"], eps=1e-5)

    y = F.relu(conv_norm(maps[3][None], "layer_4"))
    for level in (3, 2, 1):
        finer = conv_norm(maps[level - 1][None], f"adapter_{level}")
        y = F.relu(conv_norm(finer + F.interpolate(y, finer.shape[2:], mode="nearest"), f"layer_{level}"))
    return F.conv2d(y, tensors["mask_features.weight"], tensors["mask_features.bias"], padding=1)[0]


def sine_positions(width, rows, columns):
    """Encode places [row*column width]."""
    half = width // 2
    table = torch.zeros(rows, columns, width)
    for row, column, channel in itertools.product(range(rows), range(columns), range(half)):
        wave, length = (math.cos if channel % 2 else math.sin), 10000 ** (2 * (channel // 2) / half)
        table[row, column, channel] = wave((row + 1) / (rows + 1e-6) * 2 * math.pi / length)
        table[row, column, half + channel] = wave((column + 1) / (columns + 1e-6) * 2 * math.pi / length)
    return table.flatten(0, 1)


def hidden_queries(res5, tensors, layers, heads=8):
    """Run the transformer decoder; the last layer's output [query width]."""
    weight, bias = tensors["input_proj.weight"][:, :, 0, 0], tensors["input_proj.bias"]
    memory = res5.flatten(1).T @ weight.T + bias
    keys = memory + sine_positions(memory.shape[1], *res5.shape[1:])
    places = tensors["query_embed.weight"]
    x = torch.zeros_like(places)
    for layer in range(layers):
        name = f"transformer.decoder.layers.{layer}"
        placed = x + places
        x = layer_norm(x + attention(tensors, f"{name}.self_attn", placed, placed, x, heads), tensors, f"{name}.norm1")
        found = attention(tensors, f"{name}.multihead_attn", x + places, keys, memory, heads)
        x = layer_norm(x + found, tensors, f"{name}.norm2")
        widened = F.relu(linear(x, tensors, f"{name}.linear1"))
        x = layer_norm(x + linear(widened, tensors, f"{name}.linear2"), tensors, f"{name}.norm3")
    return layer_norm(x, tensors, "transformer.decoder.norm")


def perceptron(x, tensors, name, layers):
    for layer in range(layers):
        x = linear(x, tensors, f"{name}.layers.{layer}")
        x = F.relu(x) if layer < layers - 1 else x
    return x


def transformer(x, tensors, layers, mask=0.0, after_block=lambda x, _: x):
    """Run CLIP's transformer, of heads 64 wide and QuickGELU, over tokens [token width]."""
    for layer in range(layers):
        name = f"transformer.resblocks.{layer}"
        normed = layer_norm(x, tensors, f"{name}.ln_1")
        x = x + attention(tensors, f"{name}.attn", normed, normed, normed, x.shape[1] // 64, mask)
        widened = linear(layer_norm(x, tensors, f"{name}.ln_2"), tensors, f"{name}.mlp.c_fc")
        x = x + linear(widened * (1.702 * widened).sigmoid(), tensors, f"{name}.mlp.c_proj")
        x = after_block(x, layer + 1)
    return x


def text_embedding(tokens, tensors, layers):
    """Embed one tokenised text [context]."""
    x = tensors["token_embedding.weight"][tokens] + tensors["positional_embedding"]
    causal = torch.full((len(x), len(x)), -math.inf).triu(1)
    x = layer_norm(transformer(x, tensors, layers, causal), tensors, "ln_final")
    return F.normalize(x[tokens.argmax()] @ tensors["text_projection"], dim=0)


def class_embedding(name, templates, tokenize, tensors, layers):
    """Embed a class name: the normalised mean of its sentences."""
    sentences = [text_embedding(tokenize([t.format(name)])[0], tensors, layers) for t in templates]
    return F.normalize(torch.stack(sentences).mean(0), dim=0)


def crop_embedding(crop, patches, tensors, layers):
    """Embed a crop [3 side side]; patches [patch] are 1 where the mask is, and prompts stand where it is not."""
    patch_px, prompts = tensors["conv1.weight"].shape[-1], tensors["mask_embedding"]
    kept = patches[:, None]
    x = F.conv2d(crop[None], tensors["conv1.weight"], stride=patch_px)[0].flatten(1).T
    x = x * kept + prompts[0] * (1 - kept)
    x = torch.cat([tensors["class_embedding"][None], x]) + tensors["positional_embedding"]

    def with_prompts(x, depth):
        return torch.cat([x[:1], x[1:] * kept + prompts[depth] * (1 - kept)]) if depth < len(prompts) else x

    x = transformer(layer_norm(x, tensors, "ln_pre"), tensors, layers, after_block=with_prompts)
    return F.normalize(layer_norm(x[0], tensors, "ln_post") @ tensors["proj"], dim=0)


def crop_and_patches(pixels, mask, side, patch_px):
    """Cut what CLIP sees of one mask, out of raw pixels [3 height width]."""
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    box = slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)
    kept = mask[box].float()
    region = (pixels[:, *box] * kept + (1 - kept) * CLIP_MEAN - CLIP_MEAN) / CLIP_STD
    crop = F.interpolate(region[None], (side, side), mode="bicubic", align_corners=False)[0]
    seen = F.interpolate(kept[None, None], (side, side), mode="nearest")
    return crop, F.avg_pool2d(seen, patch_px).ceil().flatten()


def net_input(image, short_side_px):
    """Resize an image (uint8 [height width 3]); raw pixels, and normalised ones padded to a multiple of 32."""
    scale = short_side_px / min(image.shape[:2])
    height, width = (int(side * scale + 0.5) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float()
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    return pixels, F.pad((pixels - mean) / std, (0, -width % 32, 0, -height % 32))
