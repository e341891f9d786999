"""The folder of a segmenter: ``segmenter.json``, the weights of both nets as safetensors, and a tokenizer if need be.

It is complete in itself: the JSON holds the arguments from which both nets are built, the settings and, for a small
text tower, its word list; the files of a tokenizer that is no part of open_clip lie in ``tokenizer``, remembered masks
in ``memory.safetensors``. A folder may hold one net alone, as an imported CLIP does; the other is then null in the
JSON. A folder is written under a temporary name and renamed, so that it is complete or not there.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ovseg_models.checkpoint_keys.key_report import take_tensors
from ovseg_models.hub_text_towers import NAME_KEY, SIZES_KEY, hub_text_tower
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.memory import Memory
from ovseg_models.new_folder import new_folder, require_new, write_json, write_tensors
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter_settings import SegmenterSettings, settings_from_json
from ovseg_models.tokenizers import ModelTokenizer
from ovseg_models.weights import build_for, require_finite
from ovseg_models.word_tokenizer import WordTokenizer

FORMAT = "ovseg-segmenter"
SCHEMA_VERSION = 2
"""Of folders with what version 1 has no place for: a proposal net of another CLIP, a CLIP that differs from OpenAI's in
more than sizes. All others are still written as version 1, for older readers; both are read."""
JSON_NAME = "segmenter.json"
_PROPOSAL_NET_NAME = "proposal_net.safetensors"
_CLIP_NAME = "clip.safetensors"
_PUBLISHED_NAME = "published_extras.safetensors"
_TOKENIZER_NAME = "tokenizer"
MEMORY_NAME = "memory.safetensors"
_KEYS = {"format", "schema_version", "proposal_net", "clip", "words", "context_length", "settings", "published"}
_LATER_KEYS = {"same_space"}
_ORIGIN_KEYS = {"layout", "wrapper", "prefix", "dtypes"}
_JSON_BYTES_MAX = 4 * 2**20  # a list of 50,000 words has half a megabyte
_MESSAGE_MAX = 400
_Made = TypeVar("_Made")
_Net = TypeVar("_Net", bound=nn.Module)
_FETCHING_ARGUMENTS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir"}


@dataclass(frozen=True, kw_only=True)
class PublishedOrigin:
    """What a published checkpoint held beside the weights, kept so that it can be written again exactly.

    Attributes:
        layout: "ovseg", "maskformer" or "clip"; see `published_checkpoints`.
        wrapper: Key under which the file held its tensors; empty if they were bare.
        prefix: What stood before every name, for example ``module.``.
        dtypes: Of the tensors that were not in single precision, by published name.
        extras: Tensors that no net of ours has.
    """

    layout: str
    wrapper: str = ""
    prefix: str = ""
    dtypes: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class SegmenterParts:
    """What a segmenter's folder holds.

    Attributes:
        proposal_net: None if there is none.
        clip: None if there is none.
        tokenizer: None for the one that belongs to CLIP.
        settings: How the segmenter works.
        published: Where the weights come from, if they were imported and not changed since.
        same_space: Whether the proposal net was trained with this CLIP's texts.
        memory: Remembered masks, if there are any.
    """

    proposal_net: ProposalNet | None
    clip: MaskAdaptedClip | None
    tokenizer: WordTokenizer | None = None
    settings: SegmenterSettings = field(default_factory=SegmenterSettings)
    published: PublishedOrigin | None = None
    same_space: bool = True
    memory: Memory | None = None


def have_same_dimension(net: ProposalNet, clip: MaskAdaptedClip) -> bool:
    """Return whether the nets' embeddings are equally long, without which they lie in different spaces."""
    return int(net.no_object_embedding.shape[1]) == clip.embedding_dim


def write_segmenter_folder(folder: Path, parts: SegmenterParts) -> None:
    """Write a new folder.

    Raises:
        FileExistsError: If there is something in the folder already.
        ValueError: If a net doesn't know the arguments that it was built from.
    """
    require_new(folder)
    content = _json_content(parts)
    with new_folder(folder) as temporary:
        for net, name in ((parts.proposal_net, _PROPOSAL_NET_NAME), (parts.clip, _CLIP_NAME)):
            if net is not None:
                write_tensors(temporary / name, net.state_dict())
        if parts.published is not None and parts.published.extras:
            write_tensors(temporary / _PUBLISHED_NAME, parts.published.extras)
        if parts.clip is not None and parts.tokenizer is None and isinstance(parts.clip.tokenize, ModelTokenizer):
            parts.clip.tokenize.save(temporary / _TOKENIZER_NAME)
        if parts.memory is not None:
            parts.memory.save(temporary / MEMORY_NAME)
        write_json(temporary / JSON_NAME, content)


