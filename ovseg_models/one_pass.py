"""One pass of a picture through the image tower, and an embedding for each of its masks.

Where a tower's embedding is that of its class token, each mask gets a *mask token*: a copy of the class token that
attends, in every layer, to itself and to the patches inside its mask. The picture's own tokens run as they always do,
to the bit, and leave their keys and values; mask tokens run beside them and read these. So a picture is seen once, and
any masks may be asked for later, in any number and order: they do not see each other. A mask token that sees all
patches stays the class token, so that the whole picture's embedding comes out.

Where a tower pools its last tokens instead, by attention or by their mean (SigLIP, PE-Core, ViTamin, CLIPA, CoCa), a
mask pools those inside it.

A picture is seen as a square of the tower's own side. It may be larger: at once, with positions resized to its grid, or
through windows of the tower's own side, each seen as a picture of its own. A mask is then the mean of what its parts in
the windows are, weighted by their areas; where windows overlap, a part counts once for each.

A hundred mask tokens cost half as much as one picture, where a hundred crops cost a hundred. Untuned they name worse
than crops do (MasQCLIP: 15.7 mIoU on ADE20K-150; plain CLIP has seen whole pictures in its class token, never parts).

Letters in shapes: ``token`` counts the prefix (class and register tokens) and then the patches.

References:
    Ding et al., 2023 (MaskCLIP), whose masks act in all layers as here; Xu et al., 2023 (MasQCLIP).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, UInt8
from open_clip.transformer import ResidualAttentionBlock
from timm.layers.attention import Attention, AttentionRope
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.pos_embed_sincos import apply_rot_embed_cat
from timm.models.eva import EvaAttention, EvaBlock
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional

from ovseg_models.image_towers import OpenClipTower, TimmTower, TokenTower
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.mask_queries import Projection
from ovseg_models.masked_crops import normalised
from ovseg_models.preprocessing import Preprocessing

MASKS_AT_ONCE = 256
"""Masks that go through the tower together; each takes a column in the bias of all the others."""
_POOLED_AT_ONCE = 16  # masks whose pixels are counted at a time: in single precision they take 2.5 MB each


@dataclass(frozen=True, slots=True)
class PictureFeatures:
    """What masks read of pictures that went through the tower.

    Attributes:
        start: The class token as the first layer reads it [picture 1 width]; empty where last tokens are pooled.
        keys: Of all tokens but the class token, per layer [picture head token-1 dim]; those of patches are rotated,
            where the tower has rotary positions.
        values: Of the same tokens, per layer.
        last: States after the last layer [picture token width].
    """

    start: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    last: Tensor


class OnePass:
    """Embeds pictures once, and their masks from that.

    Args:
        model: CLIP; its mask prompts take no part, for nothing is cut out.
        side_px: Of the squares that pictures are resized to; 0 for the tower's own.
        stride_px: From one window of the tower's own side to the next; 0 for none: the whole square at once.
        pooled: Masks have no tokens: they pool the last tokens of their patches, each as if it were the class token.

    Attributes:
        has_mask_tokens: Whether masks have tokens of their own; else they pool the last tokens.
        side_px: Of the squares [px].
        grid: Lines and columns of the square's patches.

    Raises:
        ValueError: If the image tower has no patch tokens, or layers or pooling of another kind, or the square cannot
            be divided into patches or windows.
    """

    def __init__(self, model: MaskAdaptedClip, *, side_px: int = 0, stride_px: int = 0, pooled: bool = False) -> None:
        if model.tower is None:
            raise ValueError(
                f"OnePass: the image tower ({type(model.clip.visual).__name__}) has no patch tokens, a vision "
                "transformer is expected; name crops instead, or choose another CLIP"
            )
        self.model = model
        own_px, patch_px = model.tower.side_px, model.tower.patch_px
        self.side_px = side_px or own_px
        self._stride = stride_px // patch_px if self.side_px != own_px else 0  # in patches; one window is none
        if self._stride or stride_px % patch_px:
            fits = own_px % patch_px == stride_px % patch_px == 0 and own_px <= self.side_px
            if not fits or (self.side_px - own_px) % stride_px:
                raise ValueError(
                    f"OnePass: windows of {own_px} px every {stride_px} px do not fill a square of {self.side_px} px "
                    f"in patches of {patch_px} px; take a stride that is a multiple of {patch_px}, and a side of "
                    f"{own_px} plus some strides"
                )
        self._tower: TokenTower = model.tower if self._stride else model.tower.at_side(self.side_px)
        self.grid = (self.side_px // patch_px,) * 2
        self._pool = _pool_of(self._tower)
        if pooled and self._pool is None:
            self._pool = _PatchPool(self._tower)
        self.has_mask_tokens = self._pool is None
        if model.mask_queries is not None and not self.has_mask_tokens:
            raise ValueError(
                "OnePass: the model has queries for mask tokens, and its image tower pools its last tokens, so that "
                "masks have no token; tune the whole tower instead"
            )
        self._layers = [_layer_of(layer) for layer in self._tower.layers] if self.has_mask_tokens else []

    def resized(self, picture: UInt8[Tensor, "3 height width"]) -> Float[Tensor, "3 side side"]:
        """Resize a picture to the square, whatever its aspect, with antialiasing, and normalise it as crops are."""
        return resized_picture(picture, self.side_px, self.model.crop.preprocessing)

    def filled(self, masks: Bool[Tensor, "mask height width"]) -> Float[Tensor, "mask patch"]:
        """Return which share of each patch of the square a mask fills; ``masks`` lie on the picture at any size."""
        return filled_shares(masks, self.grid)

    def embed(
        self, features: PictureFeatures, filled: Float[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Embed masks, L2-normalised; `mask_embeddings` of the patches that they fill most, over all windows.

        Args:
            features: Of the pictures.
            filled: Of `filled`; zeros are a mask without a pixel, so that pictures with fewer masks may be filled up.
        """
        parts = [self._embedded(features, some) for some in filled.split(MASKS_AT_ONCE, dim=1)]
        return torch.cat(parts, dim=1)

    def _embedded(
        self, features: PictureFeatures, filled: Float[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        if not self._stride:
            return self.mask_embeddings(features, most_filled(filled))
        lines, columns = self._tower.grid
        parts = filled.unflatten(2, self.grid).unfold(2, lines, self._stride).unfold(3, columns, self._stride)
        parts = parts.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)  # [picture window mask patch]
        embeddings = self.mask_embeddings(features, most_filled(parts.flatten(0, 1)))
        areas = parts.sum(dim=-1, keepdim=True)  # [picture window mask 1]
        areas = torch.where(areas.sum(dim=1, keepdim=True) > 0, areas, 1)  # an empty mask is one in all windows alike
        return _normalised((areas * embeddings.unflatten(0, parts.shape[:2])).sum(dim=1))

    def features(self, pictures: Float[Tensor, "picture 3 side side"]) -> PictureFeatures:
        """Run pictures through the tower, each once.

        Args:
            pictures: Of `resized`.

        Returns:
            Of pictures, or of all windows of the first one, then of the next.
        """
        tower = self._tower
        if self._stride:
            own_px, stride_px = tower.side_px, self._stride * tower.patch_px
            pictures = pictures.unfold(2, own_px, stride_px).unfold(3, own_px, stride_px)
            pictures = pictures.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)  # [picture line column] together
        states, rotations = tower.tokens(tower.patches(pictures))
        start = states[:, : int(self.has_mask_tokens)]  # the class token comes first
        keys, values = [], []
        for number in range(len(tower.layers)):
            if self.has_mask_tokens:
                layer = self._layers[number]
                # Once more from the layer's input: its own forward pass, which must stay as it is, keeps none of them.
                _, key, value = layer.projected(layer.norm(states[:, 1:]))
                registers, patches = key.split([tower.prefix - 1, tower.grid[0] * tower.grid[1]], dim=2)
                keys.append(torch.cat([registers, layer.rotated(patches, _of_layer(rotations, number))], dim=2))
                values.append(value)
            states = tower.run(number, states, rotations)
        return PictureFeatures(start, tuple(keys), tuple(values), states)

    def picture_embeddings(self, features: PictureFeatures) -> Float[Tensor, "picture dim"]:
        """Return the embeddings of whole pictures, L2-normalised: those of `MaskAdaptedClip.encode_image`."""
        return _normalised(self._tower.pool(features.last))

    def mask_embeddings(
        self, features: PictureFeatures, visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Embed masks, L2-normalised.

        Args:
            features: Of the pictures.
            visible: The patches that each mask sees, as `visible_patches` says. A mask token without any sees itself
                alone, and is what CLIP makes of no picture; where last tokens are pooled, such a mask pools all.
        """
        pictures, masks, _ = visible.shape
        if masks == 0:
            return features.last.new_zeros(pictures, 0, self.model.embedding_dim)
        if self._pool is not None:
            return _normalised(self._pool(features.last, visible | ~visible.any(dim=-1, keepdim=True)))
        states = features.start.expand(-1, masks, -1)
        # Columns: registers, which all see, the patches, then the mask tokens, of which each sees itself. What is not
        # seen is minus infinity: every kind of attention takes it, and they disagree on what True means.
        itself = torch.eye(masks, dtype=torch.bool, device=visible.device).expand(pictures, -1, -1)
        seen = torch.cat([functional.pad(visible, (self._tower.prefix - 1, 0), value=True), itself], dim=-1)
        bias = torch.zeros(seen.shape, dtype=states.dtype, device=states.device).masked_fill(~seen, -torch.inf)
        queries = self.model.mask_queries
        for number, (layer, key, value) in enumerate(zip(self._layers, features.keys, features.values, strict=True)):
            normed = layer.norm(states)
            query, own_key, own_value = layer.projected(normed)  # as the class token's, these are not rotated
            if queries is not None:
                query = layer.queried(normed, queries.of_layer(number))
            attended = functional.scaled_dot_product_attention(
                query,
                torch.cat([key, own_key], dim=2),
                torch.cat([value, own_value], dim=2),
                attn_mask=bias[:, None].to(query.dtype),  # the same for all heads
            )
            # [picture head mask dim] to [picture mask width]
            states = layer.finished(states, normed, attended.transpose(1, 2).flatten(2))
        alone = self._tower.pool(states.flatten(0, 1)[:, None])  # each as the first token of a sequence of its own
        return _normalised(alone.unflatten(0, (pictures, masks)))


def resized_picture(
    picture: UInt8[Tensor, "3 height width"], side_px: int, preprocessing: Preprocessing
) -> Float[Tensor, "3 side side"]:
    """Resize a picture to a square, whatever its aspect, with antialiasing, and normalise it as crops are."""
    pixels, size = normalised(picture, preprocessing)[None], (side_px, side_px)
    resized: Tensor = functional.interpolate(pixels, size, mode=preprocessing.interpolation, antialias=True)[0]
    return resized


def visible_patches(masks: Bool[Tensor, "mask height width"], grid: tuple[int, int]) -> Bool[Tensor, "mask patch"]:
    """Return which patches of a picture each mask sees: `most_filled` of `filled_shares`.

    Args:
        masks: On the picture, before it was resized to CLIP's side.
        grid: Lines and columns of patches.
    """
    return most_filled(filled_shares(masks, grid))


def filled_shares(masks: Bool[Tensor, "mask height width"], grid: tuple[int, int]) -> Float[Tensor, "mask patch"]:
    """Return which share of each patch of a picture a mask fills."""
    parts = [functional.adaptive_avg_pool2d(some[:, None].float(), grid) for some in masks.split(_POOLED_AT_ONCE)]
    shares: Tensor = torch.cat(parts).flatten(1) if len(masks) else masks.new_zeros(0, grid[0] * grid[1]).float()
    return shares


def most_filled(filled: Float[Tensor, "*rows patch"]) -> Bool[Tensor, "*rows patch"]:
    """Return the patches that a mask fills at least half as much as its fullest one: those that it sees.

    So a mask of any size sees a patch, a thin or small one too, and a large one is not blurred by those that it only
    touches. An empty mask sees none.
    """
    return (filled > 0) & (filled >= filled.amax(dim=-1, keepdim=True) / 2)


class _MaskLayer(ABC):
    """A layer of a tower, in the parts that mask tokens go through; each calls the layer's own modules.

    Attributes:
        norm: Before attention.
    """

    norm: nn.Module

    @abstractmethod
    def projected(self, normed: Float[Tensor, "picture token width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values [picture head token dim], without positions."""

    @abstractmethod
    def finished(
        self,
        states: Float[Tensor, "picture mask width"],
        normed: Float[Tensor, "picture mask width"],
        attended: Float[Tensor, "picture mask inner"],
    ) -> Float[Tensor, "picture mask width"]:
        """Do what follows attention, from the projection of its result to the end of the layer."""

    @abstractmethod
    def queried(self, normed: Float[Tensor, "picture token width"], projection: Projection) -> Tensor:
        """Return queries of another projection [picture head token dim]; those of `projected` of the layer's own."""

    def rotated(self, keys: Tensor, rotations: Tensor | None) -> Tensor:
        """Give keys of patches their rotary positions, where the tower has any."""
        del rotations
        return keys


class _OpenClipLayer(_MaskLayer):
    """open_clip's default layer."""

    def __init__(self, layer: ResidualAttentionBlock) -> None:
        self._layer = layer
        self.norm = layer.ln_1

    def projected(self, normed: Float[Tensor, "picture token width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values."""
        attention = self._layer.attn
        joined = functional.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
        return _by_head(joined, attention.num_heads)

    def queried(self, normed: Float[Tensor, "picture token width"], projection: Projection) -> Tensor:
        """Return queries of another projection."""
        return _heads(functional.linear(normed, *projection), self._layer.attn.num_heads)

    def finished(self, states: Tensor, normed: Tensor, attended: Tensor) -> Tensor:
        """Do what follows attention."""
        del normed
        layer = self._layer
        states = states + layer.ls_1(layer.attn.out_proj(attended))
        result: Tensor = states + layer.ls_2(layer.mlp(layer.ln_2(states)))
        return result


class _TimmLayer(_MaskLayer):
    """timm's layer of ``VisionTransformer`` or ``Eva``, with any of its attentions."""

    def __init__(self, layer: Any) -> None:
        self._layer = layer
        self._attention: Any = layer.attn
        self.norm = layer.norm1

    def projected(self, normed: Float[Tensor, "picture token width"]) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values; queries and keys normalised, where the tower does so."""
        attention = self._attention
        if attention.qkv is None:
            joined = torch.cat([attention.q_proj(normed), attention.k_proj(normed), attention.v_proj(normed)], dim=-1)
        elif getattr(attention, "q_bias", None) is not None:  # EVA01: keys have none
            bias = torch.cat([attention.q_bias, attention.k_bias, attention.v_bias])
            joined = functional.linear(normed, attention.qkv.weight, bias)
        else:
            joined = attention.qkv(normed)
        query, key, value = _by_head(joined, attention.num_heads)
        return attention.q_norm(query), attention.k_norm(key), value

    def queried(self, normed: Float[Tensor, "picture token width"], projection: Projection) -> Tensor:
        """Return queries of another projection, normalised as the layer's own."""
        attention = self._attention
        query: Tensor = attention.q_norm(_heads(functional.linear(normed, *projection), attention.num_heads))
        return query

    def rotated(self, keys: Tensor, rotations: Tensor | None) -> Tensor:
        """Give keys of patches their rotary positions, where the tower has any."""
        if rotations is None:
            return keys
        rotated: Tensor = apply_rot_embed_cat(keys, rotations, half=getattr(self._attention, "rotate_half", False))
        return rotated.type_as(keys)

    def finished(self, states: Tensor, normed: Tensor, attended: Tensor) -> Tensor:
        """Do what follows attention."""
        layer, attention = self._layer, self._attention
        attended = attention.norm(attended)
        if attention.gate is not None:
            attended = attended * attention.gate(normed).sigmoid()
        states = states + _scaled(layer, 1, attention.proj(attended))
        return states + _scaled(layer, 2, layer.mlp(layer.norm2(states)))


def _scaled(layer: Any, number: int, change: Tensor) -> Tensor:
    """Scale a layer's first or second change as it does: ``Block`` by a module, ``EvaBlock`` by a parameter, or not."""
    if isinstance(layer, EvaBlock):
        gamma: Tensor | None = getattr(layer, f"gamma_{number}")
        return change if gamma is None else gamma * change
    scaled: Tensor = getattr(layer, f"ls{number}")(change)
    return scaled


def _layer_of(layer: nn.Module) -> _MaskLayer:
    """Return a tower's layer in parts.

    Raises:
        ValueError: If it is of another kind.
    """
    if type(layer) is ResidualAttentionBlock:
        return _OpenClipLayer(layer)
    # A subclass may do more than these steps, and grouped keys have fewer heads than queries.
    whole = type(layer) in {Block, EvaBlock} and type(layer.attn) in {Attention, AttentionRope, EvaAttention}
    if not whole or getattr(layer.attn, "num_kv_groups", 1) != 1:
        inner = type(getattr(layer, "attn", None)).__name__
        raise ValueError(
            f"OnePass: a layer of the image tower is {type(layer).__name__} with {inner}, a plain one of open_clip or "
            "timm is expected; name crops instead, or choose another CLIP"
        )
    return _TimmLayer(layer)


class _Pool(ABC):
    """Pools last tokens inside masks."""

    @abstractmethod
    def __call__(
        self, last: Float[Tensor, "picture token width"], visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Return embeddings, which are not normalised."""


class _MeanPool(_Pool):
    """The mean of patches, before or after the last norm as the tower has it."""

    def __init__(self, before: nn.Module, after: nn.Module, prefix: int) -> None:
        self._before = before
        self._after = after
        self._prefix = prefix

    def __call__(
        self, last: Float[Tensor, "picture token width"], visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Return the mean of each mask's patches, projected."""
        patches = self._before(last)[:, self._prefix :]
        weights = visible.to(patches.dtype)
        means: Tensor = self._after(weights @ patches / weights.sum(dim=-1, keepdim=True))
        return means


class _PatchPool(_Pool):
    """The mean of what the tower would make of each patch of the mask in the class token's place."""

    def __init__(self, tower: TokenTower) -> None:
        self._tower = tower

    def __call__(
        self, last: Float[Tensor, "picture token width"], visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Return the mean of each mask's patches."""
        patches = last[:, self._tower.prefix :]
        embeddings = self._tower.pool(patches.flatten(0, 1)[:, None]).unflatten(0, patches.shape[:2])
        weights = visible.to(embeddings.dtype)
        means: Tensor = weights @ embeddings / weights.sum(dim=-1, keepdim=True)
        return means


class _AttentionPool(_Pool):
    """A latent query asks the last tokens; here once per mask, for those inside it and the prefix."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual

    def __call__(
        self, last: Float[Tensor, "picture token width"], visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Return what the pool makes of each mask's tokens, projected."""
        trunk = self._visual.trunk
        pool, tokens = trunk.attn_pool, trunk.norm(last)
        prefix = trunk.num_prefix_tokens
        if getattr(trunk, "pool_include_prefix", True):  # Eva's pool always does
            visible = functional.pad(visible, (prefix, 0), value=True)
        else:
            tokens = tokens[:, prefix:]
        if pool.pos_embed is not None:
            tokens = tokens + pool.pos_embed
        bias = torch.zeros(visible.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(~visible, -torch.inf)
        query = pool.q_norm(pool.q(pool.latent).unflatten(-1, (pool.num_heads, -1)).transpose(1, 2))
        key, value = pool.kv(tokens).unflatten(-1, (2, pool.num_heads, -1)).permute(2, 0, 3, 1, 4)
        pooled = functional.scaled_dot_product_attention(
            query.expand(len(tokens), -1, visible.shape[1], -1), pool.k_norm(key), value, attn_mask=bias[:, None]
        )
        pooled = pool.proj(pooled.transpose(1, 2).flatten(2))  # [picture head mask dim] to [picture mask width]
        if pool.mlp is not None:
            pooled = pooled + pool.mlp(pool.norm(pooled))
        embeddings: Tensor = self._visual.head(trunk.head(trunk.fc_norm(pooled)))
        return embeddings


class _CaptionerPool(_Pool):
    """CoCa's pool, of whose queries the first one is the picture's embedding."""

    def __init__(self, visual: Any) -> None:
        self._visual = visual

    def __call__(
        self, last: Float[Tensor, "picture token width"], visible: Bool[Tensor, "picture mask patch"]
    ) -> Float[Tensor, "picture mask dim"]:
        """Return what the first query makes of each mask's tokens and the class token, projected."""
        pool = self._visual.attn_pool
        tokens, query = pool.ln_k(last), pool.ln_q(pool.query)[:1]
        seen = functional.pad(visible, (1, 0), value=True)
        bias = torch.zeros(seen.shape, dtype=tokens.dtype, device=tokens.device).masked_fill(~seen, -torch.inf)
        pooled = pool.attn(
            query.expand(*visible.shape[:2], -1),
            tokens,
            tokens,
            attn_mask=bias.repeat_interleave(pool.attn.num_heads, dim=0),  # [picture * head mask token]
            need_weights=False,
        )[0]
        embeddings: Tensor = self._visual.ln_post(pooled) @ self._visual.proj
        return embeddings


def _pool_of(tower: TokenTower) -> _Pool | None:
    """Return how masks pool a tower's last tokens; None where its embedding is the class token's.

    Raises:
        ValueError: If it pools in another way.
    """
    if isinstance(tower, OpenClipTower):
        visual = tower.visual
        project = nn.Identity() if visual.proj is None else _Projected(visual.proj)
        if visual.attn_pool is not None and visual.attn_pool_contrastive is None and visual.pool_type == "tok":
            return _CaptionerPool(visual)
        if visual.attn_pool is None and visual.pool_type == "tok":
            return None
        if visual.attn_pool is None and visual.pool_type == "avg":
            parts: tuple[nn.Module, nn.Module] = (visual.ln_post, project)
            if visual.final_ln_after_pool:
                parts = (nn.Identity(), nn.Sequential(visual.ln_post, project))
            return _MeanPool(*parts, prefix=1)
    elif isinstance(tower, TimmTower):
        trunk: Any = tower.visual.trunk
        if trunk.attn_pool is None and trunk.global_pool == "token":
            return None
        if trunk.attn_pool is None and trunk.global_pool == "avg" and not getattr(trunk, "pool_include_prefix", False):
            return _MeanPool(trunk.norm, nn.Sequential(trunk.fc_norm, trunk.head, tower.visual.head), tower.prefix)
        if type(trunk.attn_pool) is AttentionPoolLatent and trunk.attn_pool.latent_len == 1:
            return _AttentionPool(tower.visual)
    raise ValueError(
        f"OnePass: the image tower ({type(tower.visual).__name__}) pools its tokens in a way that masks cannot, the "
        "class token's state, a mean or an attention pool is expected; name crops instead, or choose another CLIP"
    )


class _Projected(nn.Module):
    """Multiplies by a tower's last matrix, which is a parameter and no module there."""

    def __init__(self, matrix: nn.Parameter) -> None:
        super().__init__()
        self.matrix = matrix

    def forward(self, pooled: Tensor) -> Tensor:
        """Project."""
        return pooled @ self.matrix


def _by_head(joined: Float[Tensor, "picture token joined"], heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Take queries, keys and values apart [picture head token dim]."""
    query, key, value = joined.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return query, key, value


def _heads(queries: Float[Tensor, "picture token inner"], heads: int) -> Tensor:
    """Give each head its part [picture head token dim]."""
    by_head: Tensor = queries.unflatten(-1, (heads, -1)).transpose(1, 2)
    return by_head


def _of_layer(rotations: Tensor | None, number: int) -> Tensor | None:
    """Return the rotations of a layer; a tower may have some of its own for each [layer head patch dim]."""
    return rotations[number] if rotations is not None and rotations.ndim == 4 else rotations


def _normalised(embeddings: Tensor) -> Tensor:
    """Bring embeddings to length 1, in at least single precision."""
    return functional.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)
