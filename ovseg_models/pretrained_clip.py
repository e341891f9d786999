"""Building CLIP with open_clip's modules, with weights of an open_clip tag, of a local file, or random ones."""

import copy
import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
from torch import Tensor

from ovseg_models.checkpoint_keys.clip import MASK_PROMPTS_KEY, needs_quick_gelu, to_open_clip
from ovseg_models.checkpoint_keys.key_report import take_tensors
from ovseg_models.mask_adapted_clip import BlankPatches, MaskAdaptedClip, OpenClip
from ovseg_models.preprocessing import CLIP_MEAN_RGB, CLIP_STD_RGB
from ovseg_models.weights_file import WEIGHTS_SUFFIXES, read_weights_file


def build_clip(
    model: str | Mapping[str, Any],
    pretrained: str | Path | None = None,
    *,
    quick_gelu: bool | None = None,
    seed: int = 0,
) -> OpenClip:
    """Build stock CLIP: single precision, on the CPU, in evaluation mode.

    Args:
        model: A name of open_clip such as ``"ViT-B-16"``, or a configuration like open_clip's (``embed_dim``,
            ``vision_cfg``, ``text_cfg``, ...). Only open_clip's own vision and text transformers are built, and only
            those that read open_clip's own tokens.
        pretrained: A tag of open_clip such as ``"openai"``, whose file is downloaded once and then taken from the hub's
            cache, no network asked; or a local file, in the layout of open_clip, OpenAI, OVSeg or OVSeg's finetuning,
            .safetensors or a torch file of plain tensors; or None for random weights.
        quick_gelu: Whether the activation is the sigmoid approximation that OpenAI's weights need. None: as the weights
            say, if they do (tags, OpenAI and OVSeg layout), else as the configuration says.
        seed: Of the random weights; the global random state is left alone.

    Raises:
        ConnectionError: If a tag's weights cannot be downloaded.
        FileNotFoundError: If ``pretrained`` is a path and there is no such file.
        ValueError: If the name, the configuration or the tag is unknown, the tag's weights want images normalised
            otherwise than OpenAI's do, or the file cannot be read safely or doesn't fit, with its missing, unexpected
            and misshapen keys; or if the file holds mask prompts.
    """
    tensors, said_quick_gelu = _read_weights(model, pretrained)
    if MASK_PROMPTS_KEY in tensors:
        raise ValueError(
            f"build_clip: {pretrained} holds mask prompts {tuple(tensors[MASK_PROMPTS_KEY].shape)}, "
            "stock CLIP has none; use build_mask_adapted_clip"
        )
    return _build(model, tensors, quick_gelu if quick_gelu is not None else said_quick_gelu, seed, pretrained)


def build_mask_adapted_clip(
    model: str | Mapping[str, Any],
    pretrained: str | Path | None = None,
    *,
    prompt_depth: int = 3,
    blank_patches: BlankPatches = "kept",
    quick_gelu: bool | None = None,
    seed: int = 0,
) -> MaskAdaptedClip:
    """Build CLIP with mask prompts: those of the file if it holds any, else new ones of ``seed``, to be trained.

    Args:
        model: As for ``build_clip``.
        pretrained: As for ``build_clip``; the file may hold mask prompts.
        prompt_depth: How many layers' inputs take prompts; 0 for none. Must agree with the prompts of the file.
        blank_patches: Whether the tokens of patches without a mask pixel are dropped; as the weights were trained.
        quick_gelu: As for ``build_clip``.
        seed: Of random weights and of new prompts.

    Raises:
        ConnectionError: As for ``build_clip``.
        FileNotFoundError: As for ``build_clip``.
        ValueError: As for ``build_clip``; or if the image tower cannot be adapted, or the file's prompts have another
            shape.
    """
    tensors, said_quick_gelu = _read_weights(model, pretrained)
    prompts = tensors.pop(MASK_PROMPTS_KEY, None)
    quick_gelu = quick_gelu if quick_gelu is not None else said_quick_gelu
    clip = _build(model, tensors, quick_gelu, seed, pretrained)
    adapted = MaskAdaptedClip(clip, prompt_depth=prompt_depth, prompt_seed=seed, blank_patches=blank_patches)
    if prompts is not None:
        _load_prompts(adapted, prompts, pretrained)
    activation = {} if quick_gelu is None else {"quick_gelu": quick_gelu}
    config = _checked_config(model) | activation
    adapted.arguments = {"model": config, "prompt_depth": prompt_depth, **blank_patches_argument(blank_patches)}
    return adapted.eval()


def blank_patches_argument(blank_patches: BlankPatches) -> dict[str, object]:
    """Return what is recorded of a model beside its other arguments: nothing of one that is like every other CLIP."""
    return {} if blank_patches == "kept" else {"blank_patches": blank_patches}


def _load_prompts(adapted: MaskAdaptedClip, prompts: Tensor, where: str | Path | None) -> None:
    """Copy prompts of a file, which must be of the model's shape."""
    expected = (0,) if adapted.mask_prompts is None else tuple(adapted.mask_prompts.shape)
    if adapted.mask_prompts is None or tuple(prompts.shape) != expected:
        raise ValueError(
            f"build_mask_adapted_clip: {where} holds mask prompts {tuple(prompts.shape)}, the model's are {expected} "
            f"(depth, patch, width); set prompt_depth to {prompts.shape[0]} or choose another file"
        )
    with torch.no_grad():
        adapted.mask_prompts.copy_(prompts)


