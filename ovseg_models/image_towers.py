"""Image towers with patch tokens, in steps: patches, tokens with their positions, layers, pooling.

Each step calls the tower's own modules in the tower's own order, so that together they are the tower's forward pass to
the bit. What stands between the steps may change tokens or read them: masks meet tokens there and nowhere else.

* `OpenClipTower`: open_clip's ``VisionTransformer`` (OpenAI, LAION, MetaCLIP, DFN, CLIPA, CoCa). One class token.
* `TimmTower`: timm's ``VisionTransformer`` (SigLIP, SigLIP2, MobileCLIP-B, ViTamin) and ``Eva`` (EVA01, EVA02,
  PE-Core): any class and register tokens, learned or rotary positions, pooling by a token, the mean or attention.

Others, such as ConvNeXt, FastViT, Swin and the ResNets, have no patch tokens that stay in their places from the first
layer to the last. They embed crops as a whole.

Letters in shapes: ``token`` counts the prefix (class and register tokens) and then the patches; ``width`` is that of
the tokens, ``dim`` that of embeddings.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from open_clip.modified_resnet import ModifiedResNet
from open_clip.timm_model import TimmModel
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models import eva, vision_transformer
from torch import Tensor, nn


class Tokens(NamedTuple):
    """Tokens as the first layer reads them.

    Attributes:
        states: The prefix first, then the patches line by line.
        rotations: Rotary embeddings of the patches, for all layers; None for none. The prefix is not rotated.
    """

    states: Float[Tensor, "crop token width"]
    rotations: Tensor | None = None


class TokenTower(ABC):
    """A tower whose crops are patch tokens from the first layer to the last.

    Attributes:
        visual: The whole tower, as open_clip built it.
        side_px: Of its square crops [px].
        patch_px: Side of a patch [px].
        grid: Lines and columns of patches.
        width: Of the tokens.
        prefix: Tokens before the patches.
        layers: In their order.
    """

    visual: nn.Module
    side_px: int
    patch_px: int
    grid: tuple[int, int]
    width: int
    prefix: int
    layers: list[Any]

    def at_side(self, side_px: int) -> "TokenTower":
        """Return a tower of the same modules that takes pictures of another side, its positions resized to their grid.

        Learned positions are resized bicubically with antialiasing, as open_clip and timm do when weights are loaded,
        rotary ones are computed for the grid. No parameter is copied: both towers train the same ones.

        Args:
            side_px: A multiple of the patches' side; at the tower's own side it is the tower itself.

        Raises:
            ValueError: If it is no such multiple, or the tower has positions that cannot be resized.
        """
        if side_px == self.side_px:
            return self
        if side_px < self.patch_px or side_px % self.patch_px:
            raise ValueError(
                f"image tower: a picture's side is {side_px} px, a multiple of its patches' {self.patch_px} px is "
                f"expected; take {max(1, round(side_px / self.patch_px)) * self.patch_px}, or the tower's own "
                f"{self.side_px}"
            )
        other = copy.copy(self)
        other.side_px, other.grid = side_px, (side_px // self.patch_px,) * 2
        other._leave_own_grid()
        return other

    @abstractmethod
    def _leave_own_grid(self) -> None:
        """Prepare a copy, whose grid is another one, to resize positions."""

    @abstractmethod
    def patches(self, crops: Float[Tensor, "crop 3 side side"]) -> Float[Tensor, "crop patch width"]:
        """Embed the patches of crops, without their positions."""

    @abstractmethod
    def tokens(self, patches: Float[Tensor, "crop patch width"]) -> Tokens:
        """Put the prefix before patches and add positions, as the first layer reads them."""

    @abstractmethod
    def run(
        self, layer: int, states: Float[Tensor, "crop token width"], rotations: Tensor | None
    ) -> Float[Tensor, "crop token width"]:
        """Run one layer."""

    @abstractmethod
    def pool(self, states: Float[Tensor, "crop token width"]) -> Float[Tensor, "crop dim"]:
        """Turn the last layer's states into embeddings, which are not normalised."""

    @property
    @abstractmethod
    def recomputes(self) -> bool:
        """Whether layers are computed again in the backward pass rather than kept."""