def read_segmenter_folder(folder: Path, settings: Mapping[str, Any] | None = None) -> SegmenterParts:
    """Read a folder; no network is used and no code from it is run.

    Args:
        folder: As `write_segmenter_folder` wrote it.
        settings: Of `SegmenterSettings`; they override those in the folder.

    Raises:
        FileNotFoundError: If the folder or one of its files isn't there.
        ValueError: If what is in it doesn't fit, or a setting is wrong.
    """
    where = folder / JSON_NAME
    content = _read_json(where)
    net = clip = tokenizer = None
    with torch.random.fork_rng(devices=[]):  # building draws random weights, which the caller's numbers mustn't feel
        if content["proposal_net"] is not None:
            arguments = _offline(where, "proposal_net", content["proposal_net"])
            net = _filled(where, "proposal_net", folder / _PROPOSAL_NET_NAME, lambda: build_proposal_net(**arguments))
        if content["clip"] is not None:
            of_clip = _offline(where, "clip", content["clip"])
            files = folder / _TOKENIZER_NAME  # unused by a CLIP with open_clip's own tokenizer, or with a word list
            clip = _filled(
                where,
                "clip",
                folder / _CLIP_NAME,
                lambda: build_mask_adapted_clip(**of_clip, tokenizer_folder=files),
            )
            needs_files = isinstance(clip.tokenize, ModelTokenizer) and clip.tokenize.hub_name
            if needs_files and content["words"] is None and not files.is_dir():
                raise FileNotFoundError(
                    f"{files}: there is no such folder; the segmenter is incomplete, write it again"
                )
    if content["words"] is not None:
        tokenizer = _checked(where, "words", lambda: WordTokenizer(content["words"], content["context_length"]))
        if clip is not None:
            _require_tokens_of(where, tokenizer, clip)
    overridden = {**content["settings"], **(settings or {})}
    origin = _read_origin(folder, content["published"])
    return SegmenterParts(
        net,
        clip,
        tokenizer,
        _checked(where, "settings", lambda: settings_from_json(overridden)),
        origin,
        same_space=content.get("same_space", True),
        memory=Memory.load(folder / MEMORY_NAME) if (folder / MEMORY_NAME).exists() else None,
    )


def _json_content(parts: SegmenterParts) -> dict[str, Any]:
    """Make what goes into the JSON."""
    tokenizer, origin = parts.tokenizer, parts.published
    of_clip = _arguments(parts.clip, "CLIP", "build_mask_adapted_clip")
    same_space = parts.same_space
    if parts.proposal_net is not None and parts.clip is not None:
        same_space = same_space and have_same_dimension(parts.proposal_net, parts.clip)
    later = not same_space or not {"preprocessing", "temperature"}.isdisjoint(of_clip or {})
    return {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION if later else 1,
        "proposal_net": _arguments(parts.proposal_net, "the proposal net", "build_proposal_net"),
        "clip": of_clip,
        "words": None if tokenizer is None else list(tokenizer.words),
        "context_length": None if tokenizer is None else tokenizer.context_length,
        "settings": parts.settings.to_json(),
        "published": None if origin is None else _origin_json(origin),
        **({"same_space": same_space} if later else {}),
    }


def _origin_json(origin: PublishedOrigin) -> dict[str, Any]:
    """Make what the JSON says of a published checkpoint."""
    return {
        "layout": origin.layout,
        "wrapper": origin.wrapper,
        "prefix": origin.prefix,
        "dtypes": dict(origin.dtypes),
    }


def _arguments(net: ProposalNet | MaskAdaptedClip | None, name: str, builder: str) -> dict[str, object] | None:
    """Return the arguments that a net was built from."""
    if net is None:
        return None
    if not net.arguments:
        raise ValueError(
            f"segmenter: {name} has no record of the arguments it was built from, which the folder must hold; "
            f"build it with {builder} and load the weights into that"
        )
    return net.arguments


