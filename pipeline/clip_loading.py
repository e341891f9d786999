"""The CLIP that the settings name, with its tokenizer, and the digest that identifies it in artifacts."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import open_clip
from torch import Tensor

from ovseg_models.mask_adapted_clip import OpenClip
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.weights import weights_digest
from ovseg_models.word_tokenizer import WordTokenizer
from pipeline.drawn_world import small_clip
from pipeline.drawn_world.small_clip import RANDOM, SHIPPED, SMALL
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings

logger = logging.getLogger(__name__)

_UNAVAILABLE: set[tuple[str, str]] = set()
"""Architecture and tag of weights for which this process took random ones instead: a network that comes back must not
change the CLIP in the middle of a run, and a failing download takes half a minute and more of the hub's retries."""


@dataclass(frozen=True)
class LoadedClip:
    """Stock CLIP with what belongs to it.

    Attributes:
        clip: In evaluation mode, single precision, on the CPU.
        tokenize: From texts to tokens [text context].
        words: The tokenizer's word list; None for open_clip's tokenizer.
        digest: Of all weights.
        config: open_clip's configuration of the model, from which it can be built again; empty if it isn't known.
        is_random: Whether its weights are random, as the settings say or because there was no download.
    """

    clip: OpenClip
    tokenize: Callable[[Sequence[str]], Tensor]
    words: WordTokenizer | None
    digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    is_random: bool = False


def warn_of_unknown(settings: ClipSettings, names: Sequence[str], what: str) -> None:
    """Warn of names without a word in CLIP's list: they all look the same to it. Published CLIPs read any word.

    Args:
        settings: Which CLIP.
        what: What the names are, for the warning.

    Raises:
        PipelineError: If the architecture is not available.
    """
    _, words = architecture_of(settings.architecture)
    unknown = words.unknown(names) if words is not None else []
    if unknown:
        logger.warning(
            "%d of %d %s have no word that %s knows, such as %s: it cannot tell them apart; use a published CLIP",
            *(len(unknown), len(names), what, settings.architecture, ", ".join(map(repr, unknown[:5]))),
        )


def load_clip(settings: ClipSettings) -> LoadedClip:
    """Build the CLIP that the settings name.

    Raises:
        PipelineError: If architecture or weights are not available, or do not fit each other.
    """
    model, words = architecture_of(settings.architecture)
    download = (settings.architecture, settings.pretrained)
    weights: str | Path | None = settings.pretrained  # a file, or a tag of open_clip's
    if settings.pretrained == RANDOM or (settings.random_if_unavailable and download in _UNAVAILABLE):
        weights = None
    elif settings.pretrained == SHIPPED:
        if settings.architecture != SMALL:
            message = (
                f"clip.pretrained: {SHIPPED!r} weights are of {SMALL!r}, clip.architecture is "
                f"{settings.architecture!r}; change one of them"
            )
            raise PipelineError(message)
        weights = small_clip.WEIGHTS_FILE
    quick_gelu = {"auto": None, "on": True, "off": False}[settings.quick_gelu]
    try:
        built = build_mask_adapted_clip(model, weights, prompt_depth=0, quick_gelu=quick_gelu, seed=settings.seed)
    except ConnectionError as error:
        if not settings.random_if_unavailable:
            message = f"clip.pretrained: {error}; or set clip.random_if_unavailable to try the pipeline without"
            raise PipelineError(message) from error
        logger.warning("%s; random weights are used instead, as clip.random_if_unavailable says", error)
        _UNAVAILABLE.add(download)
        weights = None
        built = build_mask_adapted_clip(model, None, prompt_depth=0, quick_gelu=quick_gelu, seed=settings.seed)
    except (ValueError, OSError) as error:
        message = f"clip: {error}"
        raise PipelineError(message) from error
    clip, config = built.clip, cast("Mapping[str, Any]", built.arguments["model"])
    tokenize = words or open_clip.SimpleTokenizer(context_length=clip.context_length)
    return LoadedClip(clip, tokenize, words, weights_digest(clip.state_dict()), config, weights is None)


def architecture_of(name: str) -> tuple[str | Mapping[str, Any], WordTokenizer | None]:
    """Return what `build_mask_adapted_clip` takes for an architecture, and a tokenizer if its file lists words.

    Raises:
        PipelineError: If a file is named that is not there or is no JSON object, or its words cannot be used.
    """
    path = small_clip.ARCHITECTURE_FILE if name == SMALL else Path(name)
    if path.suffix != ".json":
        return name, None
    try:
        config = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        message = f"clip.architecture: {path} cannot be read as a model's JSON ({error}); correct the path or the file"
        raise PipelineError(message) from error
    words = config.pop("words", None)
    if words is None:
        return config, None
    return config, _word_tokenizer(path, words, config.get("text_cfg"))


def _word_tokenizer(path: Path, words: object, text_cfg: object) -> WordTokenizer:
    """Build the tokenizer of a word list.

    Raises:
        PipelineError: If words or text tower are not what a tokenizer can be built of, or don't fit each other.
    """
    sizes = text_cfg if isinstance(text_cfg, dict) else {}
    for key in ("context_length", "vocab_size"):
        if not isinstance(sizes.get(key), int):
            message = (
                f"clip.architecture: {path} lists words, and text_cfg.{key} is {sizes.get(key)!r}, expected a number; "
                "complete the file"
            )
            raise PipelineError(message)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        message = f"clip.architecture: {path}: words is {words!r:.60}, a list of words is expected; correct the file"
        raise PipelineError(message)
    try:
        tokenizer = WordTokenizer(words, sizes["context_length"])
    except ValueError as error:
        message = f"clip.architecture: {path}: {error}"
        raise PipelineError(message) from error
    if tokenizer.vocab_size > sizes["vocab_size"]:
        message = (
            f"clip.architecture: {path}: text_cfg.vocab_size is {sizes['vocab_size']}, at least "
            f"{tokenizer.vocab_size} is expected for {len(words)} words and three signs; correct the file"
        )
        raise PipelineError(message)
    return tokenizer
