"""CLIP whose image tower may see learned mask prompts in place of the patches outside a mask (OVSeg, section 3.3).

Letters in shapes: ``dim`` is the embedding's size, ``width`` the image tower's, ``depth`` the number of layers whose
input takes prompts, ``patch`` counts a crop's patches line by line from the top left.

A *blank* patch is one without a pixel of the mask: nothing but the fill colour. A model may be trained to drop them.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from open_clip import CLIP, CustomTextCLIP
from open_clip.transformer import PatchDropout
from timm.layers.drop import DropPath
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ovseg_models.host_to_device import sent
from ovseg_models.image_towers import OpenClipTower, TokenTower, crop_side_px, token_tower, tower_name
from ovseg_models.mask_queries import MaskQueries
from ovseg_models.preprocessing import OPENAI, CropFormat, Preprocessing
from ovseg_models.tokenizers import ModelTokenizer, Tokenize

PROMPT_INIT_STD = 0.02
MAX_LOGIT_SCALE = math.log(100)
PUBLISHED_TEMPERATURE = 100.0

GROUP_TOKENS_CPU, GROUP_TOKENS_GPU = 16, 1024
"""What one more group of crops costs in each layer, in tokens that could be computed instead; for a GPU estimated from
the time to launch a layer's kernels."""

OpenClip: TypeAlias = CLIP | CustomTextCLIP
"""open_clip's models of an image tower and a text tower; the second keeps the latter's tensors under ``text.``."""

BlankPatches: TypeAlias = Literal["kept", "dropped"]
"""What becomes of the tokens of blank patches: they stay, as in CLIP and OVSeg, or leave the sequence."""

Temperature: TypeAlias = Literal["published", "model"]
"""The factor on cosines when classes are named: 100 as in OVSeg's code, whatever CLIP has learned, or what it has."""


FinetuningMode: TypeAlias = Literal["ft", "mpt", "ft+mpt", "query"]
"""FT trains the whole image tower, MPT the mask prompts alone, and what mask tokens of one pass ask with is trained by
the last; no mode trains the text tower."""
_PREFIXES = {
    "ft": ("clip.visual.",),
    "mpt": ("mask_prompts",),
    "ft+mpt": ("clip.visual.", "mask_prompts"),
    "query": ("mask_queries.",),
}
_WITHOUT_CHANCE = (_BatchNorm, nn.Dropout, DropPath, PatchDropout)


