"""Class names as unit vectors of CLIP's space: the text tower on short texts, and the weights of a classifier."""

import re
from collections.abc import Sequence
from typing import TypeGuard

import torch
from jaxtyping import Float, Int
from open_clip import CLIP
from open_clip.transformer import text_global_pool
from torch import Tensor, nn
from torch.nn import functional

from ovseg_models.mask_adapted_clip import OpenClip
from ovseg_models.precision import full_precision
from ovseg_models.text_cache import TextCache, space_of, tower_structure
from ovseg_models.tokenizers import Tokenize
from ovseg_models.weights import text_tower_weights, weights_digest

_ROOT = -1


class TextClassifier:
    """Computes text embeddings of class names and keeps them in memory, and on disk where there is a cache.

    An embedding is kept under the digest of the text tower's weights, the templates and the name. So a name is computed
    once, and a tower that is trained, loaded or replaced, or other templates, never get vectors of the old ones.

    Args:
        clip: Its text tower is used, on its own device.
        tokenize: Turns texts into token numbers, such as ``open_clip.get_tokenizer(name)``.
        texts_per_batch: Sentences that the text tower takes at a time.
        name_by_name: Each name goes through the tower alone, and what its sentences have in common goes through once:
            half the work, and the same bits whichever names go before or after. A GPU does better with full batches.
        cache: Where vectors are looked up and kept beyond this process. A vector there must not depend on the names
            that it was made with, so each name goes alone.

    Raises:
        ValueError: If ``texts_per_batch`` is below one.
    """

    def __init__(
        self,
        clip: OpenClip,
        tokenize: Tokenize,
        *,
        texts_per_batch: int = 256,
        name_by_name: bool = False,
        cache: TextCache | None = None,
    ) -> None:
        if texts_per_batch < 1:
            raise ValueError(
                f"TextClassifier: texts_per_batch is {texts_per_batch}, at least 1 is expected; correct the setting"
            )
        self._clip = clip
        self._tokenize = tokenize
        self._texts_per_batch = texts_per_batch
        self._name_by_name = name_by_name or cache is not None
        self._cache = cache
        self._spaces: dict[tuple[str, tuple[str, ...], str], str] = {}  # in the cache
        self._tower = _WatchedTower(clip)
        self._kept: dict[tuple[str, tuple[str, ...], str], Tensor] = {}  # each [dim]

    @torch.no_grad()
    def text_embeddings(
        self, class_names: Sequence[str], templates: Sequence[str], *, split_synonyms: bool = False
    ) -> Float[Tensor, "name dim"]:
        """Embed each name: the normalised mean of the normalised embeddings of its sentences.

        Args:
            class_names: In the order of the result; blanks around them are taken away, repeated names are welcome. At
                least one.
            templates: Sentences with one ``{}`` each (see ``prompt_templates``). At least one.
            split_synonyms: Embed the parts of a name like "road, route" alone and average them, instead of putting the
                whole into the sentences as OVSeg does.

        Returns:
            L2-normalised embeddings in single precision.

        Raises:
            ValueError: If there is no name or no template, a name is blank, or a template hasn't exactly one ``{}``.
        """
        wording = _checked_templates(templates)
        synonyms = [
            [part.strip() for part in (name.split(",") if split_synonyms else [name]) if part.strip()]
            for name in class_names
        ]
        if [] in synonyms:
            name = class_names[synonyms.index([])]
            raise ValueError(f"text_embeddings: a class name is {name!r}, a word is expected; correct the vocabulary")
        if not synonyms:
            raise ValueError("text_embeddings: there are no class names, at least one is expected; give a vocabulary")
        digest = self._tower.digest()
        names = dict.fromkeys(part for parts in synonyms for part in parts)
        missing = [name for name in names if (digest, wording, name) not in self._kept]
        if missing:
            found = self._cached_or_embedded(missing, wording, digest)
            self._kept.update({(digest, wording, name): vector for name, vector in found.items()})
        device = self._clip.logit_scale.device
        rows = [torch.stack([self._kept[digest, wording, part] for part in parts]).to(device) for parts in synonyms]
        return torch.stack([row[0] if len(row) == 1 else functional.normalize(row.mean(dim=0), dim=0) for row in rows])

    def _cached_or_embedded(self, names: list[str], wording: tuple[str, ...], digest: str) -> dict[str, Tensor]:
        """Return vectors [dim] from the cache, and embed the others, which it then has."""
        cache = self._cache
        if cache is None:
            return dict(zip(names, self._embed(names, wording), strict=True))
        device = self._clip.logit_scale.device
        key = (digest, wording, device.type)
        if key not in self._spaces:
            tower = f"{digest} {tower_structure(self._clip)}"
            self._spaces[key] = space_of(tower, wording, self._tokenize(list(wording)), device)
        space = self._spaces[key]
        found = cache.read(space, names)
        if len(found) < len(names):
            with cache.alone(space):
                # Another process may have embedded them while this one waited.
                found |= cache.read(space, [name for name in names if name not in found])
                missing = [name for name in names if name not in found]
                if missing:
                    made = dict(zip(missing, self._embed(missing, wording), strict=True))
                    cache.write(space, made)
                    found |= made
        return found

    def _embed(self, names: list[str], templates: tuple[str, ...]) -> Float[Tensor, "name dim"]:
        """Run the text tower over every sentence of every name."""
        sentences = [template.replace("{}", name) for name in names for template in templates]
        device = self._clip.logit_scale.device
        encode = encode_related_texts if self._name_by_name else encode_text
        at_once = len(templates) if self._name_by_name else self._texts_per_batch
        # A vector that is kept must not depend on the precision of whoever asks for it first.
        with full_precision(device):
            embeddings = torch.cat(
                [
                    encode(self._clip, self._tokenize(sentences[start : start + at_once]).to(device))
                    for start in range(0, len(sentences), at_once)
                ]
            )
        of_sentences = functional.normalize(embeddings.float(), dim=-1).unflatten(0, (len(names), len(templates)))
        return functional.normalize(of_sentences.mean(dim=1), dim=-1)


