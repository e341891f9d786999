"""The CLIP that the settings name, with its tokenizer, and the digest that identifies it in artifacts."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Protocol, cast

import torch

from ovseg_models.encoding import MaskNamer
from ovseg_models.hub_text_towers import absent_text_tower
from ovseg_models.mask_adapted_clip import BlankPatches, MaskAdaptedClip, OpenClip, Temperature
from ovseg_models.one_pass import OnePass
from ovseg_models.open_clip_models import OWN, beyond_sizes, files_here, find_model, has_scheme
from ovseg_models.preprocessing import OPENAI, Preprocessing
from ovseg_models.pretrained_clip import (
    build_mask_adapted_clip,
    mask_adapted_clip_of,
    own_quick_gelu,
)
from ovseg_models.tokenizers import ModelTokenizer, Tokenize
from ovseg_models.weights import weights_digest
from ovseg_models.word_tokenizer import WordTokenizer
from pipeline.drawn_world import small_clip
from pipeline.drawn_world.small_clip import RANDOM, SHIPPED, SMALL
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings, Namer, Settings
from storage_schemas.digests import sha256_of_json

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
        words: The tokenizer's word list; None for the tokenizer that the configuration names.
        digest: Of all weights, and of what else decides embeddings and is not as in OpenAI's CLIPs.
        config: open_clip's configuration of the model, from which it can be built again; empty if it isn't known.
        is_random: Whether its weights are random, as the settings say or because there was no download.
        preprocessing: How its training images were normalised and resized.
        temperature: The factor on cosines when classes are named.
    """

    clip: OpenClip
    tokenize: Tokenize
    words: WordTokenizer | None
    digest: str
    config: Mapping[str, Any] = field(default_factory=dict)
    is_random: bool = False
    preprocessing: Preprocessing = OPENAI
    temperature: Temperature = "published"

    def mask_adapted(
        self,
        *,
        prompt_depth: int = 0,
        prompt_seed: int | None = None,
        mask_queries: bool = False,
        blank_patches: BlankPatches = "kept",
    ) -> MaskAdaptedClip:
        """Put mask prompts, or queries of mask tokens, beside this very CLIP, which is not copied.

        Raises:
            TypeError: As `MaskAdaptedClip`.
            ValueError: As `MaskAdaptedClip`.
        """
        adapted = mask_adapted_clip_of(
            self.clip,
            self.config,
            prompt_depth=prompt_depth,
            prompt_seed=prompt_seed,
            mask_queries=mask_queries,
            blank_patches=blank_patches,
            preprocessing=self.preprocessing,
            temperature=self.temperature,
        )
        adapted.tokenize = self.tokenize
        return adapted


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
    weights: str | Path | None = weights_of(settings)
    if settings.pretrained == RANDOM or (settings.random_if_unavailable and download in _UNAVAILABLE):
        weights = None
    elif settings.pretrained == SHIPPED:
        if settings.architecture != SMALL:
            raise PipelineError(
                f"clip.pretrained: {SHIPPED!r} weights are of {SMALL!r}, clip.architecture is "
                f"{settings.architecture!r}; change one of them"
            )
        weights = small_clip.WEIGHTS_FILE
    if words is not None or has_scheme(model) or not isinstance(model, str):
        clip_without_numbers(settings)  # of a file that anybody may have written; names of open_clip fit
    build = partial(
        build_mask_adapted_clip,
        model,
        prompt_depth=0,
        without_prompts=True,  # of a published CLIP that is tuned further
        quick_gelu={"auto": None, "on": True, "off": False}[settings.quick_gelu],
        seed=settings.seed,
    )
    try:
        built = build(weights)
    except ConnectionError as error:
        if not settings.random_if_unavailable or has_scheme(model):  # whose form lies with the weights
            raise PipelineError(
                f"clip.pretrained: {error}; or set clip.random_if_unavailable to try the pipeline without"
            ) from error
        logger.warning("%s; random weights are used instead, as clip.random_if_unavailable says", error)
        _UNAVAILABLE.add(download)
        weights = None
        built = build(None)
    except (ValueError, OSError, ImportError) as error:
        raise PipelineError(f"clip: {error}") from error
    try:
        if words is None and isinstance(built.tokenize, ModelTokenizer):
            _ = built.tokenize.made  # what it lacks is reported here, and not after hours of work
    except (ImportError, ConnectionError) as error:
        raise PipelineError(f"clip.architecture: {error}") from error
    clip, config = built.clip, cast("Mapping[str, Any]", built.arguments["model"])
    return LoadedClip(
        clip,
        words or built.tokenize,
        words,
        _digest(built, settings, model, weights, words),
        config,
        weights is None,
        built.crop.preprocessing,
        built.temperature,
    )