class MaskAdaptedClip(nn.Module):
    """What names crops: an open_clip model, its mask prompts, and what belongs to it but is no weight.

    Everything but the prompts is open_clip's own: its modules run, its names are those of ``clip.state_dict()``.
    Without prompts, or without a patch mask, this is stock open_clip. Where the embedding is the class token's, as in
    all of OpenAI's models, the last layer computes no other token: the same embedding to the last bits of single
    precision (7e-7 at most) for 7 % fewer operations in ViT-B/16.

    Prompts need patch tokens (see `image_towers`). Other towers embed crops as a whole: they have no prompts, and masks
    show them the fill colour alone.

    With ``blank_patches = "dropped"`` the tokens of blank patches leave the sequence, for which CLIP must be trained: a
    third of the names change otherwise. They leave after patch and positional embedding or, where prompts take their
    place, after the last layer whose input takes prompts, so that these act as published: a prompt in the deepest
    prompted layer is read there by the class token and the mask's patches, and its own token is never read again. The
    class token stays always. Positional embeddings stay those of the places in the crop.

    Args:
        clip: open_clip's CLIP or CustomTextCLIP.
        prompt_depth: How many layers' inputs take prompts; 0 for a model without prompts.
        prompt_seed: Seed of prompts to be trained, drawn from N(0, 0.02²); None for zeros, to load prompts into.
        mask_queries: Whether mask tokens of one pass (`one_pass.OnePass`) have queries of their own, the tower's at
            first; crops don't see them.
        blank_patches: What becomes of the tokens of blank patches, in training and ever after.
        preprocessing: How CLIP's training images were normalised and resized.
        temperature: The factor on cosines when classes are named; a sigmoid model always has its own.
        tokenize: From texts to tokens; None for open_clip's own tokenizer.

    Attributes:
        clip: The open_clip model.
        tower: Its image tower in steps; None if that has no patch tokens.
        mask_prompts: [depth patch width], one prompt per layer and position, or None if ``prompt_depth`` is 0.
        mask_queries: Of mask tokens in one pass; None if these ask as the class token does.
        tokenize: From texts to tokens.
        crop: What it takes as a crop.
        arguments: The plain arguments with which `build_mask_adapted_clip` builds a model of the same form; empty if
            this one was built by hand.

    Raises:
        TypeError: If the image tower is none of open_clip's.
        ValueError: If it has a part that doesn't go with prompts or with the dropping of tokens, or fewer layers than
            ``prompt_depth``; or if ``blank_patches`` is unknown.

    References:
        OVSeg, section 3.3. As in the published code (and unlike a reading of the paper's figure), prompts replace patch
        tokens before positional embedding and ``ln_pre`` at the first layer, and as they are at the deeper ones.
    """

    clip: OpenClip
    mask_prompts: nn.Parameter | None
    mask_queries: MaskQueries | None

    def __init__(
        self,
        clip: OpenClip,
        *,
        prompt_depth: int = 3,
        prompt_seed: int | None = None,
        mask_queries: bool = False,
        blank_patches: BlankPatches = "kept",
        preprocessing: Preprocessing = OPENAI,
        temperature: Temperature = "published",
        tokenize: Tokenize | None = None,
    ) -> None:
        super().__init__()
        if blank_patches not in get_args(BlankPatches):
            raise ValueError(
                f"MaskAdaptedClip: blank_patches is {blank_patches!r}, one of {get_args(BlankPatches)} is expected; "
                "correct the setting"
            )
        if temperature not in get_args(Temperature):
            raise ValueError(
                f"MaskAdaptedClip: temperature is {temperature!r}, one of {get_args(Temperature)} is expected"
            )
        self.clip = clip
        self.tower = token_tower(clip.visual)
        self.blank_patches = blank_patches
        self.temperature = temperature
        self.arguments: dict[str, object] = {}
        self.tokenize = tokenize or ModelTokenizer({"text_cfg": {"context_length": clip.context_length}})
        prompts = torch.zeros(0)
        if self.tower is None:
            if prompt_depth or blank_patches == "dropped":
                choice = f"prompt_depth is {prompt_depth}" if prompt_depth else "blank_patches is 'dropped'"
                raise ValueError(
                    f"MaskAdaptedClip: {choice}, and the image tower ({tower_name(clip.visual)}) has no patch tokens, "
                    "so that mask prompts have no meaning in it; finetune it in mode 'ft', keep blank patches, or "
                    "choose a vision transformer"
                )
            side_px = crop_side_px(clip.visual)
            self.crop = CropFormat(side_px, side_px, preprocessing)
        else:
            _check_masks_fit(self.tower, prompt_depth, blank_patches)
            self.crop = CropFormat(self.tower.side_px, self.tower.patch_px, preprocessing)
            shape = (prompt_depth, self.crop.patches, self.tower.width)
            if prompt_seed is None:
                prompts = torch.zeros(shape)
            else:
                prompts = torch.randn(shape, generator=torch.Generator().manual_seed(prompt_seed)) * PROMPT_INIT_STD
        self.register_parameter("mask_prompts", nn.Parameter(prompts) if prompt_depth else None)
        if mask_queries and self.tower is None:
            raise ValueError(
                f"MaskAdaptedClip: mask_queries is true, and the image tower ({tower_name(clip.visual)}) has no patch "
                "tokens that masks could ask; choose a vision transformer"
            )
        self.mask_queries = MaskQueries(self.tower) if mask_queries and self.tower is not None else None

    @property
    def crop_px(self) -> int:
        """Side of the crops [px]."""
        return self.crop.side_px

    @property
    def patch_px(self) -> int:
        """Side of a patch [px]."""
        return self.crop.patch_px

    @property
    def embedding_dim(self) -> int:
        """Length of the embeddings."""
        return embedding_dim(self.clip)

    @property
    def prompt_depth(self) -> int:
        """How many layers' inputs take prompts."""
        return 0 if self.mask_prompts is None else self.mask_prompts.shape[0]

    @property
    def logit_scale(self) -> Float[Tensor, "*scalar"]:
        """The learned logarithm of the factor on cosine similarities."""
        logit_scale: Tensor = self.clip.logit_scale
        return logit_scale

    @property
    def logit_bias(self) -> Float[Tensor, "*scalar"] | None:
        """The learned number that a sigmoid model adds to scaled similarities; None for a softmax model."""
        logit_bias: Tensor | None = self.clip.logit_bias
        return logit_bias

    @property
    def is_sigmoid(self) -> bool:
        """Whether each image with each text is a case of its own to the model, as for SigLIP, and not one of many."""
        return self.logit_bias is not None

    def set_temperature(self, temperature: Temperature) -> None:
        """Name with 100 times the cosine as OVSeg's code does, or with what the model has learned; it is recorded."""
        self.temperature = temperature
        if self.arguments:
            self.arguments["temperature"] = temperature

    def class_logits(
        self, image_embeddings: Float[Tensor, "crop dim"], text_embeddings: Float[Tensor, "class dim"]
    ) -> Float[Tensor, "crop class"]:
        """Compare embedded crops with a vocabulary; the softmax over the classes gives their probabilities.

        Of a softmax model these are cosines times the temperature. A sigmoid model gives each class a probability of
        its own, sigmoid(scale * cosine + bias). Divided by their sum they are comparable with the proposal net's: this
        is the softmax of their logarithms, which are returned. Where all are unlikely, the bias has no influence.

        Args:
            image_embeddings: L2-normalised.
            text_embeddings: L2-normalised.
        """
        with torch.no_grad():
            own_scale = self.is_sigmoid or self.temperature == "model"
            scale = self.logit_scale.float().exp() if own_scale else PUBLISHED_TEMPERATURE
            logits = scale * image_embeddings @ text_embeddings.T
            return logits if self.logit_bias is None else functional.logsigmoid(logits + self.logit_bias.float())

    def needs_patch_masks(self, *, use_prompts: bool = True) -> bool:
        """Return whether embeddings depend on patch masks, so that `encode_image` must be given them."""
        return self.blank_patches == "dropped" or (use_prompts and self.mask_prompts is not None)

    def encode_image(
        self,
        crops: Float[Tensor, "crop 3 side side"],
        patch_mask: Bool[Tensor, "crop patch"] | None = None,
        *,
        use_prompts: bool = True,
    ) -> Float[Tensor, "crop dim"]:
        """Embed crops.

        Args:
            crops: Normalised for CLIP, ``crop_px`` wide and high. There may be none.
            patch_mask: True for patches with a pixel of the mask; the others are blank. None: every patch is seen as it
                is, whatever the model. A model that drops tokens has to know on the host how many; masks that are there
                spare it the wait for the device.
            use_prompts: Whether prompts, if there are any, take the place of blank patches.

        Returns:
            L2-normalised embeddings.
        """
        masks = patch_mask if self.needs_patch_masks(use_prompts=use_prompts) else None
        if len(crops) == 0 and not isinstance(self.tower, OpenClipTower):  # timm's attention takes no empty batch
            embeddings = crops.new_zeros(0, self.embedding_dim)
        elif self.tower is None:
            embeddings = self.clip.visual(crops)
        else:
            prompts = self.mask_prompts if use_prompts and masks is not None else None
            embeddings = self._embedded(self.tower, crops, masks, prompts)
        # Half precision would leave the lengths off by a percent.
        return functional.normalize(embeddings.to(torch.promote_types(embeddings.dtype, torch.float32)), dim=-1)

    def _embedded(
        self,
        tower: TokenTower,
        crops: Float[Tensor, "crop 3 side side"],
        masks: Bool[Tensor, "crop patch"] | None,
        prompts: Float[Tensor, "depth patch width"] | None,
    ) -> Float[Tensor, "crop dim"]:
        """Run a tower step by step; masks act between the steps."""
        patches = tower.patches(crops)
        # The prefix is always kept, so that one choice over all the tokens serves at the deeper layers.
        kept = None if masks is None else functional.pad(sent(masks, crops.device), (tower.prefix, 0), value=True)
        if prompts is not None and kept is not None:
            # In mixed precision prompts stay in single precision, and so do all tokens between layers from here on, as
            # in the published code, whose mask of floats makes them so. Products within layers are in half precision.
            patches = torch.where(kept[:, tower.prefix :, None], patches, prompts[0])
        states, rotations = tower.tokens(patches)
        recompute = tower.recomputes and torch.is_grad_enabled()
        count = len(tower.layers)
        prompted_layers = 0 if prompts is None else len(prompts)
        whole_layers = prompted_layers if masks is not None and self.blank_patches == "dropped" else count
        for number in range(whole_layers):
            if prompts is not None and kept is not None and 0 < number < prompted_layers:
                states = torch.where(kept[:, :, None], states, functional.pad(prompts[number], (0, 0, tower.prefix, 0)))
            layer: Callable[[Tensor], Tensor] = partial(tower.run, number, rotations=rotations)
            if number == count - 1 and isinstance(tower, OpenClipTower) and tower.is_plain:
                layer = partial(_layer, tower.layers[number], class_token_only=True)
            states = checkpoint(layer, states, use_reentrant=False) if recompute else layer(states)
        if masks is not None and kept is not None and whole_layers < count:
            states = _class_tokens_without_blanks(states, tower.layers[whole_layers:], kept, masks, recompute=recompute)
        return tower.pool(states)

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

    def train(self, mode: bool = True) -> "MaskAdaptedClip":
        """Switch to training, but for what depends on chance or on the other crops of a batch.

        A few epochs at a low rate need no stochastic depth. Without it, and with batch norms at the statistics that
        the model was published with, a crop's embedding is the same however a batch is cut or spread over processes.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _WITHOUT_CHANCE):
                module.eval()
        return self

    @torch.no_grad()
    def clamp_logit_scale(self) -> None:
        """Keep the logit scale in [0, ln 100], as CLIP's training does after each step.

        A sigmoid model has no upper bound: the published ones lie above it.
        """
        self.logit_scale.clamp_(0, None if self.is_sigmoid else MAX_LOGIT_SCALE)

    def set_grad_checkpointing(self, enabled: bool) -> None:
        """Choose whether the image tower's layers are computed again in the backward pass rather than kept."""
        self.clip.visual.set_grad_checkpointing(enabled)


