"""Reading pickled weights without running code from the file, at a cost in proportion to its size.

A pickle is a program that may call whatever it names. `read_array_pickle` reads NumPy arrays, as detectron2 and
MaskFormer publish weights: the few names that arrays of numbers need lead to classes of this module, which only take
notes, and any other name is refused; no function of NumPy sees what the file says, until the notes were checked.

A few bytes of pickle can ask for a table of 2^32 places, for a tuple that holds itself 2^60 times and is hashed, or
for one text of 10 MB to be copied a million times. So `check_pickle` walks through the instructions once, with sizes
in place of objects, before any reader sees them.
"""

import io
import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt

_MAX_INSTRUCTIONS = 400_000  # about 3 s; a checkpoint of 1,000 tensors with its optimizer has about 100,000
_WORK_PER_BYTE, _FREE_WORK = 16, 2**26
_MAX_SIZE = 2**62  # sizes that double with each instruction stay machine numbers
_TAGS_OF_OTHERS = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"})
_PUTS, _GETS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"}), frozenset({"GET", "BINGET", "LONG_BINGET"})
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "FROZENSET", "DICT"})
_FILLS = frozenset({"APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"})
_NUMBER_TYPES = frozenset({"f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1"})


class Value:
    """An object that a pickle would build.

    Attributes:
        size: Bytes and parts of it, shared parts counted as often as they are reached.
        content: A constant, the name of a global, or the parts of a tuple; None for everything else.
    """

    __slots__ = ("content", "size")

    def __init__(self, size: int, content: Any = None) -> None:
        self.size = min(size, _MAX_SIZE)
        self.content = content


@runtime_checkable
class Program(Protocol):
    """A binary file or `mmap`: its reads end where the file ends, and reserve no memory for more."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer at the end."""
        ...

    def readline(self) -> bytes:
        """Return the rest of the line."""
        ...

    def tell(self) -> int:
        """Return the place in the file."""
        ...


def check_pickle(program: Program, file_bytes: int, persistent: Callable[[Value], None] | None = None) -> None:
    """Walk through the next pickle of a file and leave the file at its end.

    Args:
        program: At the first instruction.
        file_bytes: Size of the file, to which the work must be in proportion.
        persistent: Checks the identifier of an object outside the pickle; None if there may be none.

    Raises:
        pickle.UnpicklingError: If it is no pickle, is cut short, or would take more than a file of that size can need.
    """
    stack: list[Value] = []
    marks: list[int] = []
    memo: dict[int, Value] = {}
    work, limit = 0, _WORK_PER_BYTE * file_bytes + _FREE_WORK
    for count, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", program))):
        name = opcode.name
        if count >= _MAX_INSTRUCTIONS:
            raise pickle.UnpicklingError(f"it has more than {_MAX_INSTRUCTIONS} instructions")
        if name in _TAGS_OF_OTHERS:
            raise pickle.UnpicklingError(f"it uses the instruction {name}, which no file of weights needs")
        floor = marks[-1] if marks else 0
        if name == "MARK":
            marks.append(len(stack))
        elif name == "POP" and marks and floor == len(stack):
            marks.pop()
        elif name in _PUTS or name == "MEMOIZE":
            place = len(memo) if argument is None else int(argument)
            # Readers keep a table up to the greatest number, whatever else is in it.
            if not 0 <= place <= count:
                raise pickle.UnpicklingError(f"it numbers its {count}th object {place}")
            memo[place] = stack[-1]
        elif name in _GETS:
            stack.append(memo[int(argument or 0)])
        elif name == "DUP":
            stack.append(stack[-1])
        else:
            taken = _taken(opcode, stack, marks)
            size = sum(value.size for value in taken)
            if name in _FILLS:
                container, items = taken[0], taken[1:]
                container.size = min(size, _MAX_SIZE)
                hashed = items[::2] if name.startswith("SETITEM") else items if name == "ADDITEMS" else []
                work += len(items) + sum(key.size for key in hashed)  # a tuple is hashed to its last part each time
                stack.append(container)
            elif name == "BUILD":
                taken[0].size = min(size, _MAX_SIZE)
                work += taken[1].size
                stack.append(taken[0])
            elif name == "BINPERSID":
                if persistent is None:
                    raise pickle.UnpicklingError("it names objects outside itself")
                persistent(taken[0])
                stack.append(Value(1))
            elif name in _CALLS:
                work += size
                stack.append(Value(size + 1))
            elif name.startswith("TUPLE"):
                stack.append(Value(size + 1, tuple(taken)))
            else:
                own = len(argument) if isinstance(argument, str | bytes | bytearray) else 1
                stack += [Value(size + own, argument) for _ in opcode.stack_after]
        if work > limit:
            raise pickle.UnpicklingError(
                f"its {count} instructions would build more than {limit // 2**20} MiB from a file of {file_bytes} bytes"
            )


def _taken(opcode: pickletools.OpcodeInfo, stack: list[Value], marks: list[int]) -> list[Value]:
    """Take off the stack what an instruction takes: a fixed number of objects, or all from the last mark on.

    Raises:
        pickle.UnpicklingError: If they are not there.
    """
    before = opcode.stack_before
    if pickletools.markobject in before:
        start = marks.pop() - before.index(pickletools.markobject)
    else:
        start = len(stack) - len(before)
    if start < (marks[-1] if marks else 0):
        raise pickle.UnpicklingError(f"its instruction {opcode.name} takes what is not there")
    taken = stack[start:]
    del stack[start:]
    return taken


class _Ignored:
    """A placeholder for what is not needed, such as a NumPy scalar or the class of all arrays."""

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
            _, shape, number_type, is_fortran, content = self._state
            raw = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes come as text
            dtype = number_type.dtype()
            flat = np.frombuffer(raw, dtype) if raw else np.empty(0, dtype)
            array = flat.reshape(shape, order="F" if is_fortran else "C")
            self._made = array.astype(dtype.newbyteorder("="), order="C")
        return self._made


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
        """Return what a name of the file may call: a class of this module, or nothing."""
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
    """Replace the notes of arrays by arrays, within dictionaries, each of which is visited once."""
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