class OpenClipTower(TokenTower):
    """open_clip's own vision transformer.

    Attributes:
        is_plain: Whether the embedding is the class token's, and all layers are open_clip's default ones: what is not
            read of them need not be computed then.

    Raises:
        ValueError: If it has a part with which its tokens are no grid of patches, or not one embedding comes out.
    """

    visual: VisionTransformer

    def __init__(self, visual: VisionTransformer) -> None:
        reasons = {
            "tokens beside the embedding (output_tokens)": visual.output_tokens,
            "no pooling (pool_type 'none')": visual.pool_type == "none",
            "tokens before crops (batch_first False)": not visual.transformer.batch_first,
            f"an oblong image, {visual.image_size} px": len(set(visual.image_size)) != 1,
            f"oblong patches, {visual.patch_size} px": len(set(visual.patch_size)) != 1,
        }
        found = [reason for reason, present in reasons.items() if present]
        if found:
            raise ValueError(
                f"MaskAdaptedClip: the image tower has {', '.join(found)}; a plain vision transformer with one "
                "embedding per square image is expected; change the model's vision_cfg"
            )
        self.visual = visual
        self.side_px, self.patch_px = visual.image_size[0], visual.patch_size[0]
        self.grid = visual.grid_size
        self.width = visual.conv1.out_channels
        self.prefix = 1
        self.layers = list(visual.transformer.resblocks)
        own_layers = {type(layer) for layer in self.layers} == {ResidualAttentionBlock}
        self.is_plain = visual.attn_pool is None and visual.pool_type == "tok" and own_layers

    def _leave_own_grid(self) -> None:
        """Prepare nothing: `tokens` resizes positions."""

    def patches(self, crops: Float[Tensor, "crop 3 side side"]) -> Float[Tensor, "crop patch width"]:
        """Embed the patches of crops, without their positions."""
        patches: Tensor = self.visual.conv1(crops)
        return patches.flatten(2).transpose(1, 2)  # [crop width grid grid] to [crop patch width]

    def tokens(self, patches: Float[Tensor, "crop patch width"]) -> Tokens:
        """Put the class token before patches and add positions."""
        visual = self.visual
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        positions = visual.positional_embedding
        if self.grid != visual.grid_size:
            positions = resample_abs_pos_embed(positions[None], list(self.grid), list(visual.grid_size))[0]
        states = torch.cat([class_token, patches], dim=1) + positions.to(patches.dtype)
        return Tokens(visual.ln_pre(states))

    def run(
        self, layer: int, states: Float[Tensor, "crop token width"], rotations: Tensor | None
    ) -> Float[Tensor, "crop token width"]:
        """Run one layer."""
        del rotations
        result: Tensor = self.layers[layer](states)
        return result

    def pool(self, states: Float[Tensor, "crop token width"]) -> Float[Tensor, "crop dim"]:
        """Turn the last layer's states, of which a plain tower needs the class token's alone, into embeddings."""
        pooled: Tensor = self.visual._pool(states)[0]
        return pooled if self.visual.proj is None else pooled @ self.visual.proj

    @property
    def recomputes(self) -> bool:
        """Whether layers are computed again in the backward pass rather than kept."""
        return bool(self.visual.transformer.grad_checkpointing)