class _WatchedTower:
    """The digest of a text tower, computed again only if the weights have changed.

    The digest costs a tenth of a second or more, and a segmenter asks for it with each picture. What is compared first
    is cheap: which tensors there are, how often torch has written to each, and their norms, which show writes that
    torch doesn't count (``tensor.data.copy_``).
    """

    def __init__(self, clip: OpenClip) -> None:
        self._clip = clip
        self._seen: list[Tensor] = []  # kept, so that no new tensor can have the identity of an old one
        self._mark: list[tuple[int, int, float]] = []
        self._digest = ""

    def digest(self) -> str:
        weights = text_tower_weights(self._clip)
        tensors = list(weights.values())
        norms = torch.stack([tensor.detach().float().norm() for tensor in tensors]).tolist()
        mark = [
            (id(tensor), 0 if tensor.is_inference() else tensor._version, norm)
            for tensor, norm in zip(tensors, norms, strict=True)
        ]
        if mark != self._mark:
            self._seen, self._mark, self._digest = tensors, mark, weights_digest(weights)
        return self._digest


def _checked_templates(templates: Sequence[str]) -> tuple[str, ...]:
    """Return the templates as a key of the memory."""
    if isinstance(templates, str) or not templates:
        raise ValueError(
            f"text_embeddings: templates are {templates!r}, a list of at least one sentence is expected; "
            "see prompt_templates"
        )
    for template in templates:
        if len(re.findall(r"\{\}", template)) != 1:
            raise ValueError(
                f"text_embeddings: template {template!r} is expected with exactly one {{}} for the class name"
            )
    return tuple(templates)