def _read_json(path: Path) -> dict[str, Any]:
    """Read the JSON and check that this version can read the folder."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; give the folder that 'ovseg' or Segmenter.save wrote")
    size = path.stat().st_size
    if size > _JSON_BYTES_MAX:
        raise ValueError(f"{path}: has {size} bytes, at most {_JSON_BYTES_MAX} are expected; write the folder again")
    try:
        content = json.loads(path.read_bytes().decode("utf-8"))
    except RecursionError as error:
        raise ValueError(f"{path}: is nested too deeply for a description of a segmenter; write it again") from error
    except ValueError as error:
        raise ValueError(f"{path}: is no JSON ({error}); write the folder again") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{path}: is no description of a segmenter, 'format': '{FORMAT}' is expected; check the folder"
        )
    if content.get("schema_version") not in range(1, SCHEMA_VERSION + 1):
        raise ValueError(
            f"{path}: schema_version is {content.get('schema_version')!r}, this version reads 1 to {SCHEMA_VERSION}; "
            "write the folder again with this version"
        )
    keys = _KEYS | (_LATER_KEYS if content["schema_version"] > 1 else set())
    if content.keys() != keys:
        raise ValueError(
            f"{path}: missing keys {sorted(keys - content.keys())}, unknown keys {sorted(content.keys() - keys)}; "
            "write the folder again"
        )
    types: dict[str, tuple[tuple[type, ...], str]] = {
        "proposal_net": ((dict, NoneType), "a table of arguments or null"),
        "clip": ((dict, NoneType), "a table of arguments or null"),
        "words": ((list, NoneType), "a list of words or null"),
        "context_length": ((int, NoneType), "a number or null"),
        "settings": ((dict,), "a table of settings"),
        "published": ((dict, NoneType), "a table or null"),
        "same_space": ((bool,), "true or false"),
    }
    for key in content.keys() & types.keys():
        kinds, expected = types[key]
        if not isinstance(content[key], kinds) or (isinstance(content[key], bool) and bool not in kinds):
            raise ValueError(f"{path}: {key} is {_short(content[key])}, {expected} is expected; correct the file")
    _refuse_what_is_no_number(path, content)
    return content


def _short(value: object) -> str:
    """Show the beginning of a value on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _refuse_what_is_no_number(path: Path, content: dict[str, Any]) -> None:
    """Refuse NaN and Infinity, which Python's JSON lets through, wherever they are."""
    waiting: list[tuple[str, Any]] = list(content.items())
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{path}: {key} is {value}, a finite number is expected; correct the file")
        if isinstance(value, dict):
            waiting += [(f"{key}.{_short(name)[1:-1]}", inner) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{key}[{place}]", inner) for place, inner in enumerate(value)]


def _checked(where: Path, key: str, make: Callable[[], _Made]) -> _Made:
    """Make something of the JSON's values; whatever a builder finds wrong with them names file and key."""
    try:
        return make()
    except Exception as error:  # builders of other libraries fail in many ways on sizes that no net has
        if isinstance(error, FileNotFoundError):
            raise
        found = " ".join(f"{error}".split()) or type(error).__name__
        if not isinstance(error, ValueError):
            found = f"no net can be built of it ({type(error).__name__}: {found})"
        found = found if len(found) <= _MESSAGE_MAX else f"{found[:_MESSAGE_MAX]}..."
        raise ValueError(f"{where}: {key}: {found}") from error


def _offline(where: Path, key: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Refuse arguments that would have a builder read other files or the network."""
    named = dict(arguments)
    for name in ("backbone_arguments", "timm_arguments", "model"):
        inner = named.get(name, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{where}: {key}.{name} is {_short(inner)}, a table is expected; correct the file")  # noqa: TRY004
        named |= inner
    if fetching := sorted(name for name in _FETCHING_ARGUMENTS if named.get(name)):
        raise ValueError(
            f"{where}: {key}: {fetching} would fetch weights from elsewhere; a folder holds its own, remove them"
        )
    text_cfg = named.get("text_cfg")
    if isinstance(text_cfg, dict) and hub_text_tower(named) and SIZES_KEY not in text_cfg:
        raise ValueError(f"{where}: {key}: {NAME_KEY} without {SIZES_KEY} would ask the hub; write the folder again")
    return arguments


def _filled(where: Path, key: str, path: Path, build: Callable[[], _Net]) -> _Net:
    """Build a net and load its weights, all of which must be there, fit and be finite."""
    tensors = _read_tensors(path)
    require_finite(tensors, str(path))
    net = _checked(where, key, lambda: build_for(tensors, build))
    expected = net.state_dict()
    conversion = take_tensors(tensors, expected, {name: name for name in expected})
    conversion.report.require_fit(str(path))
    net.load_state_dict(conversion.tensors)
    return net


def _require_tokens_of(where: Path, tokenizer: WordTokenizer, clip: MaskAdaptedClip) -> None:
    """Refuse a word list whose tokens or texts the text tower has no places for."""
    for key, found, places in (
        ("words", tokenizer.vocab_size, clip.clip.vocab_size),
        ("context_length", tokenizer.context_length, clip.clip.context_length),
    ):
        if found > places:
            raise ValueError(
                f"{where}: {key}: {found} tokens are needed, the text tower of 'clip' has {places}; correct the file"
            )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file; the folder is incomplete, write it again")
    try:
        return load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: cannot be read ({error}), it is damaged; write the folder again") from error


def _read_origin(folder: Path, content: dict[str, Any] | None) -> PublishedOrigin | None:
    """Read what a published checkpoint held beside the weights."""
    if content is None:
        return None
    if content.keys() != _ORIGIN_KEYS or not all(
        isinstance(content[key], dict if key == "dtypes" else str) for key in _ORIGIN_KEYS
    ):
        raise ValueError(
            f"{folder / JSON_NAME}: published is {_short(content)}, texts {sorted(_ORIGIN_KEYS - {'dtypes'})} and a "
            "table 'dtypes' are expected; import the checkpoint again"
        )
    path = folder / _PUBLISHED_NAME
    return PublishedOrigin(**content, extras=_read_tensors(path) if path.exists() else {})