class TimmTower(TokenTower):
    """timm's ``VisionTransformer`` or ``Eva``, as trunk of open_clip's ``TimmModel``.

    Raises:
        ValueError: If crops or patches are oblong.
    """

    visual: TimmModel

    def __init__(self, visual: TimmModel) -> None:
        trunk: Any = visual.trunk
        embed = trunk.patch_embed
        sides = {"crops": _pair(embed.img_size), "grid": _pair(embed.grid_size)}
        oblong = [f"{name} of {lines} x {columns}" for name, (lines, columns) in sides.items() if lines != columns]
        if oblong:
            raise ValueError(
                f"MaskAdaptedClip: the image tower has {', '.join(oblong)}, square ones are expected; choose another "
                "model"
            )
        self.visual = visual
        self._trunk = trunk
        self.side_px, self.grid = sides["crops"][0], sides["grid"]
        self.patch_px = int(embed.feat_ratio())  # a hybrid's convolutions reduce the crop before it is cut
        self.width = trunk.embed_dim
        self.prefix = trunk.num_prefix_tokens
        self.layers = list(trunk.blocks)

    def _leave_own_grid(self) -> None:
        """Let timm resize positions, as it does where pictures may have any size.

        Raises:
            ValueError: If the attention pool has positions.
        """
        trunk: Any = self._trunk
        if getattr(trunk.attn_pool, "pos_embed", None) is not None:
            raise ValueError(
                f"image tower: its attention pool has positions of its own grid, and none for a picture of "
                f"{self.side_px} px; leave the side at the tower's own, or take windows of it"
            )
        self._trunk = trunk = _shallow_copy(trunk)
        trunk.dynamic_img_size = True
        trunk.patch_embed = _shallow_copy(trunk.patch_embed)
        trunk.patch_embed.strict_img_size = False
        if getattr(trunk, "rope", None) is not None:
            trunk.rope = _shallow_copy(trunk.rope)
            trunk.rope._use_cached_embed = False  # which are those of its own grid

    def patches(self, crops: Float[Tensor, "crop 3 side side"]) -> Float[Tensor, "crop patch width"]:
        """Embed the patches of crops, without their positions."""
        patches: Tensor = self._trunk.patch_embed(crops)
        return patches.flatten(1, -2)  # trunks of any picture size leave the grid as it is

    def tokens(self, patches: Float[Tensor, "crop patch width"]) -> Tokens:
        """Put the prefix before patches and add positions."""
        trunk = self._trunk
        placed = trunk._pos_embed(patches.unflatten(1, self.grid) if trunk.dynamic_img_size else patches)
        states, rotations = placed if isinstance(placed, tuple) else (trunk.patch_drop(placed), None)
        return Tokens(trunk.norm_pre(states), rotations)

    def run(
        self, layer: int, states: Float[Tensor, "crop token width"], rotations: Tensor | None
    ) -> Float[Tensor, "crop token width"]:
        """Run one layer."""
        named: dict[str, Tensor | None] = {}
        if isinstance(self._trunk, eva.Eva):
            named["rope"] = rotations[layer] if rotations is not None and self._trunk.rope_mixed else rotations
        result: Tensor = self.layers[layer](states, **named)
        return result

    def pool(self, states: Float[Tensor, "crop token width"]) -> Float[Tensor, "crop dim"]:
        """Turn the last layer's states into embeddings."""
        embeddings: Tensor = self.visual.head(self._trunk.forward_head(self._trunk.norm(states)))
        return embeddings

    @property
    def recomputes(self) -> bool:
        """Whether layers are computed again in the backward pass rather than kept."""
        return bool(self._trunk.grad_checkpointing)


def token_tower(visual: nn.Module) -> TokenTower | None:
    """Return an image tower in steps; None for one without patch tokens that stay in their places.

    Raises:
        ValueError: As `OpenClipTower` and `TimmTower`.
    """
    if isinstance(visual, VisionTransformer):
        return OpenClipTower(visual)
    trunk = visual.trunk if isinstance(visual, TimmModel) else None
    for kind in (vision_transformer.VisionTransformer, eva.Eva):
        # A subclass with a forward pass of its own, as with relative positions, may do more than these steps.
        if isinstance(trunk, kind) and type(trunk).forward_features is kind.forward_features:
            return TimmTower(visual)
    return None


def tower_name(visual: nn.Module) -> str:
    """Return the name of a tower's class, which says what it is."""
    return f"{type(visual.trunk).__name__} of timm" if isinstance(visual, TimmModel) else type(visual).__name__


def crop_side_px(visual: nn.Module) -> int:
    """Return the side of the square crops that a tower without patch tokens takes [px].

    Raises:
        TypeError: If the tower is none of open_clip's.
        ValueError: If its crops are oblong.
    """
    if not isinstance(visual, TimmModel | ModifiedResNet):
        raise TypeError(
            f"MaskAdaptedClip: the image tower is {type(visual).__name__}, one of open_clip's "
            "(VisionTransformer, TimmModel, ModifiedResNet) is expected; choose a model that open_clip lists"
        )
    # Some trunks, as Swin, take one size alone, whatever the configuration says.
    embed = getattr(getattr(visual, "trunk", None), "patch_embed", None)
    height, width = _pair(getattr(embed, "img_size", None) or visual.image_size)
    if height != width:
        raise ValueError(
            f"MaskAdaptedClip: the image tower takes crops of {height} x {width} px, square ones are expected; choose "
            "another model"
        )
    return height


def _shallow_copy(module: Any) -> Any:
    """Copy a module, whose attributes and submodules may then be others; its parameters and buffers are the same."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = dict(module._modules)
    return copied


def _pair(value: Any) -> tuple[int, int]:
    """Return height and width of a size that may be one number."""
    height, width = value if isinstance(value, tuple | list) else (value, value)
    return int(height), int(width)
