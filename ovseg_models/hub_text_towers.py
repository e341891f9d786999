"""Text towers of the package ``transformers``: ten models of open_clip read texts by one.

open_clip's configuration has only the tower's name on the hub, where its sizes lie in a ``config.json``. They are read
once and recorded beside the name, so that a model is built again without the hub.
"""

import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from open_clip.hf_configs import arch_dict

from ovseg_models.tokenizers import is_package_missing

NAME_KEY, SIZES_KEY = "hf_model_name", "hf_config"
"""Of ``text_cfg``: open_clip's for the name, ours for what lies on the hub."""

CONFIG_NAME = "config.json"

_Built = TypeVar("_Built")
_SIZES = {
    *("model_type", "is_encoder_decoder", "vocab_size", "type_vocab_size", "max_position_embeddings"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id", "tie_word_embeddings"),
    # BERT, RoBERTa, XLM-RoBERTa
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act", "layer_norm_eps"),
    # mT5 and NLLB
    *("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "feed_forward_proj", "layer_norm_epsilon"),
    *("relative_attention_num_buckets", "relative_attention_max_distance"),
    *("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "activation_function", "scale_embedding"),
}
"""What decides embeddings. All else is left out: code and kernels that transformers would fetch, number formats."""

_WITHOUT_CHANCE = (
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout_rate", "dropout", "attention_dropout"),
    *("activation_dropout", "encoder_layerdrop", "decoder_layerdrop"),
)
_WITHOUT_DECODER = ("num_decoder_layers", "decoder_layers")


def hub_text_tower(config: Mapping[str, Any]) -> str:
    """Return the hub's name of a model's text tower of ``transformers``; empty for open_clip's own."""
    return str(config["text_cfg"].get(NAME_KEY) or "")


def with_text_sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with the sizes of its text tower, if that is one of ``transformers``.

    They are taken from the configuration itself, the hub's cache or the hub, whichever has them first.

    Raises:
        ConnectionError: If they cannot be downloaded.
        ValueError: If they are no table, or of a tower that open_clip doesn't know.
    """
    name = hub_text_tower(config)
    if not name:
        return dict(config)
    complete = copy.deepcopy(dict(config))
    text = complete["text_cfg"]
    sizes = text[SIZES_KEY] if SIZES_KEY in text else _downloaded(name)
    if not isinstance(sizes, Mapping) or sizes.get("model_type") not in arch_dict:
        found = sizes.get("model_type") if isinstance(sizes, Mapping) else sizes
        raise ValueError(
            f"build_clip: the text tower {name} is of type {found!r:.60}, one of {sorted(arch_dict)} is expected; "
            "choose another model"
        )
    text[SIZES_KEY] = {key: value for key, value in sizes.items() if key in _SIZES}
    text["hf_model_pretrained"] = False
    return complete


def built_with_text_sizes(config: dict[str, Any], build: Callable[[dict[str, Any]], _Built]) -> _Built:
    """Build a model of a configuration in which open_clip finds the sizes of the text tower.

    Args:
        config: Of `with_text_sizes`.
        build: Takes a configuration of open_clip.

    Raises:
        ImportError: If ``transformers`` is needed and not installed.
        Exception: Of ``build``.
    """
    if not hub_text_tower(config):
        return build(config)
    if is_package_missing(hub_text_tower(config)):
        raise ImportError(
            f"build_clip: the text tower {hub_text_tower(config)!r} is one of the package transformers, which is not "
            "installed; install it with 'pip install ovseg-pipeline[hf]', or choose another model"
        )
    text = dict(config["text_cfg"])
    # Texts are embedded by the encoder, and equally each time: nothing is built of a decoder, and nothing is dropped.
    sizes = {**text.pop(SIZES_KEY), **dict.fromkeys(_WITHOUT_DECODER, 0), **dict.fromkeys(_WITHOUT_CHANCE, 0.0)}
    with tempfile.TemporaryDirectory() as folder:  # open_clip takes sizes from a folder or the hub alone
        (Path(folder) / CONFIG_NAME).write_text(json.dumps(sizes), encoding="utf-8")
        return build({**config, "text_cfg": {**text, NAME_KEY: folder}})


def absent_text_tower(config: Mapping[str, Any]) -> str:
    """Return the name of a text tower whose sizes are not on this machine; empty if none is missing."""
    name = hub_text_tower(config)
    is_here = not name or SIZES_KEY in config["text_cfg"] or _in_cache(name) is not None
    return "" if is_here else name


def _in_cache(name: str) -> Path | None:
    """Find a tower's sizes in the hub's cache."""
    path = try_to_load_from_cache(name, CONFIG_NAME)
    return Path(path) if isinstance(path, str) else None


def _downloaded(name: str) -> object:
    """Read a tower's sizes from the hub's cache, or from the hub."""
    try:
        path = _in_cache(name) or Path(hf_hub_download(name, CONFIG_NAME))
        content: object = json.loads(path.read_bytes())
    except Exception as error:  # the hub's errors of names, networks and offline mode have no common base
        reason = " ".join(str(error).split())
        raise ConnectionError(
            f"build_clip: {CONFIG_NAME} of the text tower {name} could not be downloaded ({reason:.300}); download it "
            "where there is a network, into the hub's cache"
        ) from error
    return content
