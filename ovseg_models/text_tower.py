"""CLIP's text tower on short texts, at a fraction of the cost."""

from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from ovseg_models.mask_adapted_clip import OpenClip

_ROOT = -1


def encode_text(clip: OpenClip, tokens: Int[Tensor, "text context"]) -> Float[Tensor, "text dim"]:
    """Embed tokenised texts, not normalised, as ``clip.encode_text`` does to within rounding.

    Where the tower looks back only (as all of OpenAI's do), what stands after a text's end has no influence on its
    embedding. It is left out: a sentence around a noun has about 12 tokens of 77.

    Args:
        clip: Its text tower is used.
        tokens: On the tower's device, padded to the context's length. There may be none.
    """
    if not _looks_back_only(clip) or len(tokens) == 0:
        untrimmed: Tensor = clip.encode_text(tokens)
        return untrimmed
    ends = tokens.argmax(dim=-1)  # the end of text has the highest number
    length = int(ends.max()) + 1
    tokens = tokens[:, :length]
    dtype = clip.transformer.get_cast_dtype()
    states = clip.token_embedding(tokens).to(dtype) + clip.positional_embedding[:length].to(dtype)
    states = clip.transformer(states, attn_mask=clip.attn_mask[:length, :length])
    return _projected(clip, text_global_pool(clip.ln_final(states), tokens, clip.text_pool_type))


def encode_related_texts(clip: OpenClip, tokens: Int[Tensor, "text context"]) -> Float[Tensor, "text dim"]:
    """Embed a few texts that begin alike, as `encode_text` does to within rounding; equal beginnings are read once.

    Where the tower looks back only, what it makes of a token follows from the token and those before it. So the texts
    are laid out as a tree whose branches part where the texts do, and go through the tower as one sequence in which
    each token sees its own branch. The 14 sentences around a noun have 154 tokens with their padding, and 79 so.

    Args:
        clip: Its text tower is used.
        tokens: On the tower's device, padded to the context's length. There may be none.
    """
    if not _looks_back_only(clip) or len(tokens) == 0:
        return encode_text(clip, tokens)
    nodes: dict[tuple[int, int], int] = {}  # by the node before it and its token
    depths: list[int] = []
    ends = []
    for text, length in zip(tokens.tolist(), (tokens.argmax(dim=-1) + 1).tolist(), strict=True):
        node = _ROOT
        for depth, token in enumerate(text[:length]):
            if (node, token) not in nodes:
                nodes[node, token] = len(nodes)
                depths.append(depth)
            node = nodes[node, token]
        ends.append(node)
    sees = torch.eye(len(nodes), dtype=torch.bool)
    for (before, _), node in nodes.items():
        if before != _ROOT:
            sees[node] |= sees[before]
    dtype, device = clip.transformer.get_cast_dtype(), tokens.device
    states = clip.token_embedding(torch.tensor([token for _, token in nodes], device=device)).to(dtype)
    states = states + clip.positional_embedding[torch.tensor(depths, device=device)].to(dtype)
    mask = torch.zeros(sees.shape, dtype=clip.attn_mask.dtype).masked_fill(~sees, -torch.inf).to(device)
    states = clip.transformer(states[None], attn_mask=mask)[0]
    return _projected(clip, clip.ln_final(states[torch.tensor(ends, device=device)]))


def _looks_back_only(clip: OpenClip) -> TypeGuard[CLIP]:
    """Tell whether a token's state depends on those before it alone, and a text's embedding on its end's state."""
    return isinstance(clip, CLIP) and clip.attn_mask is not None and clip.text_pool_type == "argmax"


def _projected(clip: CLIP, pooled: Float[Tensor, "text width"]) -> Float[Tensor, "text dim"]:
    """Bring states of texts' ends to the space of embeddings."""
    projection = clip.text_projection
    if isinstance(projection, nn.Linear):
        projected: Tensor = projection(pooled)
        return projected
    return pooled if projection is None else pooled @ projection
