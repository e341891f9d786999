"""Reading pickled NumPy arrays, as detectron2 and MaskFormer publish weights, without running code from the file.

A pickle is a program that may call whatever it names. Here the few names that arrays of numbers need lead to classes of
this module, which only take notes, and any other name is refused; no function of NumPy sees what the file says, until
the notes have been checked.
"""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ovseg_models.pickle_limits import check_pickle

_NUMBER_TYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})


class _Ignored:
    """Stands for what is of no use, such as a NumPy scalar or the class of all arrays."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _NumberType:
    """Notes a dtype: its name, and its byte order from the state that follows."""

    def __init__(self, name: str, *_: object) -> None:
        self._name = name
        self._order = "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._order = state[1]

    def dtype(self) -> np.dtype[Any]:
        """Make the dtype, of numbers only."""
        if self._name not in _NUMBER_TYPES:
            raise pickle.UnpicklingError(f"an array of {self._name!r} is in it, numbers are expected")
        return np.dtype(self._name).newbyteorder(">" if self._order == ">" else "=")


class _Array:
    """Notes an array: its bytes, type, shape and order."""

    def __init__(self, *_: object) -> None:
        self._state: tuple[Any, ...] = ()
        self._made: npt.NDArray[Any] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._state = state

    def values(self) -> npt.NDArray[Any]:
        """Make the array, once however often the file refers to it."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> npt.NDArray[Any]:
        _, shape, number_type, is_fortran, content = self._state
        raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes come as text
        dtype = number_type.dtype()
        flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
        return flat.reshape(shape, order="F" if is_fortran else "C").astype(dtype.newbyteorder("="), order="C")


class _FlatArray(_Array):
    """Notes an array in the form of the pickle protocol 5."""

    def __init__(
        self, content: bytes | bytearray, number_type: _NumberType, shape: tuple[int, ...], order: str
    ) -> None:
        super().__init__()
        self._state = (1, shape, number_type, order == "F", bytes(content))


_KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("_codecs", "encode"): str.encode,  # how protocol 2 writes bytes
    ("__builtin__", "bytes"): bytes,  # and none at all
    ("numpy", "ndarray"): _Ignored,
    ("numpy", "dtype"): _NumberType,
}
for _core in ("numpy.core", "numpy._core"):  # the former name and the present one
    _KNOWN[f"{_core}.multiarray", "_reconstruct"] = _Array
    _KNOWN[f"{_core}.multiarray", "scalar"] = _Ignored
    _KNOWN[f"{_core}.numeric", "_frombuffer"] = _FlatArray


ARRAY_NAMES: tuple[Any, ...] = tuple(
    (maker, f"{module}.{name}") for (module, name), maker in _KNOWN.items() if module.startswith("numpy")
)
"""The same for `torch.serialization.safe_globals`, so that no function of NumPy sees what a torch file says either."""


class _Reader(pickle.Unpickler):  # noqa: S301 - it calls nothing but the classes above
    """An unpickler that knows the names above and no other."""

    def find_class(self, module: str, name: str) -> Callable[..., Any]:
        """Look a name up that the file wants to call."""
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is named, arrays and plain values are expected")
        return _KNOWN[module, name]


def read_array_pickle(content: bytes) -> Any:
    """Read a pickle of plain values and arrays of numbers.

    Args:
        content: The file's bytes; of Python 2 or 3, any protocol.

    Returns:
        What was pickled; arrays are native, contiguous and writable, scalars of NumPy are left without a value.

    Raises:
        pickle.UnpicklingError: If it names anything else, or is damaged.
    """
    try:
        check_pickle(io.BytesIO(content), len(content))
        return with_arrays(_Reader(io.BytesIO(content), encoding="latin1").load())
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # a damaged program may fail in any way
        raise pickle.UnpicklingError(f"{type(error).__name__}: {error}") from error


def with_arrays(content: Any) -> Any:
    """Replace the notes of arrays by arrays, within dictionaries, each of which is looked at once."""
    made: dict[int, dict[Any, Any]] = {}  # by identity: dictionaries may share others, or hold themselves
    waiting = []

    def replaced(value: Any) -> Any:
        if isinstance(value, _Array):
            return value.values()
        if not isinstance(value, dict):
            return value
        if id(value) not in made:
            made[id(value)] = {}
            waiting.append(value)
        return made[id(value)]

    result = replaced(content)
    while waiting:
        found = waiting.pop()
        made[id(found)].update((key, replaced(value)) for key, value in found.items())
    return result
