"""JSON files of any size, record by record: a list at the top, or the lists of an object at the top."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.errors import PipelineError

_CHUNK_BYTES = 4 << 20
_BLANKS, _OF_NUMBERS, _LEFT = " \t\n\r", "+-.0123456789eE", 4
_DECODER = json.JSONDecoder()
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class MaskSourceError(PipelineError):
    """Files of masks that cannot be used at all."""


class JsonRecord(NamedTuple):
    """One item of a list, or another value of the object at the top.

    Attributes:
        key: Name of the list or value in the object; empty where the list is the top itself.
        offset: Of its first byte in the file.
        size_bytes: How long it is there.
        value: What it is, as `read_record` gives it.
    """

    key: str
    offset: int
    size_bytes: int
    value: Any


def json_records(path: Path) -> Iterator[JsonRecord]:
    """Read a file from front to back; never more of it is in memory than some records.

    Raises:
        MaskSourceError: If the file is absent, or no JSON of that form.
    """
    with opened(path) as file:
        text = _Text(file, path)
        top = text.next_sign("[{")
        if top == "[":
            yield from text.items("")
        elif text.next_sign('"}', take=False) == '"':
            while True:
                key = str(text.value()[2])
                text.next_sign(":")
                if text.next_sign("", take=False) == "[":
                    text.next_sign("[")
                    yield from text.items(key)
                else:
                    yield JsonRecord(key, *text.value())
                if text.next_sign(",}") == "}":
                    break


def read_record(file: io.BufferedReader, offset: int, size_bytes: int) -> Any:
    """Read one record of a file by its place.

    Raises:
        ValueError: If what is there is no JSON; the file has changed since.
    """
    file.seek(offset)
    return _decoded(file.read(size_bytes))


def _decoded(record: bytes) -> Any:
    """Read a record of UTF-8; bytes that are none become lone surrogates, as in names of files."""
    return json.loads(record.decode("utf-8", "surrogateescape"))


def opened(path: Path) -> io.BufferedReader:
    """Open a file of masks.

    Raises:
        MaskSourceError: If it is absent, or cannot be read.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise MaskSourceError(f"{path}: cannot be read ({error.strerror}); give the file of masks") from error


class _Text:
    """A window on a file, from which values are taken in order.

    Bytes are taken for characters one by one, so that places in the window are places in the file; JSON's own signs are
    the same in Latin-1 and UTF-8.
    """

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        self._file = file
        self._path = path
        begins = file.peek(3)[:3] == _BYTE_ORDER_MARK
        self._window, self._before = "", file.seek(3 if begins else 0)  # bytes before the window
        self._place = 0

    def next_sign(self, expected: str, *, take: bool = True) -> str:
        """Pass over blanks and return the next character, one of those expected (any where none is named).

        Raises:
            MaskSourceError: If another one follows, or the file ends.
        """
        while True:
            while self._place < len(self._window) and self._window[self._place] in _BLANKS:
                self._place += 1
            if self._place < len(self._window):
                break
            if not self._more():
                self._refuse(f"ends where {_words(expected)} is expected")
        sign = self._window[self._place]
        if expected and sign not in expected:
            self._refuse(f"has {sign!r} at byte {self._before + self._place}, where {_words(expected)} is expected")
        self._place += take
        return sign

    def value(self) -> tuple[int, int, Any]:
        """Return the value that follows: its offset, its size in bytes, and itself.

        Raises:
            MaskSourceError: If there is none.
        """
        self.next_sign("", take=False)
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._place)
            except (ValueError, RecursionError) as error:
                if isinstance(error, RecursionError) or not self._more():
                    self._refuse(f"is no JSON after byte {self._before + self._place} ({error})")
                continue
            # A number may go on: of "1e+5" cut off before its end, "1" is read, and "e+" is left.
            if len(self._window) - end < _LEFT and not self._window[end:].strip(_OF_NUMBERS) and self._more():
                continue
            offset, size_bytes = self._before + self._place, end - self._place
            own = self._window[self._place : end]
            if not own.isascii():  # where it ends is right, its characters are not
                value = _decoded(own.encode("latin-1"))
            self._place = end
            return offset, size_bytes, value

    def items(self, key: str) -> Iterator[JsonRecord]:
        """Yield the items of a list whose bracket was taken, and take the other one."""
        if self.next_sign("", take=False) == "]":
            self.next_sign("]")
            return
        while True:
            yield JsonRecord(key, *self.value())
            if self.next_sign(",]") == "]":
                return

    def _more(self) -> bool:
        """Read on; each time as much as there is, so that a long value is not tried too often."""
        more = self._file.read(max(_CHUNK_BYTES, len(self._window) - self._place)).decode("latin-1")
        self._before += self._place
        self._window, self._place = self._window[self._place :] + more, 0
        return bool(more)

    def _refuse(self, what: str) -> None:
        raise MaskSourceError(
            f"{self._path}: {what}; a JSON list, or an object with lists, is expected; export it again"
        )


def _words(expected: str) -> str:
    return " or ".join(repr(sign) for sign in expected) if expected else "a value"
