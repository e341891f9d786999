"""Reading files of weights without running code from them."""

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin"})
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


def read_weights_file(path: str | Path) -> dict[str, Tensor]:
    """Read the named tensors of a safetensors or torch file onto the CPU.

    NumPy arrays of numbers count as tensors. Of a training checkpoint only the tensors of the model are returned; the
    optimizer's are left out, and a ``module.`` before every name (DistributedDataParallel) is taken away.

    Args:
        path: Ends in .safetensors, .pth, .pt or .bin.

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
    tensors = _named_tensors(_read(path))
    if not tensors:
        raise ValueError(f"{path}: no named tensors are in it, a state dict is wanted; save model.state_dict()")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _read(path: Path) -> Any:
    """Read whatever a weights file holds, refusing what only code could rebuild."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_ARRAY_PARTS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path}: cannot be read without running code from it, or is damaged ({reason}); "
            "a safetensors file or a torch file of plain tensors is wanted"
        ) from error


def _named_tensors(content: Any) -> dict[str, Tensor]:
    """Take the tensors of a state dict, out of the wrapper of a training checkpoint if there is one."""
    if not isinstance(content, Mapping):
        return {}
    for wrapper in _WRAPPERS:
        if isinstance(content.get(wrapper), Mapping):
            return _named_tensors(content[wrapper])
    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in content.items()
    }
    return {name: value for name, value in tensors.items() if isinstance(name, str) and isinstance(value, Tensor)}