def _read_weights(
    model: str | Mapping[str, Any], pretrained: str | Path | None
) -> tuple[dict[str, Tensor], bool | None]:
    """Read weights in open_clip layout, and whether they say that they need QuickGELU; nothing for None."""
    if pretrained is None:
        return {}, None
    path, said_quick_gelu = _locate(model, pretrained)
    tensors = read_weights_file(path)
    if said_quick_gelu is None and needs_quick_gelu(tensors):
        said_quick_gelu = True
    return to_open_clip(tensors), said_quick_gelu


def _locate(model: str | Mapping[str, Any], pretrained: str | Path) -> tuple[Path, bool | None]:
    """Find the file of a tag or path, and what a tag says about QuickGELU."""
    if Path(pretrained).is_file() or Path(pretrained).suffix in WEIGHTS_SUFFIXES:
        return Path(pretrained), None
    entry = open_clip.get_pretrained_cfg(model, str(pretrained)) if isinstance(model, str) else None
    if not entry:
        tags = open_clip.list_pretrained_tags_by_model(model) if isinstance(model, str) else []
        raise ValueError(
            f"build_clip: pretrained is {str(pretrained)!r}, which is no file and no tag of the model; its tags are "
            f"{tags}; give one of them, a path that ends in one of {sorted(WEIGHTS_SUFFIXES)}, or None"
        )
    _require_known_normalisation(entry, model, pretrained)
    try:
        path = _in_hub_cache(entry) or Path(open_clip.download_pretrained(entry))
    except OSError as error:
        raise ConnectionError(
            f"build_clip: the weights {str(pretrained)!r} of {model} could not be downloaded ({error}); give the path "
            "of a file that was downloaded elsewhere, or try again with a network"
        ) from error
    return path, bool(entry.get("quick_gelu", False))


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


def downloaded_file(model: str, tag: str) -> Path | None:
    """Return where the weights of an open_clip tag lie, if they were downloaded before; None if they were not."""
    entry = open_clip.get_pretrained_cfg(model, tag)
    found = _in_hub_cache(entry) if entry else None
    if found is None and entry and not hub_files(entry)[0]:
        file = Path.home() / ".cache" / "clip" / Path(str(entry.get("url", ""))).name
        found = file if file.is_file() else None
    return found


def _in_hub_cache(entry: Mapping[str, Any]) -> Path | None:
    """Find a tag's file among those that were downloaded before.

    open_clip asks the hub first, by each name that the file may have. Without a network that takes half a minute of
    retries for a name that is not in the cache, at every load; and a run's weights could change under it.
    """
    repository, names = hub_files(entry)
    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _require_known_normalisation(entry: Mapping[str, Any], model: object, tag: object) -> None:
    """Refuse weights that were trained on images normalised in another way than ``masked_crops`` does."""
    for name, ours in (("mean", CLIP_MEAN_RGB), ("std", CLIP_STD_RGB)):
        theirs = tuple(entry.get(name) or ours)
        if theirs != ours:
            raise ValueError(
                f"build_clip: the weights {str(tag)!r} of {model} want images normalised with {name} {theirs}, "
                f"crops are made with OpenAI's {ours}; choose another tag"
            )


def _build(
    model: str | Mapping[str, Any],
    tensors: dict[str, Tensor],
    quick_gelu: bool | None,
    seed: int,
    where: str | Path | None,
) -> OpenClip:
    """Make open_clip's module and fill it, if there are tensors."""
    config = _checked_config(model)
    if quick_gelu is not None:
        config["quick_gelu"] = quick_gelu
    model_class = open_clip.CustomTextCLIP if config.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            clip = model_class(**config)
        except (TypeError, AssertionError) as error:
            raise ValueError(
                f"build_clip: open_clip refuses the configuration ({error}); compare it with ViT-B-16's"
            ) from error
    if tensors:
        expected = clip.state_dict()
        conversion = take_tensors(tensors, expected, {name: name for name in expected})
        conversion.report.require_fit(str(where))
        clip.load_state_dict(conversion.tensors)
    return clip.eval()


def _checked_config(model: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a model's configuration, of which this project can build every part."""
    config = open_clip.get_model_config(model) if isinstance(model, str) else copy.deepcopy(dict(model))
    if config is None:
        near = difflib.get_close_matches(str(model), open_clip.list_models(), n=3, cutoff=0.4)
        raise ValueError(
            f"build_clip: open_clip has no model {model!r}; a name such as {near or ['ViT-B-16']} is expected"
        )
    absent = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if absent:
        raise ValueError(f"build_clip: the configuration lacks {absent}; compare it with ViT-B-16's")
    no_tables = [key for key in ("vision_cfg", "text_cfg") if not isinstance(config[key], Mapping)]
    if no_tables:
        raise ValueError(f"build_clip: {no_tables} of the configuration are no tables; compare it with ViT-B-16's")
    foreign = {
        "an image tower of timm": "timm_model_name" in config["vision_cfg"],
        "a ResNet as image tower": not isinstance(config["vision_cfg"].get("layers", 12), int),
        "a text tower of transformers": "hf_model_name" in config["text_cfg"],
        "a tokenizer of transformers": "hf_tokenizer_name" in config["text_cfg"],
        "a caption decoder": "multimodal_cfg" in config,
    }
    found = [part for part, present in foreign.items() if present]
    if found:
        raise ValueError(
            f"build_clip: {model if isinstance(model, str) else 'the configuration'} has {', '.join(found)}; "
            "expected open_clip's own vision and text transformers and its tokenizer; choose a model such as ViT-B-16"
        )
    return config
