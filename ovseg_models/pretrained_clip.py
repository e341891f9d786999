"""Building CLIP with open_clip's modules, with weights of an open_clip tag, of a file or folder, or random ones."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict
from torch import Tensor

from ovseg_models.checkpoint_keys.clip import MASK_PROMPTS_KEY, needs_quick_gelu, to_open_clip
from ovseg_models.checkpoint_keys.key_report import take_tensors
from ovseg_models.hub_text_towers import built_with_text_sizes, with_text_sizes
from ovseg_models.mask_adapted_clip import BlankPatches, MaskAdaptedClip, OpenClip, Temperature
from ovseg_models.open_clip_models import FoundModel, find_model, has_published_form
from ovseg_models.preprocessing import OPENAI, Preprocessing
from ovseg_models.tokenizers import ModelTokenizer
from ovseg_models.weights_file import read_weights_file

logger = logging.getLogger(__name__)

_OF_NO_USE = (  # CoCa's captions; numbers in a row; sines of places
    "text_decoder.",
    "text.transformer.embeddings.position_ids",
    "text.transformer.embed_positions.weights",
)


def build_clip(
    model: str | Mapping[str, Any],
    pretrained: str | Path | None = None,
    *,
    quick_gelu: bool | None = None,
    seed: int = 0,
) -> OpenClip:
    """Build stock CLIP: single precision, on the CPU, in evaluation mode.

    Args:
        model: A name of open_clip such as ``"ViT-B-16"``, ``"hf-hub:ORG/NAME"``, ``"local-dir:PATH"``, or a
            configuration; see `open_clip_models`.
        pretrained: A tag of open_clip such as ``"openai"``, whose file is downloaded once and then taken from the hub's
            cache, no network asked; or a local file, in the layout of open_clip, OpenAI, OVSeg or OVSeg's finetuning,
            .safetensors or a torch file of plain tensors; ``"own"`` for the weights that lie with an ``hf-hub:`` or
            ``local-dir:`` model; or None for random weights.
        quick_gelu: Whether the activation is the sigmoid approximation that OpenAI's weights need. None: as the weights
            say, if they do (tags, OpenAI and OVSeg layout), else as the configuration says.
        seed: Of the random weights; the global random state is left alone.

    Raises:
        ConnectionError: If weights cannot be downloaded.
        ImportError: If the text tower is one of ``transformers``, and that is not installed.
        FileNotFoundError: If ``pretrained`` is a path and there is no such file, or a folder lacks one.
        ValueError: If the name, the configuration or the tag is unknown, or the file cannot be read safely or doesn't
            fit, with its missing, unexpected and misshapen keys; or if the file holds mask prompts.
    """
    found = find_model(model, pretrained)
    tensors, said_quick_gelu = _read_weights(found)
    if MASK_PROMPTS_KEY in tensors:
        raise ValueError(
            f"build_clip: {pretrained} holds mask prompts {tuple(tensors[MASK_PROMPTS_KEY].shape)}, "
            "stock CLIP has none; use build_mask_adapted_clip"
        )
    return _build(_configured(found, quick_gelu, said_quick_gelu), tensors, seed, found.weights)


def build_mask_adapted_clip(
    model: str | Mapping[str, Any],
    pretrained: str | Path | None = None,
    *,
    prompt_depth: int = 3,
    mask_queries: bool = False,
    blank_patches: BlankPatches = "kept",
    quick_gelu: bool | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    temperature: Temperature | None = None,
    tokenizer_folder: Path | None = None,
    without_prompts: bool = False,
    seed: int = 0,
) -> MaskAdaptedClip:
    """Build CLIP with mask prompts: those of the file if it holds any, else new ones of ``seed``, to be trained.

    Args:
        model: As for ``build_clip``.
        pretrained: As for ``build_clip``; the file may hold mask prompts.
        prompt_depth: How many layers' inputs take prompts; 0 for none. Must agree with the prompts of the file.
        mask_queries: Whether mask tokens of one pass have queries of their own; as for `MaskAdaptedClip`.
        blank_patches: Whether the tokens of patches without a mask pixel are dropped; as the weights were trained.
        quick_gelu: As for ``build_clip``.
        preprocessing: ``mean``, ``std`` and ``interpolation`` of the training images; None: as the tag or the model's
            ``preprocess_cfg`` says, else as all tags of the name say, else as OpenAI's.
        temperature: The factor on cosines when classes are named; None: 100 as in OVSeg's code for models of the form
            of OpenAI's, and for others what they have learned.
        tokenizer_folder: Where the files of a tokenizer of ``transformers`` lie; None: with a ``local-dir:`` model,
            else in the hub's cache.
        without_prompts: Leave out the prompts of a file, as one pass and a new adaptation do; it is logged.
        seed: Of random weights and of new prompts.

    Raises:
        ConnectionError: As for ``build_clip``.
        ImportError: As for ``build_clip``.
        FileNotFoundError: As for ``build_clip``.
        ValueError: As for ``build_clip``; or if the image tower cannot be adapted, or the file's prompts have another
            shape.
    """
    found = find_model(model, pretrained)
    tensors, said_quick_gelu = _read_weights(found)
    prompts = tensors.pop(MASK_PROMPTS_KEY, None)
    if prompts is not None and without_prompts:
        logger.warning("%s: its mask prompts are left out; CLIP alone is taken", found.weights)
        prompts = None
    config = _configured(found, quick_gelu, said_quick_gelu)
    pixels = found.preprocessing if preprocessing is None else Preprocessing.of(preprocessing)
    adapted = mask_adapted_clip_of(
        _build(config, tensors, seed, found.weights),
        config,
        prompt_depth=prompt_depth,
        prompt_seed=seed,
        mask_queries=mask_queries,
        blank_patches=blank_patches,
        preprocessing=pixels,
        temperature=temperature,
        tokenizer_folder=tokenizer_folder or found.tokenizer_folder,
    )
    if prompts is not None:
        expected = (0,) if adapted.mask_prompts is None else tuple(adapted.mask_prompts.shape)
        if adapted.mask_prompts is None or tuple(prompts.shape) != expected:
            raise ValueError(
                f"build_mask_adapted_clip: {pretrained} holds mask prompts {tuple(prompts.shape)}, the model's are "
                f"{expected} (depth, patch, width); set prompt_depth to {prompts.shape[0]} or choose another file"
            )
        with torch.no_grad():
            adapted.mask_prompts.copy_(prompts)
    return adapted


def own_quick_gelu(model: str | Mapping[str, Any], pretrained: str | Path | None) -> bool:
    """Return the activation that weights ask for: as their tag or layout says; where nothing says it, of the name.

    Raises:
        ConnectionError: As for ``build_clip``, like other errors.
    """
    found = find_model(model, pretrained)
    said = found.quick_gelu if found.quick_gelu is not None else _read_weights(found)[1]
    of_name = found.config.get("quick_gelu") if isinstance(model, str) else None
    return bool(of_name if said is None else said)


def mask_adapted_clip_of(
    clip: OpenClip,
    config: Mapping[str, Any],
    *,
    prompt_depth: int,
    prompt_seed: int | None = None,
    mask_queries: bool = False,
    blank_patches: BlankPatches = "kept",
    preprocessing: Preprocessing = OPENAI,
    temperature: Temperature | None = None,
    tokenizer_folder: Path | None = None,
) -> MaskAdaptedClip:
    """Put what its configuration says beside an open_clip model, in evaluation mode.

    Args:
        clip: Is not copied.
        config: From which it was built; it becomes the ``arguments``. Empty if it isn't known: they stay empty then.
        prompt_depth: How many layers' inputs take prompts.
        prompt_seed: Of new prompts; None for zeros.
        mask_queries: As for `MaskAdaptedClip`.
        blank_patches: As for `MaskAdaptedClip`, like ``preprocessing``.
        temperature: As for `build_mask_adapted_clip`, like ``tokenizer_folder``.

    Raises:
        TypeError: As `MaskAdaptedClip`.
        ValueError: As `MaskAdaptedClip`.
    """
    temperature = temperature or temperature_of(config, preprocessing)
    adapted = MaskAdaptedClip(
        clip,
        prompt_depth=prompt_depth,
        prompt_seed=prompt_seed,
        mask_queries=mask_queries,
        blank_patches=blank_patches,
        preprocessing=preprocessing,
        temperature=temperature,
        tokenize=ModelTokenizer(config, tokenizer_folder) if config else None,
    )
    if config:
        adapted.arguments = {"model": dict(config), "prompt_depth": prompt_depth, **recorded_choices(adapted, config)}
    return adapted.eval()


def temperature_of(config: Mapping[str, Any], preprocessing: Preprocessing) -> Temperature:
    """Return the temperature of a model where nothing else is chosen; see `build_mask_adapted_clip`."""
    return "published" if not config or has_published_form(config, preprocessing) else "model"


def recorded_choices(adapted: MaskAdaptedClip, config: Mapping[str, Any]) -> dict[str, object]:
    """Return what is recorded of a model beside configuration and depth: nothing of one in the published form."""
    choices: dict[str, object] = {}
    if adapted.mask_queries is not None:
        choices["mask_queries"] = True
    if adapted.blank_patches != "kept":
        choices["blank_patches"] = adapted.blank_patches
    if adapted.crop.preprocessing != OPENAI:
        choices["preprocessing"] = adapted.crop.preprocessing.to_json()
    if adapted.temperature != "published" or temperature_of(config, adapted.crop.preprocessing) != "published":
        choices["temperature"] = adapted.temperature
    return choices


def _read_weights(found: FoundModel) -> tuple[dict[str, Tensor], bool | None]:
    """Read weights in open_clip layout, and whether they need QuickGELU, where that is said; nothing of random ones."""
    if found.weights is None:
        return {}, None
    tensors = read_weights_file(found.weights)
    said_quick_gelu = True if found.quick_gelu is None and needs_quick_gelu(tensors) else found.quick_gelu
    return to_open_clip(tensors), said_quick_gelu


def _configured(found: FoundModel, *quick_gelu: bool | None) -> dict[str, Any]:
    """Return the configuration with all sizes, and the first activation that anything says."""
    said = [choice for choice in quick_gelu if choice is not None]
    return {**with_text_sizes(found.config), **({"quick_gelu": said[0]} if said else {})}


def _build(config: Mapping[str, Any], tensors: dict[str, Tensor], seed: int, where: Path | None) -> OpenClip:
    """Make open_clip's module and fill it, if there are tensors."""
    arguments = dict(config)
    model_class = open_clip.CustomTextCLIP if arguments.pop("custom_text", False) else open_clip.CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            clip = built_with_text_sizes(arguments, lambda complete: model_class(**complete))
        except (TypeError, AssertionError, ValueError, ArithmeticError, RuntimeError, KeyError) as error:
            if isinstance(error, ValueError) and str(error):
                raise  # says what is wrong: ours of sizes beyond the weights', or open_clip's
            raise ValueError(
                f"build_clip: open_clip refuses the configuration ({error!r}); compare it with ViT-B-16's"
            ) from error
    if tensors:
        found = _renamed(clip, tensors)
        expected = clip.state_dict()
        conversion = take_tensors(found, expected, {name: name for name in expected})
        conversion.report.require_fit(str(where))
        clip.load_state_dict(conversion.tensors)
    return clip.eval()


def _renamed(clip: OpenClip, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name and shape tensors of older files as the model has them, as open_clip does when it loads them."""
    found = {name: tensor for name, tensor in tensors.items() if not name.startswith(_OF_NO_USE)}
    found = dict(convert_state_dict(clip, found))  # Apple's names
    if isinstance(clip, open_clip.CustomTextCLIP):
        found = dict(convert_to_custom_text_state_dict(found))
    for name in ("logit_scale", "logit_bias"):
        ours = getattr(clip, name)
        if name in found and ours is not None and found[name].numel() == 1:
            found[name] = found[name].reshape(ours.shape)  # a number, or a list of one
    if clip.logit_bias is not None and "logit_bias" not in found:
        found["logit_bias"] = torch.zeros_like(clip.logit_bias)  # of a softmax model that goes on as a sigmoid model
    return found
