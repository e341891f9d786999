"""What a pickle would cost, found before anything in it is built.

A few bytes of pickle can ask for a table of 2^32 places, for a tuple that holds itself 2^60 times and is hashed, or for
one text of 10 MB to be copied a million times. So its instructions are walked through once with sizes in place of
objects; a reader sees it only if what it would do stays in proportion to the file.
"""

import pickle
import pickletools
from collections.abc import Callable
from typing import IO, Any, Protocol, cast, runtime_checkable

_MAX_INSTRUCTIONS = 400_000  # about 3 s; a checkpoint of 1,000 tensors with its optimizer has about 100,000
_WORK_PER_BYTE, _FREE_WORK = 16, 2**26
_MAX_SIZE = 2**62  # sizes that double with each instruction stay machine numbers
_TAGS_OF_OTHERS = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "NEXT_BUFFER", "READONLY_BUFFER"})
_PUTS, _GETS = frozenset({"PUT", "BINPUT", "LONG_BINPUT"}), frozenset({"GET", "BINGET", "LONG_BINGET"})
_CALLS = frozenset({"REDUCE", "NEWOBJ", "NEWOBJ_EX", "OBJ", "INST", "FROZENSET", "DICT"})
_FILLS = frozenset({"APPEND", "APPENDS", "ADDITEMS", "SETITEM", "SETITEMS"})


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
        persistent: Checks the identifier of an object that lies outside the pickle; None if there may be none.

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