def embedding_dim(clip: OpenClip) -> int:
    """Return the length of a model's embeddings, which the text tower's end shows in every model."""
    if isinstance(clip, CustomTextCLIP):
        return int(clip.text.output_dim or clip.text.width)
    projection = clip.text_projection
    if projection is None:
        return int(clip.transformer.width)
    return int(projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1])


def _check_masks_fit(tower: TokenTower, prompt_depth: int, blank_patches: BlankPatches) -> None:
    """Refuse more prompts than layers, and the dropping of tokens where that changes more than the mask says.

    Raises:
        ValueError: If prompts or dropping don't fit the tower.
    """
    if not 0 <= prompt_depth <= len(tower.layers):
        raise ValueError(
            f"MaskAdaptedClip: prompt_depth is {prompt_depth}, expected 0 to {len(tower.layers)} (the image tower's "
            "layers); correct the setting"
        )
    if blank_patches == "dropped" and not (isinstance(tower, OpenClipTower) and tower.is_plain):
        found = tower_name(tower.visual)
        if isinstance(tower, OpenClipTower):
            pool_type = tower.visual.pool_type
            found = f"pool_type {pool_type!r}" if pool_type != "tok" else "attention of another kind"
        raise ValueError(
            f"MaskAdaptedClip: blank_patches is 'dropped' and the image tower has {found}; the class token's "
            "embedding and open_clip's plain layers are expected, as in ViT-B-16; set blank_patches to 'kept'"
        )


