"""The adapted CLIP as open_clip loads it: a folder for ``local-dir:``, or a file and its configuration.

open_clip has no place for what this project adds: mask prompts, queries of mask tokens, a list of words. Without them
the exported CLIP embeds whole crops and tokens as the adapted one does, to the bit.
"""

import copy
import json
import logging
from pathlib import Path
from typing import Any

from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from torch import Tensor

from ovseg_models.hub_text_towers import SIZES_KEY, hub_text_tower
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.new_folder import new_folder, require_new, write_json, write_tensors
from ovseg_models.preprocessing import OPENAI
from ovseg_models.tokenizers import ModelTokenizer
from ovseg_models.weights_file import WEIGHTS_SUFFIXES
from ovseg_models.word_tokenizer import WordTokenizer

logger = logging.getLogger(__name__)


def write_open_clip_folder(folder: Path, clip: MaskAdaptedClip, words: WordTokenizer | None = None) -> list[str]:
    """Write a CLIP so that ``open_clip.create_model_and_transforms("local-dir:FOLDER")`` builds it.

    Written are ``open_clip_config.json`` (``model_cfg`` and ``preprocess_cfg``), ``open_clip_model.safetensors``, and
    the files of a tokenizer of ``transformers``, where CLIP has one.

    Args:
        folder: Must not hold anything.
        clip: Is not changed.
        words: The list of words by which it reads texts; None for the tokenizer that its configuration names. It is
            written beside ``model_cfg``, where this project finds it and open_clip passes over it.

    Returns:
        What open_clip has no place for, a sentence each; see `not_exported`.

    Raises:
        FileExistsError: If there is something in the folder already.
        ValueError: If the CLIP was built by hand, so that its configuration isn't known.
    """
    require_free(folder)
    pixels = clip.crop.preprocessing.to_json()
    preprocess_cfg = {"size": clip.crop_px, "mode": "RGB", **pixels, "resize_mode": "squash"}  # as crops are
    content: dict[str, Any] = {"model_cfg": open_clip_config(clip), "preprocess_cfg": preprocess_cfg}
    if words is not None:
        content["words"] = list(words.words)
    with new_folder(folder) as temporary:
        write_tensors(temporary / HF_SAFE_WEIGHTS_NAME, open_clip_tensors(clip))
        if words is None and isinstance(clip.tokenize, ModelTokenizer):
            clip.tokenize.save(temporary)
        write_json(temporary / HF_CONFIG_NAME, content)
    return not_exported(clip, words)


def write_open_clip_file(file: Path, clip: MaskAdaptedClip, words: WordTokenizer | None = None) -> list[str]:
    """Write a CLIP as a file of weights with a JSON beside it, for ``open_clip.add_model_config``.

    Args:
        file: Ending in .safetensors.
        clip: Is not changed.
        words: As for `write_open_clip_folder`; a file has no place for them.

    Returns:
        As `write_open_clip_folder`, and what a file does not say of pixels.

    Raises:
        FileExistsError: If one of the files is there already.
        ValueError: If the CLIP was built by hand.
    """
    require_free(file)
    config = open_clip_config(clip)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    temporary = file.with_name(f".tmp-{file.name}")
    write_tensors(temporary, open_clip_tensors(clip))
    temporary.replace(file)
    left_out = not_exported(clip, words)
    if (pixels := clip.crop.preprocessing) != OPENAI:
        left_out.append(
            f"this CLIP was trained on pixels of mean {list(pixels.mean_rgb)} and standard deviation "
            f"{list(pixels.std_rgb)}, resized {pixels.interpolation}; open_clip takes OpenAI's for a file: give its "
            "image transform these, or export a folder, which says so"
        )
    return left_out


def write_for_open_clip(out: Path, clip: MaskAdaptedClip, words: WordTokenizer | None = None) -> str:
    """Write a CLIP as a folder, or as a file where the name ends in .safetensors; what is left out is logged.

    Arguments and errors are those of `write_open_clip_folder` and `write_open_clip_file`.

    Returns:
        The lines of Python that load it.
    """
    if out.suffix == ".safetensors":
        left_out = write_open_clip_file(out, clip, words)
        lines = (
            f"open_clip.add_model_config({str(out.with_suffix('.json'))!r})\n"
            f"open_clip.create_model({out.stem!r}, pretrained={str(out)!r})\n"
        )
    else:
        left_out = write_open_clip_folder(out, clip, words)
        lines = f"open_clip.create_model_and_transforms({f'local-dir:{out}'!r})\n"
    for sentence in left_out:
        logger.warning("%s: %s", out, sentence)
    return lines


def require_free(out: Path) -> None:
    """Refuse names that are taken, or are of files of another kind, before anything is loaded.

    Raises:
        FileExistsError: If there is something already.
        ValueError: If the name ends as weights of another kind do.
    """
    if out.suffix in WEIGHTS_SUFFIXES - {".safetensors"}:
        raise ValueError(f"{out} does not end in .safetensors; choose another name, or a folder")
    if out.suffix != ".safetensors":
        require_new(out)
    elif taken := [path for path in (out, out.with_suffix(".json")) if path.exists()]:
        raise FileExistsError(f"{taken[0]} is there already; choose another name")


def open_clip_config(clip: MaskAdaptedClip) -> dict[str, Any]:
    """Return what open_clip builds such a model from.

    Raises:
        ValueError: If the CLIP was built by hand, so that its configuration isn't known.
    """
    if not clip.arguments:
        raise ValueError(
            "save_open_clip: CLIP has no record of the configuration that it was built from, which the folder must "
            "hold; build it with build_mask_adapted_clip and load the weights into that"
        )
    config: Any = copy.deepcopy(clip.arguments["model"])
    config["text_cfg"].pop(SIZES_KEY, None)  # open_clip refuses what it doesn't know here
    found: dict[str, Any] = config
    return found


def open_clip_tensors(clip: MaskAdaptedClip) -> dict[str, Tensor]:
    """Return the weights by open_clip's names, in single precision, on the CPU; mask prompts are none of them."""
    return {name: tensor.detach().cpu().float().contiguous() for name, tensor in clip.clip.state_dict().items()}


def not_exported(clip: MaskAdaptedClip, words: WordTokenizer | None = None) -> list[str]:
    """Say what a CLIP has that open_clip has no place for, a sentence each."""
    sentences = []
    if clip.mask_prompts is not None:
        sentences.append(
            f"its mask prompts of {clip.prompt_depth} layers are left out: open_clip sees the fill colour outside a "
            "mask in their place"
        )
    if clip.blank_patches == "dropped":
        sentences.append(
            "this CLIP was trained without the tokens of patches outside the mask, which open_clip keeps: it names "
            "regions otherwise there; to mine with it, set mine.embed.blank_patches to 'dropped'"
        )
    if clip.mask_queries is not None:
        sentences.append("the queries of mask tokens of its one pass are left out: open_clip embeds whole pictures")
    if words is not None:
        sentences.append(
            f"it reads texts by a list of {len(words.words)} words, and open_clip's tokenizer gives other numbers: "
            "make tokens by segmenter.tokenizer"
        )
    if tower := hub_text_tower({"text_cfg": open_clip_config(clip)["text_cfg"]}):
        sentences.append(f"open_clip asks the hub, or its cache, for the sizes of the text tower {tower}")
    return sentences
