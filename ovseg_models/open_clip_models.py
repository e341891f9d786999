"""Where a model of open_clip comes from: its configuration, its weights, and how its images were normalised.

A model is one of

* a name that open_clip lists, with a tag, a file or random weights;
* ``hf-hub:ORG/NAME`` or ``local-dir:PATH``, as open_clip understands them, with the weights that lie there;
* a configuration: open_clip's (``embed_dim``, ``vision_cfg``, ``text_cfg``, ...), or the content of an
  ``open_clip_config.json``, which has it under ``model_cfg`` beside ``preprocess_cfg``.

What was downloaded before is found without asking the network. Nothing is ever replaced in silence: not a name by a
similar one, not absent weights by random ones.
"""

import copy
import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import timm
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from open_clip.factory import HF_HUB_PREFIX, LOCAL_DIR_PREFIX
from open_clip.model import CLIPTextCfg, CLIPVisionCfg

from ovseg_models.hub_text_towers import hub_text_tower
from ovseg_models.preprocessing import OPENAI, Preprocessing
from ovseg_models.weights_file import WEIGHTS_SUFFIXES

OWN = "own"
"""In place of a tag: the weights that lie with the model, of ``hf-hub:`` and ``local-dir:``."""

_WEIGHTS_OF_FOLDERS = (  # open_clip's names, best first
    HF_SAFE_WEIGHTS_NAME,
    "open_clip_pytorch_model.safetensors",
    HF_WEIGHTS_NAME,
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """A model that can be built.

    Attributes:
        config: open_clip's configuration, of which this project can build every part; a copy.
        weights: The file; None for random weights.
        preprocessing: How its training images were normalised and resized.
        quick_gelu: Whether its weights need QuickGELU; None where nothing is said.
        tokenizer_folder: Where a tokenizer's files lie; None for the hub's cache.
    """

    config: dict[str, Any]
    weights: Path | None
    preprocessing: Preprocessing = OPENAI
    quick_gelu: bool | None = None
    tokenizer_folder: Path | None = None


def has_scheme(model: object) -> bool:
    """Return whether a model is named by the place where its configuration and weights lie together."""
    return isinstance(model, str) and model.startswith((HF_HUB_PREFIX, LOCAL_DIR_PREFIX))


def find_model(model: str | Mapping[str, Any], pretrained: str | Path | None) -> FoundModel:
    """Find a model's configuration and weights, and download what is not here.

    Args:
        model: See this module.
        pretrained: A tag of the name, a file, `OWN`, or None for random weights.

    Raises:
        ConnectionError: If something cannot be downloaded.
        FileNotFoundError: If a folder or one of its files is not there.
        ValueError: If name, configuration or tag are unknown, or there are no weights.
    """
    if not isinstance(model, str):
        config, preprocessing = _with_preprocessing(model)
        return FoundModel(
            config=checked_config(config, "the configuration"),
            weights=_file_or_none(model, pretrained),
            preprocessing=preprocessing,
        )
    if has_scheme(model):
        folder = Path(model.removeprefix(LOCAL_DIR_PREFIX)) if model.startswith(LOCAL_DIR_PREFIX) else None
        content = _config_file(model, folder)
        config, preprocessing = _with_preprocessing(content)
        own = str(pretrained) == OWN
        return FoundModel(
            config=checked_config(config, model),
            weights=_own_weights(model, folder) if own else _file_or_none(model, pretrained),
            preprocessing=preprocessing,
            tokenizer_folder=folder,
        )
    named = open_clip.get_model_config(model)
    if named is None:
        near = difflib.get_close_matches(model, open_clip.list_models(), n=3, cutoff=0.4)
        raise ValueError(
            f"build_clip: open_clip has no model {model!r}; a name such as {near or ['ViT-B-16']} is expected"
        )
    config = checked_config(named, model)
    entry = open_clip.get_pretrained_cfg(model, str(pretrained)) if pretrained is not None else None
    if not entry or Path(str(pretrained)).is_file():
        # Of a file that was downloaded elsewhere nothing is said; what all tags of the model agree on holds for it.
        entries = [open_clip.get_pretrained_cfg(model, tag) for tag in open_clip.list_pretrained_tags_by_model(model)]
        of_tags = {Preprocessing.of(each) for each in entries}
        return FoundModel(
            config=config,
            weights=_file_or_none(model, pretrained),
            preprocessing=of_tags.pop() if len(of_tags) == 1 else OPENAI,
        )
    try:
        path = _in_hub_cache(*hub_files(entry)) or Path(open_clip.download_pretrained(entry))
    except OSError as error:
        raise ConnectionError(
            f"build_clip: the weights {str(pretrained)!r} of {model} could not be downloaded ({error}); give the path "
            "of a file that was downloaded elsewhere, or try again with a network"
        ) from error
    return FoundModel(
        config=config,
        weights=path,
        preprocessing=Preprocessing.of(entry),
        quick_gelu=bool(entry.get("quick_gelu", False)),
    )


def checked_config(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a copy of a configuration as this project builds it.

    CoCa's caption decoder is left out, since it names nothing. Towers get no weights of their own: those of the whole
    model are loaded.

    Args:
        where: Whose it is, for messages.

    Raises:
        ValueError: If it is no configuration, or has a part that cannot be built.
    """
    checked = copy.deepcopy(dict(config))
    absent = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in checked]
    if absent:
        raise ValueError(f"build_clip: {where} lacks {absent}; compare it with ViT-B-16's")
    no_tables = [key for key in ("vision_cfg", "text_cfg") if not isinstance(checked[key], Mapping)]
    if no_tables:
        raise ValueError(f"build_clip: {no_tables} of {where} are no tables; compare it with ViT-B-16's")
    vision, text = checked["vision_cfg"], checked["text_cfg"]
    if hub_text_tower(checked):
        checked["custom_text"] = True  # as open_clip does in silence
    trunk = vision.get("timm_model_name")
    # timm would fetch a name with a scheme, such as "hf-hub:...", whatever lies there.
    if trunk is not None and (not isinstance(trunk, str) or ":" in trunk or not timm.is_model(trunk)):
        raise ValueError(
            f"build_clip: {where} has the image tower {trunk!r}, which timm {timm.__version__} does not list; install "
            "the version that the model asks for, or choose another model"
        )
    if trunk is not None:
        vision["timm_model_pretrained"] = False
    if checked.pop("multimodal_cfg", None) is not None:
        checked["custom_text"] = True
        vision["output_tokens"] = text["output_tokens"] = False
    return checked


def has_published_form(config: Mapping[str, Any], preprocessing: Preprocessing) -> bool:
    """Return whether a model is of OpenAI's and OVSeg's kind: open_clip's own towers, tokens, pixels, loss."""
    vision = config["vision_cfg"]
    return (
        "timm_model_name" not in vision
        and isinstance(vision.get("layers", 12), int)
        and not vision.get("attentional_pool")
        and not config["text_cfg"].get("hf_tokenizer_name")
        and config.get("init_logit_bias") is None
        and preprocessing == OPENAI
    )


def beyond_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration of such a model says that its weights do not show, where it is unusual.

    Usual are 64 numbers a head, and what open_clip takes where nothing is said.
    """
    found: dict[str, Any] = {}
    for part, shown, usual in (
        ("vision_cfg", {"image_size", "layers", "width", "patch_size", "mlp_ratio"}, CLIPVisionCfg()),
        ("text_cfg", {"context_length", "vocab_size", "layers", "width", "mlp_ratio"}, CLIPTextCfg()),
    ):
        said = {**vars(usual), **config[part]}
        heads = {} if part == "vision_cfg" else {"heads": max(1, said["width"] // 64)}
        expected = {**vars(usual), **heads}
        found |= {
            f"{part}.{key}": value
            for key, value in said.items()
            if key not in shown and (key not in expected or value != expected[key])
        }
    return found


def hub_files(entry: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """Return the hub's repository of a tag's weights, and what the file may be called there, best name first.

    Args:
        entry: As open_clip describes a tag; without a place on the hub there is no name.
    """
    repository, _, file = str(entry.get("hf_hub", "")).rpartition("/")
    if not repository:
        return "", ()
    if file:
        return repository, (str(Path(file).with_suffix(".safetensors")), file)
    return repository, (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)


def files_here(model: str, pretrained: str) -> list[Path]:
    """Return the files that decide a named model and are on this machine, without asking the network.

    Args:
        model: A name, with or without scheme.
        pretrained: A tag, a file or `OWN`; others have no file.
    """
    named = Path(pretrained)
    if model.startswith(LOCAL_DIR_PREFIX):
        folder = Path(model.removeprefix(LOCAL_DIR_PREFIX))
        tokenizer = [file for file in folder.glob("*") if file.suffix in {".json", ".model", ".txt"}]
        weights = next(_weights_in(folder), None) if pretrained == OWN else None
        found = [folder / HF_CONFIG_NAME, *sorted(tokenizer), *([weights] if weights else [])]
    elif model.startswith(HF_HUB_PREFIX):
        repository = model.removeprefix(HF_HUB_PREFIX)
        names = [(HF_CONFIG_NAME,), *([(HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)] if pretrained == OWN else [])]
        found = [path for some in names if (path := _in_hub_cache(repository, some)) is not None]
    else:
        entry = open_clip.get_pretrained_cfg(model, pretrained)
        path = _in_hub_cache(*hub_files(entry)) if entry else None
        if path is None and entry and not hub_files(entry)[0]:
            path = Path.home() / ".cache" / "clip" / Path(str(entry.get("url", ""))).name
        found = [path] if path is not None else []
    return list(dict.fromkeys(file for file in (*found, named) if file.is_file()))


def _file_or_none(model: str | Mapping[str, Any], pretrained: str | Path | None) -> Path | None:
    """Return a file of weights, None for random ones."""
    if pretrained is None:
        return None
    path = Path(pretrained)
    if path.is_file() or path.suffix in WEIGHTS_SUFFIXES:
        return path
    tags = open_clip.list_pretrained_tags_by_model(model) if isinstance(model, str) else []
    raise ValueError(
        f"build_clip: pretrained is {str(pretrained)!r}, which is no file and no tag of the model; its tags are "
        f"{tags}; give one of them, a path that ends in one of {sorted(WEIGHTS_SUFFIXES)}, or None"
    )


def _with_preprocessing(content: Mapping[str, Any]) -> tuple[Mapping[str, Any], Preprocessing]:
    """Take apart what may be the content of an ``open_clip_config.json``."""
    if "model_cfg" not in content:
        return content, OPENAI
    if not isinstance(content["model_cfg"], Mapping) or not isinstance(content.get("preprocess_cfg", {}), Mapping):
        raise ValueError(  # noqa: TRY004 - a fault of a file
            "build_clip: model_cfg or preprocess_cfg of the configuration is no table; compare it with an "
            f"{HF_CONFIG_NAME} that open_clip wrote"
        )
    return content["model_cfg"], Preprocessing.of(content.get("preprocess_cfg", {}))


def _config_file(model: str, folder: Path | None) -> Mapping[str, Any]:
    """Read the ``open_clip_config.json`` of a model with a scheme."""
    if folder is not None:
        path = folder / HF_CONFIG_NAME
        if not path.is_file():
            raise FileNotFoundError(
                f"build_clip: {path} is not there; a folder that open_clip wrote, with {HF_CONFIG_NAME} and the "
                "weights, is expected after 'local-dir:'"
            )
    else:
        repository = model.removeprefix(HF_HUB_PREFIX)
        try:
            found = _in_hub_cache(repository, (HF_CONFIG_NAME,))
            path = found or Path(hf_hub_download(repository, HF_CONFIG_NAME))
        except Exception as error:  # the hub's errors of names, networks and offline mode have no common base
            reason = " ".join(str(error).split())
            raise ConnectionError(
                f"build_clip: {HF_CONFIG_NAME} of {model} could not be downloaded ({reason:.300}); check the name, "
                "or download the model elsewhere and name it by 'local-dir:PATH'"
            ) from error
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"build_clip: {path} is no JSON ({error}); download the model again") from error
    if not isinstance(content, dict) or "model_cfg" not in content:
        raise ValueError(f"build_clip: {path} has no 'model_cfg', which open_clip writes there; download it again")
    return content


def _own_weights(model: str, folder: Path | None) -> Path:
    """Find the weights of a model with a scheme; open_clip would go on with random ones."""
    if folder is not None:
        path = next(_weights_in(folder), None)
        if path is None:
            raise FileNotFoundError(
                f"build_clip: {folder} holds no weights; {HF_SAFE_WEIGHTS_NAME} or another file that ends in one of "
                f"{sorted(WEIGHTS_SUFFIXES)} is expected beside {HF_CONFIG_NAME}"
            )
        return path
    repository, names = model.removeprefix(HF_HUB_PREFIX), (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    if (cached := _in_hub_cache(repository, names)) is not None:
        return cached
    reasons = []
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except Exception as error:  # as above
            reasons.append(" ".join(str(error).split()))
    raise ConnectionError(
        f"build_clip: the weights of {model} could not be downloaded ({reasons[0]:.300}); check the name, or download "
        "the model elsewhere and name it by 'local-dir:PATH'"
    )


def _weights_in(folder: Path) -> Iterator[Path]:
    """Yield files of weights of a folder, in open_clip's order: by known names, then safetensors before others."""
    yield from (folder / name for name in _WEIGHTS_OF_FOLDERS if (folder / name).is_file())
    for suffix in (".safetensors", ".bin", ".pth"):
        yield from sorted(folder.glob(f"*{suffix}"))


def _in_hub_cache(repository: str, names: tuple[str, ...]) -> Path | None:
    """Find a file among those that were downloaded before, by the first of its names that is there.

    open_clip asks the hub first, by each name that the file may have. Without a network that takes half a minute of
    retries for a name that is not in the cache, at every load; and a run's weights could change under it.
    """
    found = (try_to_load_from_cache(repository, name) for name in names if repository)
    return next((Path(path) for path in found if isinstance(path, str)), None)