class LengthGroup(NamedTuple):
    """Crops that go through the layers together, each of their sequences padded to the longest of them.

    Attributes:
        crops: How many.
        tokens: Of the longest.
        is_padded: Whether any is shorter.
    """

    crops: int
    tokens: int
    is_padded: bool


def length_groups(lengths: Sequence[int], group_tokens: int) -> list[LengthGroup]:
    """Divide sequences of ascending lengths into groups so that the least is computed for padding.

    Args:
        lengths: Ascending; there may be none, which makes one empty group.
        group_tokens: What a group costs beside its tokens, in tokens.

    Returns:
        Groups in order; exact, by dynamic programming over the different lengths.
    """
    if not lengths:
        return [LengthGroup(0, 1, is_padded=False)]
    counts = Counter(lengths)
    different = list(counts)
    before = np.array([0, *accumulate(counts.values())])  # sequences that are shorter than each length
    # best[end] is the least cost of the sequences before the end, cut[end] where the last group of these begins.
    best, cut = np.zeros(len(different) + 1), [0] * (len(different) + 1)
    for end, longest in enumerate(different, start=1):
        costs = best[:end] + longest * (before[end] - before[:end]) + group_tokens
        cut[end] = int(costs.argmin())
        best[end] = costs[cut[end]]
    groups, end = [], len(different)
    while end:
        crops = int(before[end] - before[cut[end]])
        groups.append(LengthGroup(crops, different[end - 1], is_padded=cut[end] < end - 1))
        end = cut[end]
    return groups[::-1]