class NamingSettings(Protocol):
    """How a stage's masks are named: `EmbedSettings`, `EvaluateSettings` and others."""

    @property
    def namer(self) -> Namer:
        """By crops or by one pass."""
        ...

    @property
    def picture_side_px(self) -> int:
        """Of the square that one pass sees; 0 for CLIP's own."""
        ...

    @property
    def window_stride_px(self) -> int:
        """From one of its windows to the next; 0 for none."""
        ...


def namer_of(clip: MaskAdaptedClip, settings: NamingSettings, *, where: str) -> MaskNamer:
    """Return what names masks: CLIP itself, by crops, or its one pass.

    Args:
        where: The settings' section, for messages.

    Raises:
        PipelineError: If CLIP has no tokens that masks can have, or the size does not fit it.
    """
    if settings.namer == "crops":
        return clip
    try:
        return OnePass(
            clip,
            side_px=settings.picture_side_px,
            stride_px=settings.window_stride_px,
            pooled=settings.namer == "pooled",
        )
    except ValueError as error:
        raise PipelineError(f"{where}.namer: {error}") from error


def check_namers(settings: Settings) -> None:
    """Check, before any work begins, that CLIP can name masks in one pass wherever the settings ask for it.

    Raises:
        PipelineError: If it cannot, or its form is unknown.
    """
    one_passes(settings)


def one_passes(settings: Settings) -> list[OnePass]:
    """Return the ways in which the settings have masks named in one pass, each once, on torch's device ``meta``.

    Raises:
        PipelineError: As `check_namers`.
    """
    found: dict[tuple[int, int], OnePass] = {}
    sections: dict[str, NamingSettings] = {"mine.embed": settings.mine.embed, "evaluate": settings.evaluate}
    for where, section in sections.items():
        if section.namer != "crops":
            namer = namer_of(clip_without_numbers(settings.clip), section, where=where)
            if isinstance(namer, OnePass):
                found[section.picture_side_px, section.window_stride_px] = namer
    return list(found.values())


@lru_cache(maxsize=8)
def clip_without_numbers(settings: ClipSettings) -> MaskAdaptedClip:
    """Build the CLIP that the settings name without a number in it, on torch's device ``meta``, to see its form.

    Nothing is downloaded.

    Raises:
        PipelineError: If the architecture is not available on this machine.
    """
    model, _ = architecture_of(settings.architecture)
    if isinstance(model, str) and model.startswith("hf-hub:") and not files_here(model, ""):
        raise PipelineError(
            f"clip.architecture: {model} is not in the hub's cache, so its form is unknown; download it first"
        )
    try:
        if tower := absent_text_tower(find_model(model, None).config):
            raise PipelineError(
                f"clip.architecture: the text tower {tower} of {settings.architecture} is not in the hub's cache, so "
                "its form is unknown; download it first"
            )
        with torch.device("meta"), torch.no_grad():
            built = build_mask_adapted_clip(model, None, prompt_depth=0).requires_grad_(False)
            found = built.encode_image(torch.zeros(1, 3, built.crop_px, built.crop_px)).shape[1]
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise PipelineError(f"clip.architecture: {error}") from error
    if found != built.embedding_dim:
        raise PipelineError(
            f"clip.architecture: the image tower of {settings.architecture} gives embeddings of {found} numbers, the "
            f"text tower of {built.embedding_dim}; equal lengths are expected; correct embed_dim or the towers"
        )
    return built


