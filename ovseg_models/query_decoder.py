"""The query decoder: learned queries gather what they need from the coarsest feature map.

DETR's transformer with norms after each residual, in the form that MaskFormer uses: positions are added to queries
and keys, never to values, and one last norm is shared by the outputs of all layers.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ovseg_models.pixel_decoder import xavier_fill

_TEMPERATURE = 10_000.0
_EPSILON = 1e-6


class EncoderLayer(nn.Module):
    """Self-attention among the pixels of the map, then a feed-forward net."""

    def __init__(self, width: int, *, heads: int, feedforward_width: int, dropout: float) -> None:
        """Build one layer; the arguments are those of `QueryDecoder`."""
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward_width)
        self.linear2 = nn.Linear(feedforward_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, memory: Float[Tensor, "batch pixel width"], positions: Float[Tensor, "pixel width"]
    ) -> Float[Tensor, "batch pixel width"]:
        """Refine the memory."""
        placed = memory + positions
        found, _ = self.self_attention(placed, placed, memory, need_weights=False)
        memory = self.norm1(memory + self.dropout(found))
        widened = self.dropout(self.linear1(memory).relu_())
        refined: Tensor = self.norm2(memory + self.dropout(self.linear2(widened)))
        return refined


class DecoderLayer(nn.Module):
    """Self-attention among queries, attention to the map, then a feed-forward net."""

    def __init__(self, width: int, *, heads: int, feedforward_width: int, dropout: float) -> None:
        """Build one layer; the arguments are those of `QueryDecoder`."""
        super().__init__()
        self.self_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.cross_attention = nn.MultiheadAttention(width, heads, dropout=dropout, batch_first=True)
        self.linear1 = nn.Linear(width, feedforward_width)
        self.linear2 = nn.Linear(feedforward_width, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        self.norm3 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        hidden: Float[Tensor, "batch query width"],
        query_positions: Float[Tensor, "query width"],
        keys: Float[Tensor, "batch pixel width"],
        values: Float[Tensor, "batch pixel width"],
    ) -> Float[Tensor, "batch query width"]:
        """Refine the queries; ``keys`` are the values with their positions added."""
        placed = hidden + query_positions
        found, _ = self.self_attention(placed, placed, hidden, need_weights=False)
        hidden = self.norm1(hidden + self.dropout(found))
        found, _ = self.cross_attention(hidden + query_positions, keys, values, need_weights=False)
        hidden = self.norm2(hidden + self.dropout(found))
        widened = self.dropout(self.linear1(hidden).relu_())
        refined: Tensor = self.norm3(hidden + self.dropout(self.linear2(widened)))
        return refined


class QueryDecoder(nn.Module):
    """Turns the coarsest feature map into one vector per query and decoder layer."""

    def __init__(
        self,
        channels: int,
        *,
        queries: int,
        width: int,
        heads: int,
        feedforward_width: int,
        encoder_layers: int,
        decoder_layers: int,
        dropout: float,
    ) -> None:
        """Build the decoder.

        Args:
            channels: Of the feature map that it reads.
            queries: How many proposals it makes.
            width: Of each query; a multiple of 4 (sine and cosine of two coordinates) and of heads.
            feedforward_width: Hidden width of each feed-forward net.
            encoder_layers: Layers of self-attention among pixels before the decoder; 0 in OVSeg.
            decoder_layers: At least 1.
            dropout: Share of activations and of attention weights dropped in training.
        """
        super().__init__()
        self.input_projection = nn.Conv2d(channels, width, kernel_size=1)
        self.query_positions = nn.Embedding(queries, width)
        self.encoder_layers = nn.ModuleList(
            EncoderLayer(width, heads=heads, feedforward_width=feedforward_width, dropout=dropout)
            for _ in range(encoder_layers)
        )
        self.decoder_layers = nn.ModuleList(
            DecoderLayer(width, heads=heads, feedforward_width=feedforward_width, dropout=dropout)
            for _ in range(decoder_layers)
        )
        self.norm = nn.LayerNorm(width)
        xavier_fill(self.input_projection)
        for parameter in (*self.encoder_layers.parameters(), *self.decoder_layers.parameters()):
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, feature_map: Float[Tensor, "batch channels height width"], *, every_layer: bool
    ) -> Float[Tensor, "layer batch query hidden"]:
        """Decode the queries, which start at zero.

        Args:
            feature_map: The backbone's res5.
            every_layer: Give the output of every decoder layer, first layer first, or of the last one alone.
        """
        projected: Tensor = self.input_projection(feature_map)
        positions = sine_positions(*projected.shape[1:], like=projected).flatten(1).T
        values = projected.flatten(2).transpose(1, 2)
        for layer in self.encoder_layers:
            values = layer(values, positions)
        keys = values + positions
        query_positions = self.query_positions.weight
        hidden = torch.zeros_like(query_positions).expand(len(values), -1, -1)
        outputs = []
        for layer in self.decoder_layers:
            hidden = layer(hidden, query_positions, keys, values)
            outputs.append(hidden)
        normed: Tensor = self.norm(torch.stack(outputs if every_layer else outputs[-1:]))
        return normed


def sine_positions(width: int, rows: int, columns: int, *, like: Tensor) -> Float[Tensor, "width rows columns"]:
    """Encode pixel positions: first half rows, second half columns, sine and cosine interleaved.

    Positions count from 1 and are scaled to end at 2 pi; wavelengths grow geometrically up to 10,000 times.

    Args:
        width: Channels; a multiple of 4.
        rows: Height of the map.
        columns: Width of the map.
        like: Gives the device and the floating-point type.

    References:
        DETR, section A.4, normalised.
    """
    channel = torch.arange(width // 2, device=like.device, dtype=torch.float32)
    wavelengths = _TEMPERATURE ** (2 * (channel // 2) / (width // 2))

    def encode(length: int) -> Tensor:
        steps = torch.arange(1, length + 1, device=like.device, dtype=torch.float32)
        angles = (steps / (length + _EPSILON) * (2 * math.pi))[None] / wavelengths[:, None]
        return torch.stack((angles[0::2].sin(), angles[1::2].cos()), dim=1).flatten(0, 1)

    by_row = encode(rows)[:, :, None].expand(-1, -1, columns)
    by_column = encode(columns)[:, None, :].expand(-1, rows, -1)
    return torch.cat((by_row, by_column)).to(like.dtype)
