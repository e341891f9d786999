"""CLIP's text tower on short texts, at a fraction of the cost."""

from jaxtyping import Float, Int
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn

from ovseg_models.mask_adapted_clip import OpenClip


def encode_text(clip: OpenClip, tokens: Int[Tensor, "text context"]) -> Float[Tensor, "text dim"]:
    """Embed tokenised texts, not normalised, as ``clip.encode_text`` does to within rounding.

    Where the tower looks back only (as all of OpenAI's do), what stands after a text's end has no influence on its
    embedding. It is left out: a sentence around a noun has about 12 tokens of 77.

    Args:
        clip: Its text tower is used.
        tokens: On the tower's device, padded to the context's length. There may be none.
    """
    if not isinstance(clip, CLIP) or clip.attn_mask is None or clip.text_pool_type != "argmax" or len(tokens) == 0:
        untrimmed: Tensor = clip.encode_text(tokens)
        return untrimmed
    ends = tokens.argmax(dim=-1)  # the end of text has the highest number
    length = int(ends.max()) + 1
    tokens = tokens[:, :length]
    dtype = clip.transformer.get_cast_dtype()
    states = clip.token_embedding(tokens).to(dtype) + clip.positional_embedding[:length].to(dtype)
    states = clip.transformer(states, attn_mask=clip.attn_mask[:length, :length])
    pooled: Tensor = text_global_pool(clip.ln_final(states), tokens, clip.text_pool_type)
    projection = clip.text_projection
    if isinstance(projection, nn.Linear):
        pooled = projection(pooled)
    elif projection is not None:
        pooled = pooled @ projection
    return pooled