def encode_text(clip: OpenClip, tokens: Int[Tensor, "text context"]) -> Float[Tensor, "text dim"]:
    """Embed tokenised texts, not normalised, as ``clip.encode_text`` does to within rounding.

    Where the tower's attention is causal, as in all of OpenAI's, what follows a text's end has no influence on its
    embedding. It is left out: a sentence around a noun has about 12 tokens of 77.

    Args:
        clip: Its text tower is used.
        tokens: On the tower's device, padded to the context's length. There may be none.
    """
    if not is_causal(clip) or len(tokens) == 0:
        untrimmed: Tensor = clip.encode_text(tokens, normalize=False)  # said, as CoCa's default is another one
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

    Where attention is causal, a token's state follows from the token and those before it. So the texts
    are laid out as a tree whose branches part where the texts do, and go through the tower as one sequence in which
    each token sees its own branch. The 14 sentences around a noun have 154 tokens with their padding, and 79 so.

    Args:
        clip: Its text tower is used.
        tokens: On the tower's device, padded to the context's length. There may be none.
    """
    if not is_causal(clip) or len(tokens) == 0:
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


def encode_prompted_texts(
    clip: OpenClip, tokens: Int[Tensor, "text context"], prompts: Float[Tensor, "prompt width"]
) -> Float[Tensor, "text dim"]:
    """Embed texts with learned tokens between their start and their words, L2-normalised; prompts take gradients.

    Args:
        clip: Its text tower is used.
        tokens: Of the bare names, on the tower's device, padded to the context's length.
        prompts: In the space of token embeddings.

    Raises:
        TypeError: If the text tower is no causal one of open_clip, as OpenAI's are.
        ValueError: If names and prompts are longer than the context.

    References:
        Zhou et al., 2022 (CoOp); Xu et al., 2022 (SimBaseline).
    """
    causal, length = causal_with_room(clip, tokens, len(prompts))
    ends = tokens.argmax(dim=-1)
    dtype = causal.transformer.get_cast_dtype()
    words = causal.token_embedding(tokens[:, : length - len(prompts)]).to(dtype)
    learned = prompts.to(dtype).expand(len(tokens), -1, -1)
    # [text token width]: the start, prompts, the words and the end
    states = torch.cat([words[:, :1], learned, words[:, 1:]], dim=1) + causal.positional_embedding[:length].to(dtype)
    states = causal.transformer(states, attn_mask=causal.attn_mask[:length, :length])
    of_ends = causal.ln_final(states)[torch.arange(len(tokens), device=tokens.device), ends + len(prompts)]
    return functional.normalize(_projected(causal, of_ends).float(), dim=-1)


def causal_with_room(clip: OpenClip, tokens: Int[Tensor, "text context"], prompts: int) -> tuple[CLIP, int]:
    """Return a CLIP whose texts take prompts, and the length of the longest of them with its prompts.

    Raises:
        TypeError: If the text tower is no causal one of open_clip, as OpenAI's are.
        ValueError: If names and prompts are longer than the context.
    """
    if not is_causal(clip):
        raise TypeError(
            f"text prompts: the text tower is that of a {type(clip).__name__}, a causal one of open_clip is expected; "
            "choose a model such as ViT-B-16"
        )
    length = int(tokens.argmax(dim=-1).max()) + 1 + prompts
    if length > clip.context_length:
        raise ValueError(
            f"text prompts: {prompts} prompts and the longest name take {length} tokens, at most "
            f"{clip.context_length} are expected; lower finetune.text.length"
        )
    return clip, length


def is_causal(clip: OpenClip) -> TypeGuard[CLIP]:
    """Return whether a token sees only those before it, and an embedding is the state of a text's end."""
    return isinstance(clip, CLIP) and clip.attn_mask is not None and clip.text_pool_type == "argmax"


def _projected(clip: CLIP, pooled: Float[Tensor, "text width"]) -> Float[Tensor, "text dim"]:
    """Bring states of texts' ends to the space of embeddings."""
    projection = clip.text_projection
    if isinstance(projection, nn.Linear):
        projected: Tensor = projection(pooled)
        return projected
    return pooled if projection is None else pooled @ projection
