"""CLIP whose image tower may see learned mask prompts in place of the patches outside a mask (OVSeg, section 3.3).

Letters in shapes: ``dim`` is the embedding's size, ``width`` the image tower's, ``depth`` the number of layers whose
input takes prompts, ``patch`` counts a crop's patches line by line from the top left.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

PROMPT_INIT_STD = 0.02
MAX_LOGIT_SCALE = math.log(100)

OpenClip: TypeAlias = CLIP | CustomTextCLIP
"""open_clip's models of an image tower and a text tower; the second keeps the latter's tensors under ``text.``."""


class MaskAdaptedClip(nn.Module):
    """An open_clip model and its mask prompts.

    Everything but the prompts is open_clip's own: its modules run, its names are those of ``clip.state_dict()``.
    Without prompts, or without a patch mask, this is stock open_clip. Where the embedding is the class token's, as in
    all of OpenAI's models, the last layer computes no other token: the same embedding to the last bits of single
    precision (7e-7 at most) for 7 % fewer operations in ViT-B/16.

    Args:
        clip: open_clip's CLIP or CustomTextCLIP with a vision transformer as image tower.
        prompt_depth: How many layers' inputs take prompts; 0 for a model without prompts.
        prompt_seed: Seed of prompts to be trained, drawn from N(0, 0.02²); None for zeros, to load prompts into.

    Attributes:
        clip: The open_clip model.
        mask_prompts: [depth patch width], one prompt per layer and position, or None if ``prompt_depth`` is 0.
        crop_px: Side of the crops [px].
        patch_px: Side of a patch [px].
        arguments: The plain arguments with which `build_mask_adapted_clip` builds a model of the same form; empty if
            this one was built by hand.

    Raises:
        TypeError: If the image tower is no vision transformer of open_clip.
        ValueError: If it has a part that doesn't go with prompts, or fewer layers than ``prompt_depth``.

    References:
        OVSeg, section 3.3. As in the published code (and unlike a reading of the paper's figure), prompts replace patch
        tokens before positional embedding and ``ln_pre`` at the first layer, and as they are at the deeper ones.
    """

    clip: OpenClip
    mask_prompts: nn.Parameter | None

    def __init__(self, clip: OpenClip, *, prompt_depth: int = 3, prompt_seed: int | None = None) -> None:
        super().__init__()
        visual = _adaptable_tower(clip)
        layers = len(visual.transformer.resblocks)
        if not 0 <= prompt_depth <= layers:
            raise ValueError(
                f"MaskAdaptedClip: prompt_depth is {prompt_depth}, 0 to {layers} (the image tower's layers) is wanted; "
                "correct the setting"
            )
        self.clip = clip
        self.crop_px: int = visual.image_size[0]
        self.patch_px: int = visual.patch_size[0]
        shape = (prompt_depth, visual.grid_size[0] * visual.grid_size[1], visual.conv1.out_channels)
        self.arguments: dict[str, object] = {}
        self.register_parameter("mask_prompts", _new_prompts(shape, prompt_seed) if prompt_depth else None)

    @property
    def prompt_depth(self) -> int:
        """How many layers' inputs take prompts."""
        return 0 if self.mask_prompts is None else self.mask_prompts.shape[0]

    @property
    def logit_scale(self) -> Float[Tensor, "*scalar"]:
        """The learned logarithm of the factor on cosine similarities."""
        logit_scale: Tensor = self.clip.logit_scale
        return logit_scale

    def encode_image(
        self, crops: Float[Tensor, "crop 3 side side"], patch_mask: Bool[Tensor, "crop patch"] | None = None
    ) -> Float[Tensor, "crop dim"]:
        """Embed crops.

        Args:
            crops: Normalised for CLIP, ``crop_px`` wide and high. There may be none.
            patch_mask: True for patches with a pixel of the mask; the others are replaced by prompts. None, or a model
                without prompts: every patch is seen as it is.

        Returns:
            L2-normalised embeddings.
        """
        visual = self.clip.visual
        prompts = self.mask_prompts
        patches = visual.conv1(crops).flatten(2).transpose(1, 2)
        kept, prompted_layers = None, 0
        if patch_mask is not None and prompts is not None:
            patches = torch.where(patch_mask[:, :, None], patches, prompts[0].to(patches.dtype))
            # The class token is always kept, so that one choice over all the tokens serves at the deeper layers.
            kept, prompted_layers = functional.pad(patch_mask, (1, 0), value=True)[:, :, None], len(prompts)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(crops), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1) + visual.positional_embedding.to(patches.dtype)
        tokens = visual.ln_pre(tokens)
        layers: list[Callable[[Tensor], Tensor]] = list(visual.transformer.resblocks)
        if visual.pool_type == "tok" and type(layers[-1]) is ResidualAttentionBlock:
            layers[-1] = partial(_class_token_layer, layers[-1])
        recompute = visual.transformer.grad_checkpointing and torch.is_grad_enabled()
        for number, layer in enumerate(layers):
            if prompts is not None and kept is not None and 0 < number < prompted_layers:
                tokens = torch.where(kept, tokens, functional.pad(prompts[number], (0, 0, 1, 0)).to(tokens.dtype))
            tokens = checkpoint(layer, tokens, use_reentrant=False) if recompute else layer(tokens)
        pooled: Tensor = visual._pool(tokens)[0]
        return functional.normalize(pooled if visual.proj is None else pooled @ visual.proj, dim=-1)

    def encode_text(self, tokens: Int[Tensor, "text context"]) -> Float[Tensor, "text dim"]:
        """Embed tokenised texts, L2-normalised."""
        embeddings: Tensor = self.clip.encode_text(tokens, normalize=True)
        return embeddings

    def forward(
        self,
        crops: Float[Tensor, "pair 3 side side"],
        patch_mask: Bool[Tensor, "pair patch"] | None,
        tokens: Int[Tensor, "pair context"],
    ) -> tuple[Float[Tensor, "pair dim"], Float[Tensor, "pair dim"], Float[Tensor, "*scalar"]]:
        """Embed crops and texts of pairs for the contrastive loss.

        Returns:
            Image embeddings and text embeddings, L2-normalised, and the factor on their products, exp(logit_scale).
        """
        return self.encode_image(crops, patch_mask), self.encode_text(tokens), self.logit_scale.exp()

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale in [0, ln 100], as CLIP's training does after each step."""
        self.logit_scale.clamp_(0, MAX_LOGIT_SCALE)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Choose whether the image tower's layers are computed again in the backward pass rather than kept."""
        self.clip.visual.set_grad_checkpointing(enabled)


