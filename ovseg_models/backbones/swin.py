"""Swin Transformer as a dense backbone, with the padding and the new norms of the published segmentation nets."""

from collections.abc import Mapping
from typing import Any

import timm
import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float
from torch import Tensor, nn

from ovseg_models.backbones.feature_maps import FeatureMaps
from ovseg_models.checkpointing import Blocks

_PATCH_PX = 4
_OTHER_REGION = -100.0  # added to the attention logit of two tokens that the cyclic shift made neighbours


class SwinBlock(nn.Module):
    """The layers of one timm Swin block, run so that the map is padded before the cyclic shift.

    timm shifts first and pads after, which gives other numbers at each size that is no multiple of the window.
    Padded tokens are zeros after the first norm and take part in the attention.
    """

    def __init__(self, block: nn.Module) -> None:
        """Take over the layers of a timm ``SwinTransformerBlock``; parameter names stay the same."""
        super().__init__()
        self.norm1: nn.Module = block.get_submodule("norm1")
        self.attn: nn.Module = block.get_submodule("attn")
        self.drop_path1: nn.Module = block.get_submodule("drop_path1")
        self.norm2: nn.Module = block.get_submodule("norm2")
        self.mlp: nn.Module = block.get_submodule("mlp")
        self.drop_path2: nn.Module = block.get_submodule("drop_path2")
        self._window: tuple[int, int] = block.window_size  # type: ignore[assignment]
        self._shift: tuple[int, int] = block.shift_size  # type: ignore[assignment]

    def forward(
        self, tokens: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch height width channels"]:
        """Add windowed attention, then the MLP."""
        tokens = tokens + self.drop_path1(self._attend(self.norm1(tokens)))
        change: Tensor = self.drop_path2(self.mlp(self.norm2(tokens)))
        return tokens + change

    def _attend(
        self, tokens: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch height width channels"]:
        """Attend within windows of the padded and, in every second block, shifted map."""
        batch, height, width, channels = tokens.shape
        window_height, window_width = self._window
        tokens = F.pad(tokens, (0, 0, 0, -width % window_width, 0, -height % window_height))
        padded_height, padded_width = tokens.shape[1:3]
        mask = None
        if any(self._shift):
            tokens = tokens.roll((-self._shift[0], -self._shift[1]), dims=(1, 2))
            mask = self._shift_mask(padded_height, padded_width, tokens)
        windows = _to_windows(tokens, self._window).reshape(-1, window_height * window_width, channels)
        windows = self.attn(windows, mask=mask)
        grid = (batch, padded_height // window_height, padded_width // window_width)
        tokens = windows.view(*grid, window_height, window_width, channels).transpose(2, 3)
        tokens = tokens.reshape(batch, padded_height, padded_width, channels)
        if any(self._shift):
            tokens = tokens.roll(self._shift, dims=(1, 2))
        return tokens[:, :height, :width]

    def _shift_mask(self, height: int, width: int, like: Tensor) -> Float[Tensor, "window token token"]:
        """Part tokens that were not neighbours before the shift: 0 within a region of the padded map, else -100."""
        rows = _shift_regions(height, self._window[0], self._shift[0], like.device)
        columns = _shift_regions(width, self._window[1], self._shift[1], like.device)
        regions = (3 * rows[:, None] + columns)[None, :, :, None]
        regions = _to_windows(regions, self._window).flatten(1)
        parted = regions[:, None, :] != regions[:, :, None]
        return torch.zeros_like(parted, dtype=like.dtype).masked_fill_(parted, _OTHER_REGION)


class SwinBackbone(nn.Module):
    """A timm Swin Transformer whose four stage outputs each pass a LayerNorm of their own.

    Attributes:
        channels: Channels of res2, res3, res4 and res5.
    """

    channels: tuple[int, int, int, int]

    def __init__(self, body: nn.Module, *, channels: tuple[int, int, int, int]) -> None:
        """Wrap timm's feature network and replace its blocks by ones that pad first.

        Args:
            body: timm's ``features_only`` Swin Transformer; it is changed in place.
            channels: Channels of its four maps.
        """
        super().__init__()
        for stage in body.children():
            if hasattr(stage, "blocks"):
                stage.blocks = Blocks(*(SwinBlock(block) for block in stage.blocks))  # type: ignore[union-attr]
        self.body = body
        self.channels = channels
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in channels)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Choose whether each block is computed again in the backward pass rather than kept."""
        for module in self.body.modules():
            if isinstance(module, Blocks):
                module.checkpointing = enabled

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> FeatureMaps:
        """Compute the feature maps of normalised images; sides are zero-padded to a multiple of 4 px."""
        height, width = images.shape[-2:]
        images = F.pad(images, (0, -width % _PATCH_PX, 0, -height % _PATCH_PX))
        maps = zip(self.norms, self.body(images), strict=True)
        return FeatureMaps(*(norm(feature_map).permute(0, 3, 1, 2).contiguous() for norm, feature_map in maps))


def build_swin(
    name: str,
    *,
    tag: str | None = None,
    drop_path_rate: float = 0.3,
    timm_arguments: Mapping[str, Any] | None = None,
) -> SwinBackbone:
    """Build a Swin backbone from a timm model name; every parameter is trained.

    Args:
        name: For example ``swin_base_patch4_window12_384``, the paper's Swin-B.
        tag: timm's name of pretrained weights, fetched by timm; random weights without one.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0 at the first.
        timm_arguments: Passed to timm, for example ``{"embed_dim": 16, "window_size": 4}``.
    """
    body: Any = timm.create_model(
        f"{name}.{tag}" if tag else name,
        pretrained=tag is not None,
        features_only=True,
        always_partition=True,  # else a map as small as the window would lose its shift
        strict_img_size=False,
        drop_path_rate=drop_path_rate,
        **(timm_arguments or {}),
    )
    res2, res3, res4, res5 = body.feature_info.channels()
    return SwinBackbone(body, channels=(res2, res3, res4, res5))


def _to_windows(tokens: Tensor, window: tuple[int, int]) -> Tensor:
    """Cut [batch height width channels] into [batch*windows window_height window_width channels]."""
    batch, height, width, channels = tokens.shape
    grid = tokens.view(batch, height // window[0], window[0], width // window[1], window[1], channels)
    return grid.transpose(2, 3).reshape(-1, *window, channels)


def _shift_regions(size: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Number the three stretches along one side of a shifted map whose tokens belong together."""
    position = torch.arange(size, device=device)
    return (position >= size - window).long() + (position >= size - shift).long()
