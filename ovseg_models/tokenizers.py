"""The tokenizer that a model's configuration names, whatever its name is.

open_clip chooses by the model's name, and an unknown one silently gets OpenAI's word pieces. Here the configuration
decides alone: ``text_cfg.hf_tokenizer_name`` means a tokenizer of the package ``transformers``, without it the tokens
are OpenAI's, whose list comes with open_clip.
"""

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import open_clip
from jaxtyping import Int
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer
from torch import Tensor

Tokenize: TypeAlias = Callable[[list[str]], Int[Tensor, "text context"]]


class ModelTokenizer:
    """The tokenizer of a model, made when it is first used.

    Args:
        config: open_clip's configuration of the model.
        folder: Where the files of a tokenizer of ``transformers`` lie; None for the hub or its cache.
    """

    def __init__(self, config: Mapping[str, Any], folder: Path | None = None) -> None:
        self._text_cfg = config["text_cfg"]
        self._folder = folder
        self.hub_name = hub_tokenizer(config)

    def __call__(self, texts: Sequence[str]) -> Int[Tensor, "text context"]:
        """Turn texts into tokens.

        Raises:
            ImportError: As `made`.
            ConnectionError: As `made`.
        """
        tokens: Tensor = self.made(list(texts))
        return tokens

    def save(self, folder: Path) -> None:
        """Write the files that a tokenizer of ``transformers`` is made of; open_clip's own has none."""
        if self.hub_name:
            self.made.save_pretrained(str(folder))

    @cached_property
    def made(self) -> Any:
        """open_clip's tokenizer.

        Raises:
            ImportError: If ``transformers`` is needed and not installed.
            ConnectionError: If files of the tokenizer are neither in the folder or cache nor available from the hub.
        """
        length = self._text_cfg.get("context_length", DEFAULT_CONTEXT_LENGTH)
        options = self._text_cfg.get("tokenizer_kwargs") or {}
        if not self.hub_name:
            return open_clip.SimpleTokenizer(context_length=length, **options)
        if is_package_missing(self.hub_name):
            raise ImportError(
                f"tokenizer: the model reads texts by {self.hub_name!r}, for which the package transformers is not "
                "installed; install it with 'pip install ovseg-pipeline[hf]', or choose a model with open_clip's own "
                "tokenizer"
            )
        source = self.hub_name if self._folder is None else str(self._folder)
        if self._folder is not None:  # a folder that is not there would be taken for a name of the hub
            options = {**options, "local_files_only": True}
        try:
            return HFTokenizer(
                source, context_length=length, tokenizer_mode=self._text_cfg.get("tokenizer_mode"), **options
            )
        except (OSError, ValueError) as error:  # transformers' errors of missing files and of the network
            reason = " ".join(str(error).split())
            raise ConnectionError(
                f"tokenizer: the files of {source!r} are not available ({reason:.300}); download them where there is "
                "a network, into the hub's cache or beside the model in a local-dir"
            ) from error


def hub_tokenizer(config: Mapping[str, Any]) -> str:
    """Return the hub's name of a model's tokenizer of ``transformers``; empty for open_clip's own."""
    return str(config["text_cfg"].get("hf_tokenizer_name") or "")


def is_package_missing(hub_name: str) -> bool:
    """Return whether a tokenizer needs the package ``transformers`` and it is not installed."""
    return bool(hub_name) and importlib.util.find_spec("transformers") is None