def _class_token_layer(
    block: ResidualAttentionBlock, tokens: Float[Tensor, "crop token width"]
) -> Float[Tensor, "crop 1 width"]:
    """Run a layer for its class token alone: all tokens are keys and values, one of them is a query."""
    normed = block.ln_1(tokens)
    class_token = tokens[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
    result: Tensor = class_token + block.ls_2(block.mlp(block.ln_2(class_token)))
    return result


def _new_prompts(shape: tuple[int, int, int], seed: int | None) -> nn.Parameter:
    """Make prompts, zero without a seed."""
    if seed is None:
        return nn.Parameter(torch.zeros(shape))
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * PROMPT_INIT_STD)


def _adaptable_tower(clip: OpenClip) -> VisionTransformer:
    """Return a CLIP's image tower.

    Raises:
        TypeError: If it is no vision transformer of open_clip.
        ValueError: If prompts have no meaning in it, saying why.
    """
    visual = clip.visual
    if not isinstance(visual, VisionTransformer):
        raise TypeError(
            f"MaskAdaptedClip: the image tower is {type(visual).__name__}, open_clip's VisionTransformer is wanted; "
            "choose a model such as ViT-B-16"
        )
    reasons = {
        "an attentional pooler": visual.attn_pool is not None,
        "tokens beside the embedding (output_tokens)": visual.output_tokens,
        "no pooling (pool_type 'none')": visual.pool_type == "none",
        "patch dropout": not isinstance(visual.patch_dropout, nn.Identity),
        "tokens before crops (batch_first False)": not visual.transformer.batch_first,
        f"an oblong image, {visual.image_size} px": len(set(visual.image_size)) != 1,
        f"oblong patches, {visual.patch_size} px": len(set(visual.patch_size)) != 1,
    }
    found = [reason for reason, present in reasons.items() if present]
    if found:
        raise ValueError(
            f"MaskAdaptedClip: the image tower has {', '.join(found)}; a plain vision transformer with one embedding "
            "per square image is wanted; change the model's vision_cfg"
        )
    return visual