def _class_tokens_without_blanks(
    tokens: Float[Tensor, "crop token width"],
    blocks: Sequence[Any],
    kept: Bool[Tensor, "crop token"],
    patch_mask: Bool[Tensor, "crop patch"],
    *,
    recompute: bool,
) -> Float[Tensor, "crop 1 width"]:
    """Run layers on the kept tokens alone, crops with about as many of them together.

    Args:
        tokens: The first one is the class token.
        blocks: The last one is the image tower's last layer.
        kept: On the tokens' device.
        patch_mask: The same without the class token; on the host, or else it is waited for.
        recompute: Whether activations are computed again in the backward pass.
    """
    shortest_first = kept.sum(dim=1).argsort(stable=True)
    lengths = kept.sum(dim=1)[shortest_first]
    kept_first = kept.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[shortest_first]
    group_tokens = GROUP_TOKENS_CPU if tokens.device.type == "cpu" else GROUP_TOKENS_GPU
    class_tokens, start = [], 0
    for group in length_groups(_lengths_on_host(patch_mask), group_tokens):
        members = slice(start, start + group.crops)
        start += group.crops
        # Where a crop has fewer tokens than the group's longest, blank ones fill up, and nothing ever reads them.
        some = tokens[shortest_first[members, None], kept_first[members, : group.tokens]]
        padding = None
        if group.is_padded:
            padding = torch.arange(group.tokens, device=tokens.device) >= lengths[members, None]
        for block in blocks:
            layer = partial(_layer, block, padding=padding, class_token_only=block is blocks[-1])
            some = checkpoint(layer, some, use_reentrant=False) if recompute else layer(some)
        class_tokens.append(some)
    return torch.cat(class_tokens)[shortest_first.argsort()]


def _lengths_on_host(patch_mask: Bool[Tensor, "crop patch"]) -> list[int]:
    """Return how many tokens crops keep, the class token among them, ascending; waits for a mask on a device."""
    lengths: list[int] = np.sort(1 + patch_mask.cpu().numpy().sum(axis=1)).tolist()
    return lengths


def _layer(
    block: Any,
    tokens: Float[Tensor, "crop token width"],
    *,
    padding: Bool[Tensor, "crop token"] | None = None,
    class_token_only: bool = False,
) -> Float[Tensor, "crop result width"]:
    """Run a layer as open_clip does, but for tokens that nobody reads.

    Args:
        padding: True for tokens that are neither keys nor values.
        class_token_only: All tokens are keys and values, the class token alone is a query and comes out.
    """
    normed = block.ln_1(tokens)
    queries = normed
    if class_token_only:
        tokens, queries = tokens[:, :1], normed[:, :1]
    attended = block.attn(queries, normed, normed, key_padding_mask=padding, need_weights=False)[0]
    tokens = tokens + block.ls_1(attended)
    result: Tensor = tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
    return result


def select_trainable(
    model: MaskAdaptedClip, mode: FinetuningMode, *, train_logit_scale: bool = True
) -> dict[str, nn.Parameter]:
    """Let a mode's parameters take gradients and freeze all the others.

    Args:
        model: Is changed: each parameter's ``requires_grad`` is set.
        mode: What to train.
        train_logit_scale: Whether the logit scale, and a sigmoid model's bias, are trained too, in any mode.

    Returns:
        The trainable parameters by their names in the model, for the optimizer.

    Raises:
        ValueError: If the mode is unknown, or trains prompts that the model hasn't.

    References:
        OVSeg, section 3.3. The published code trains the logit scale in every mode; the paper is silent.
    """
    if mode not in get_args(FinetuningMode):
        raise ValueError(f"select_trainable: mode is {mode!r}, one of {get_args(FinetuningMode)} is expected")
    if "mpt" in mode and model.mask_prompts is None:
        raise ValueError(
            f"select_trainable: mode {mode!r} trains mask prompts, the model has none (prompt_depth 0); "
            "build it with a prompt_depth of at least 1"
        )
    if mode == "query" and model.mask_queries is None:
        raise ValueError(
            "select_trainable: mode 'query' trains queries of mask tokens, the model has none; build it with "
            "mask_queries"
        )
    scale = ("clip.logit_scale", "clip.logit_bias") if train_logit_scale else ()
    prefixes = (*_PREFIXES[mode], *scale)
    trainable = {name: parameter for name, parameter in model.named_parameters() if name.startswith(prefixes)}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    return trainable