def weights_of(settings: ClipSettings) -> str:
    """Return the tag or file that is meant: for a model that holds its weights, the default means these.

    Raises:
        PipelineError: If such a model is to take weights of a tag.
    """
    if not has_scheme(settings.architecture):
        return settings.pretrained
    if settings.pretrained in {OWN, type(settings).model_fields["pretrained"].default}:
        return OWN
    if settings.pretrained != RANDOM and not Path(settings.pretrained).suffix:
        raise PipelineError(
            f"clip.pretrained: {settings.pretrained!r} is a tag, and {settings.architecture} holds its own weights; "
            "leave clip.pretrained out, or name a file"
        )
    return settings.pretrained


def _digest(
    built: MaskAdaptedClip,
    settings: ClipSettings,
    model: str | Mapping[str, Any],
    pretrained: str | Path | None,
    words: WordTokenizer | None,
) -> str:
    """Return the digest of weights, and of what else decides what CLIP says where it is not as in OpenAI's CLIPs.

    Weights show sizes, but neither heads, activation, pooling and masks of attention, nor pixels and words. Of what a
    name of open_clip says nothing is added, since one name has one form.

    Args:
        model: From which it was built, like ``pretrained``.
        words: Of its tokenizer, if a file lists them.
    """
    weights, config = weights_digest(built.clip.state_dict()), cast("Any", built.arguments["model"])
    own = settings.architecture == SMALL
    found: dict[str, Any] = {"words": list(words.words)} if words is not None and not own else {}
    if built.temperature != "published":
        return sha256_of_json(
            {"weights": weights, "model": config, "preprocessing": built.crop.preprocessing.to_json(), **found}
        )
    is_named = own or (isinstance(model, str) and not has_scheme(model))
    if not is_named and (unusual := beyond_sizes(config)):
        found["model"] = unusual
    # Without a choice, a name's activation is as weights or name say; to ask the weights means to read them again.
    quick_gelu, chosen = bool(config.get("quick_gelu")), settings.quick_gelu != "auto"
    if (chosen or not isinstance(model, str)) and quick_gelu != own_quick_gelu(model, pretrained):
        found["quick_gelu"] = quick_gelu
    return sha256_of_json({"weights": weights, **found}) if found else weights


def architecture_of(name: str) -> tuple[str | Mapping[str, Any], WordTokenizer | None]:
    """Return what `build_mask_adapted_clip` takes for an architecture, and a tokenizer if its file lists words.

    Raises:
        PipelineError: If a file is named that is not there or is no JSON object, or its words cannot be used.
    """
    path = small_clip.ARCHITECTURE_FILE if name == SMALL else Path(name)
    if path.suffix != ".json" or has_scheme(name):
        return name, None
    try:
        config = dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise PipelineError(
            f"clip.architecture: {path} cannot be read as a model's JSON ({error}); correct the path or the file"
        ) from error
    words = config.pop("words", None)
    if words is None:
        return config, None
    return config, _word_tokenizer(path, words, config.get("model_cfg", config).get("text_cfg"))


def _word_tokenizer(path: Path, words: object, text_cfg: object) -> WordTokenizer:
    """Build the tokenizer of a word list.

    Raises:
        PipelineError: If words or text tower are not what a tokenizer can be built of, or don't fit each other.
    """
    sizes = text_cfg if isinstance(text_cfg, dict) else {}
    for key in ("context_length", "vocab_size"):
        if not isinstance(sizes.get(key), int):
            raise PipelineError(
                f"clip.architecture: {path} lists words, and text_cfg.{key} is {sizes.get(key)!r}, expected a number; "
                "complete the file"
            )
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise PipelineError(
            f"clip.architecture: {path}: words is {words!r:.60}, a list of words is expected; correct the file"
        )
    try:
        tokenizer = WordTokenizer(words, sizes["context_length"])
    except ValueError as error:
        raise PipelineError(f"clip.architecture: {path}: {error}") from error
    if tokenizer.vocab_size > sizes["vocab_size"]:
        raise PipelineError(
            f"clip.architecture: {path}: text_cfg.vocab_size is {sizes['vocab_size']}, at least "
            f"{tokenizer.vocab_size} is expected for {len(words)} words and three signs; correct the file"
        )
    return tokenizer
