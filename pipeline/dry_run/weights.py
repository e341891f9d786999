"""Whether the weights that settings name are on this machine, checked without a download."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import open_clip
import timm
import torch
from huggingface_hub import try_to_load_from_cache

from ovseg_models.hub_text_towers import absent_text_tower
from ovseg_models.open_clip_models import OWN, files_here, find_model, has_scheme, hub_files
from ovseg_models.tokenizers import hub_tokenizer, is_package_missing
from ovseg_models.weights_file import WEIGHTS_SUFFIXES
from pipeline.clip_loading import architecture_of, weights_of
from pipeline.drawn_world.small_clip import RANDOM, SHIPPED
from pipeline.errors import PipelineError
from pipeline.settings import ClipSettings, Settings
from pipeline.settings.sections import NONE
from pipeline.settings.sections import RANDOM as RANDOM_BACKBONE
from pipeline.settings.sections import SHIPPED as SHIPPED_NET

_TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_OFFLINE = {"1", "ON", "YES", "TRUE"}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one setting.

    Attributes:
        where: The setting.
        text: What was found and what to do.
        is_missing: The run would stop there; otherwise it helps itself.
    """

    where: str
    text: str
    is_missing: bool


def weights_findings(settings: Settings) -> Iterator[Finding]:
    """List the weights that are not here, or not available at all."""
    yield from _clip_findings(settings.clip)
    if settings.proposal_net.clip is not None:
        yield from _clip_findings(settings.proposal_net.clip, "proposal_net.clip")
    if not settings.proposal_net.dataset:
        return
    yield from _backbone_findings(settings)
    start = settings.proposal_net.initial_weights
    if start not in (NONE, SHIPPED_NET) and not Path(start).is_file():
        yield _no_file("proposal_net.initial_weights", start)


def clip_is_here(settings: ClipSettings) -> bool:
    """Return whether CLIP can be built without asking the network."""
    return not any(_clip_findings(settings)) or (settings.random_if_unavailable and _offline())


def _clip_findings(settings: ClipSettings, key: str = "clip") -> Iterator[Finding]:
    """List what is amiss with CLIP's files: its form, its weights, its tokenizer.

    Args:
        key: Of the section.
    """
    weights, name = settings.pretrained, settings.architecture
    architecture = Path(name)
    if has_scheme(name):
        try:
            found = files_here(name, weights_of(settings))
        except PipelineError as error:
            where, _, text = str(error).partition(": ")
            yield Finding(where, text, is_missing=True)
            return
        expected = 1 if weights == RANDOM else 2  # the configuration, and the weights
        if name.startswith("hf-hub:") and len(found) < expected:
            yield _absent(f"{key}.architecture", name)
            return
        if weights_of(settings) == OWN and not any(file.suffix in WEIGHTS_SUFFIXES for file in found):
            text = f"{name} holds no weights, or is not there; put them there, or correct the path"
            yield Finding(f"{key}.architecture", text, is_missing=True)
            return
    elif architecture.suffix == ".json" and not architecture.is_file():
        yield _no_file(f"{key}.architecture", name)
    elif name in open_clip.list_models() or architecture.suffix == ".json":
        yield from _tokenizer_findings(name, key)
    yield from () if has_scheme(name) else _weights_findings(settings, key)


def _tokenizer_findings(name: str, key: str) -> Iterator[Finding]:
    """List what the tokenizer of an architecture lacks."""
    model, words = architecture_of(name)
    if words is not None:
        return
    try:
        config = find_model(model, None).config
    except ValueError as error:
        yield Finding(f"{key}.architecture", str(error), is_missing=True)
        return
    hub_name, tower = hub_tokenizer(config), absent_text_tower(config)
    if is_package_missing(hub_name):
        text = f"{name} reads texts by {hub_name!r}, for which the package transformers is not installed"
        yield Finding(
            f"{key}.architecture", f"{text}; install it with 'pip install ovseg-pipeline[hf]'", is_missing=True
        )
        return
    if hub_name and not _in_hub_cache(hub_name, _TOKENIZER_FILES):
        yield _absent(f"{key}.architecture", f"the tokenizer {hub_name!r} of {name}")
    if tower:
        yield _absent(f"{key}.architecture", f"the text tower {tower!r} of {name}")


def _weights_findings(settings: ClipSettings, key: str) -> Iterator[Finding]:
    """List what is amiss with the weights of a named architecture."""
    weights, name = settings.pretrained, settings.architecture
    if weights in (RANDOM, SHIPPED) or Path(weights).is_file():
        return
    if Path(weights).suffix in WEIGHTS_SUFFIXES:
        yield _no_file(f"{key}.pretrained", weights)
        return
    entry = open_clip.get_pretrained_cfg(name, weights)
    if not entry:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        text = f"{weights!r} is no file and no tag of {name}, whose tags are {tags}; choose one of them"
        yield Finding(f"{key}.pretrained", text, is_missing=True)
        return
    repository, files = hub_files(entry)
    url_file = Path.home() / ".cache" / "clip" / Path(str(entry.get("url", ""))).name
    if not _in_hub_cache(repository, files) and not (not repository and url_file.is_file()):
        yield _absent(f"{key}.pretrained", f"{weights!r} of {name}", may_be_random=settings.random_if_unavailable)


def _backbone_findings(settings: Settings) -> Iterator[Finding]:
    """List what is amiss with the backbone's weights."""
    backbone = settings.proposal_net.architecture.backbone
    key, weights = "proposal_net.architecture.backbone.pretrained", backbone.pretrained
    if weights == RANDOM_BACKBONE or Path(weights).is_file():
        return
    if Path(weights).suffix in WEIGHTS_SUFFIXES:
        yield _no_file(key, weights)
        return
    name = "resnet101s" if backbone.name == "r101c" else backbone.name
    try:
        config = timm.get_pretrained_cfg(f"{name}.{weights}", allow_unregistered=False)
    except RuntimeError:  # no such network, or no such tag of it
        config = None
    if config is None:
        yield Finding(key, f"timm has no weights {weights!r} of {backbone.name}; choose a tag or file", is_missing=True)
        return
    files = (config.hf_hub_filename,) if config.hf_hub_filename else _TIMM_FILES
    url_file = Path(torch.hub.get_dir()) / "checkpoints" / Path(str(config.url or "")).name
    if not _in_hub_cache(str(config.hf_hub_id or ""), files) and not (not config.hf_hub_id and url_file.is_file()):
        yield _absent(key, f"{weights!r} of {backbone.name}")


def _in_hub_cache(repository: str, files: tuple[str, ...]) -> bool:
    """Return whether one of the files of a hub's repository is on this machine."""
    return bool(repository) and any(isinstance(try_to_load_from_cache(repository, file), str) for file in files)


def _offline() -> bool:
    """Return whether the user has switched the hub off."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _OFFLINE


def _absent(key: str, what: str, *, may_be_random: bool = False) -> Finding:
    """Return in words what happens to weights that are not in the cache."""
    if may_be_random:
        return Finding(key, f"{what} is not in the cache; without a download the run takes random weights", False)
    if _offline():
        text = f"{what} is not in the cache, and HF_HUB_OFFLINE forbids a download; unset it, or name a file"
        return Finding(key, text, is_missing=True)
    return Finding(key, f"{what} is not in the cache, will be downloaded; without network, name a file", False)


def _no_file(key: str, path: str) -> Finding:
    """Report a file that is not there."""
    return Finding(key, f"there is no file {path}; put it there or correct the path", is_missing=True)
