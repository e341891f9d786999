"""Reading files of weights without running code from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovseg_models.array_pickle import read_array_pickle

WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".pkl"})
_WRAPPERS = ("model", "state_dict", "module")  # a training checkpoint holds its tensors under one of these
# What an array of numbers is rebuilt from, under NumPy's present and former module name; no other code may be named.
_ARRAY_MODULES = ("numpy._core.multiarray", "numpy.core.multiarray")
_NUMBER_TYPES = [type(np.dtype(name)) for name in ("float16", "float32", "float64", "int32", "int64", "uint8", "bool")]
_ARRAY_MAKERS: tuple[Any, ...] = (np.zeros(1).__reduce__()[0], np.int64(0).__reduce__()[0])
_ARRAY_PARTS: list[Any] = [
    np.ndarray,
    np.dtype,
    *_NUMBER_TYPES,
    *((maker, f"{module}.{maker.__name__}") for maker in _ARRAY_MAKERS for module in _ARRAY_MODULES),
]
_MODULE_PREFIX = "module."


class WeightsFile(NamedTuple):
    """The tensors of a file, and what was around them.

    Attributes:
        tensors: By name, without the prefix.
        wrapper: Key under which a training checkpoint held them; empty if they were bare.
        prefix: ``module.`` if that stood before every name (DistributedDataParallel), else empty.
    """

    tensors: dict[str, Tensor]
    wrapper: str
    prefix: str


def read_weights_file(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a file, as `open_weights_file` does."""
    return open_weights_file(path).tensors


def open_weights_file(path: str | Path) -> WeightsFile:
    """Read the named tensors of a file of safetensors, of torch, or of pickled NumPy arrays (.pkl) onto the CPU.

    NumPy arrays of numbers count as tensors. Of a training checkpoint only the tensors of the model are returned; the
    optimizer's are left out, and a ``module.`` before every name (DistributedDataParallel) is taken away.

    Args:
        path: Ends in .safetensors, .pth, .pt, .bin or .pkl.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it ends otherwise, is damaged, needs code to be run, or holds no named tensors.
    """
    path = Path(path)
    if path.suffix not in WEIGHTS_SUFFIXES:
        raise ValueError(
            f"{path}: ends in {path.suffix!r}, one of {sorted(WEIGHTS_SUFFIXES)} is wanted; convert the file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights; check the path")
    tensors, wrapper = _named_tensors(_read(path))
    if not tensors:
        raise ValueError(f"{path}: no named tensors are in it, a state dict is wanted; save model.state_dict()")
    prefix = _MODULE_PREFIX if all(name.startswith(_MODULE_PREFIX) for name in tensors) else ""
    return WeightsFile({name.removeprefix(prefix): tensor for name, tensor in tensors.items()}, wrapper, prefix)


def _read(path: Path) -> Any:
    """Read whatever a weights file holds, refusing what only code could rebuild."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl":
            return read_array_pickle(path.read_bytes())
        with torch.serialization.safe_globals(_ARRAY_PARTS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # readers of damaged files fail in many ways
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read without running code from it, or is damaged ({reason}); safetensors, a torch file "
            "of plain tensors or pickled NumPy arrays are wanted"
        ) from error


def _named_tensors(content: Any, wrapper: str = "") -> tuple[dict[str, Tensor], str]:
    """Take the tensors of a state dict, out of the wrapper of a training checkpoint if there is one, and name that."""
    if not isinstance(content, Mapping):
        return {}, wrapper
    for inner in _WRAPPERS:
        if isinstance(content.get(inner), Mapping):
            return _named_tensors(content[inner], inner)
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in content.items()
    }
    named = {name: value for name, value in tensors.items() if isinstance(name, str) and isinstance(value, Tensor)}
    return named, wrapper
