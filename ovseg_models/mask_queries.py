"""Queries of their own for mask tokens: a projection per layer, trained while all of CLIP stays as it is (MasQCLIP).

A mask token asks the patches inside its mask with the query of the class token, which was trained to ask whole
pictures. With a projection of its own it may ask otherwise. Keys, values and all else stay CLIP's, so that the picture
and whatever else is computed of it are those of the original to the bit.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn

from ovseg_models.image_towers import TokenTower


class Projection(NamedTuple):
    """A linear projection.

    Attributes:
        weight: [inner width].
        bias: [inner].
    """

    weight: Float[Tensor, "inner width"]
    bias: Float[Tensor, "inner"]


class MaskQueries(nn.Module):
    """The projections of all layers, which begin as those of the tower.

    Args:
        tower: Whose layers are open_clip's or timm's.

    Attributes:
        weight: [layer inner width].
        bias: [layer inner]; zeros at first where the tower's queries have none.

    References:
        Xu et al., 2023 (MasQCLIP).
    """

    def __init__(self, tower: TokenTower) -> None:
        super().__init__()
        with torch.no_grad():
            own = [_own_projection(layer) for layer in tower.layers]
            self.weight = nn.Parameter(torch.stack([layer.weight for layer in own]))
            self.bias = nn.Parameter(torch.stack([layer.bias for layer in own]))

    def of_layer(self, number: int) -> Projection:
        """Return the projection of one layer."""
        return Projection(self.weight[number], self.bias[number])


def _own_projection(layer: Any) -> Projection:
    """Return how a layer makes its own queries."""
    if isinstance(layer, ResidualAttentionBlock):
        width = layer.attn.embed_dim
        return Projection(layer.attn.in_proj_weight[:width], layer.attn.in_proj_bias[:width])
    attention = layer.attn
    if attention.qkv is None:
        weight, bias = attention.q_proj.weight, attention.q_proj.bias
    else:
        weight = attention.qkv.weight.chunk(3)[0]
        # EVA01 keeps its bias beside the layer.
        bias = getattr(attention, "q_bias", None)
        if bias is None and attention.qkv.bias is not None:
            bias = attention.qkv.bias.chunk(3)[0]
    return Projection(weight, torch.zeros_like(weight[:, 0]) if bias is None else bias)
