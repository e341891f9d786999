"""Reading files of weights without running code from them, in time and memory that are in proportion to the file."""

import io
import mmap
import re
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ovseg_models.safe_pickle import ARRAY_NAMES, Value, check_pickle, read_array_pickle, with_arrays
from ovseg_models.weights import require_finite

WEIGHTS_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".pkl"})
_WRAPPERS = ("model", "state_dict", "module")  # a training checkpoint holds its tensors under one of these
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and of torch.compile
_COMPILED_PART = re.compile(r"(?<=\.)_orig_mod\.")  # where a part of a model was compiled
_PICKLES_OF_OLD_FILES = 5  # magic number, version, sizes of numbers, the content, names of storages
_BYTES_PER_BYTE, _FREE_BYTES = 16, 2**26
_MAX_ENTRIES = 100_000
_END_OF_ZIP, _END_OF_ZIP64 = b"PK\x05\x06", b"PK\x06\x06"
_BYTES_OF_STORAGE = {
    f"torch {kind}Storage": size
    for size, kinds in {
        1: ("Byte", "Char", "Bool", "Untyped", "QInt8", "QUInt8"),
        2: ("Half", "BFloat16", "Short"),
        4: ("Float", "Int", "QInt32"),
        8: ("Double", "Long", "ComplexFloat"),
        16: ("ComplexDouble",),
    }.items()
    for kind in kinds
}
_NO_WEIGHTS = (
    (re.compile(rb"<(!doctype\s+html|html|head|body|script|!--)", re.IGNORECASE), "an HTML page"),
    (re.compile(rb"<(\?xml|error)", re.IGNORECASE), "an XML page"),
    (re.compile(rb"version https://git-lfs\.github\.com/"), "a git-lfs pointer"),
    (re.compile(rb"[{\[]\s*[\"{\[\]}]"), "a JSON text"),
)
"""What is often saved in the place of weights, by its first letters."""


class WeightsFile(NamedTuple):
    """The tensors of a file, and what was around them.

    Attributes:
        tensors: By name, without the prefix.
        wrapper: Key under which a training checkpoint held them; empty if they were bare.
        prefix: What stood before every name: ``module.`` (DistributedDataParallel) and ``_orig_mod.`` (torch.compile)
            in the file's order, each as often as it was there.
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
    optimizer's are left out, and what DistributedDataParallel and torch.compile put before the names is taken away.

    Args:
        path: Ends in .safetensors, .pth, .pt, .bin or .pkl.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it ends otherwise, is something else (a page, a git-lfs pointer), is damaged, needs code to be
            run, would need far more memory than its size, or holds no named tensors, or one that is not finite.
    """
    path = Path(path)
    if path.suffix not in WEIGHTS_SUFFIXES:
        raise ValueError(
            f"{path}: ends in {path.suffix!r}, one of {sorted(WEIGHTS_SUFFIXES)} is expected; convert the file"
        )
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file of weights; check the path")
    _refuse_other_files(path)
    tensors, wrapper = _named_tensors(_read(path))
    if not tensors:
        raise ValueError(f"{path}: no named tensors are in it, a state dict is expected; save model.state_dict()")
    _refuse_expanded_tensors(path, tensors)
    require_finite(tensors, str(path))
    prefix = ""
    while inner := next((word for word in _PREFIXES if all(name.startswith(prefix + word) for name in tensors)), None):
        prefix += inner
    plain = {_COMPILED_PART.sub("", name.removeprefix(prefix)): tensor for name, tensor in tensors.items()}
    if len(plain) < len(tensors):
        raise ValueError(
            f"{path}: {len(tensors) - len(plain)} tensors are there twice, with and without '_orig_mod.'; save the "
            "state dict of one model"
        )
    return WeightsFile(plain, wrapper, prefix)


def _refuse_other_files(path: Path) -> None:
    """Call a file by its name that was saved in the place of weights."""
    size = path.stat().st_size
    if size == 0:
        raise ValueError(f"{path}: is empty (0 bytes): the download failed or the disk was full; download it again")
    with path.open("rb") as file:
        begin = file.read(1024)
    text = begin.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((name for pattern, name in _NO_WEIGHTS if pattern.match(text)), None)
    if found == "a git-lfs pointer":
        raise ValueError(
            f"{path}: is a git-lfs pointer of {size} bytes, the file that it names is expected; run 'git lfs pull'"
        )
    if found is not None:
        shown = " ".join(text[:60].decode("utf-8", "replace").split())
        shown = "".join(letter if letter.isprintable() else "?" for letter in shown)
        raise ValueError(
            f"{path}: is {found}: the download failed ({size} bytes that begin with {shown!r}); open its address in a "
            "browser to see what the server answers, and download the file again"
        )
    if begin.startswith(b"\x1f\x8b"):
        raise ValueError(f"{path}: is compressed with gzip; unpack it with gunzip")


def _read(path: Path) -> Any:
    """Read whatever a weights file holds, refusing what only code could rebuild."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".pkl":
            return read_array_pickle(path.read_bytes())
        _check_torch_file(path)
        with torch.serialization.safe_globals(list(ARRAY_NAMES)):
            return with_arrays(torch.load(path, map_location="cpu", weights_only=True))
    except OSError:
        raise
    except Exception as error:  # readers of damaged files fail in many ways
        raise ValueError(
            f"{path}: cannot be read without running code from it, or is damaged ({_reason(error)}); safetensors, a "
            "torch file of plain tensors or pickled NumPy arrays are expected"
        ) from error


def _reason(error: Exception) -> str:
    """Return in one line what a reader found, without its advice to read the file unsafely."""
    text = str(error)
    if named := re.search(r"GLOBAL (\S+)", text):
        return f"it names the code {named[1]}"
    if isinstance(error, SafetensorError) and "incomplete metadata" in text:
        return "it is cut short; download it again"
    if inner := re.search(r"WeightsUnpickler error: (.+)", text):
        text = inner[1]
    lines = [line for line in text.strip().splitlines() if "weights_only" not in line]
    return lines[0].strip() if lines else type(error).__name__


def _check_torch_file(path: Path) -> None:
    """Refuse a torch file that would cost far more than its size, before torch reads it.

    torch takes the sizes of storages from the pickle alone, and would read beyond the end of a smaller one.

    Raises:
        ValueError: With what is wrong.
        pickle.UnpicklingError: As `check_pickle`.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK\x03\x04"):
            claimed: dict[object, int] = {}

            def remember(identifier: Value) -> None:
                key, needed = _storage(identifier)
                # Storage by storage: torch reserves what is claimed and then finds the file too short.
                if claimed.setdefault(key, needed) < needed or needed > size:
                    raise ValueError(f"its storage {key} claims {needed} bytes, the whole file has {size}")

            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                for _ in range(_PICKLES_OF_OLD_FILES):
                    check_pickle(content, size, remember)
                    if content.tell() == size:
                        break
            return
        if not _entries_of_zip(file, size):
            raise ValueError(f"it is cut short: the directory at the end of its {size} bytes is missing; download it")
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            twice = [name for name, times in Counter(entry.filename for entry in entries).items() if times > 1]
            if twice:
                raise ValueError(f"its entry {twice[0]} is there twice")
            unpacked = sum(entry.file_size for entry in entries)
            if unpacked > _BYTES_PER_BYTE * size + _FREE_BYTES:
                raise ValueError(f"its {size} bytes unpack to {unpacked}")
            names = {entry.filename.partition("/")[2]: entry for entry in entries}
            if "constants.pkl" in names:
                raise ValueError(
                    "it is a TorchScript archive, which holds code to run: use the tag 'openai' (the same weights as "
                    "safetensors), or convert it where you trust it with "
                    "torch.save(torch.jit.load(file).state_dict(), 'clip.pth')"
                )

            def require_record(identifier: Value) -> None:
                key, needed = _storage(identifier)
                record = names.get(f"data/{key}")
                if record is None or record.file_size < needed:
                    found = "missing" if record is None else f"of {record.file_size} bytes"
                    raise ValueError(f"its storage {key} is {found}, {needed} bytes are expected")

            if "data.pkl" in names:
                with archive.open(names["data.pkl"]) as program:
                    check_pickle(io.BytesIO(program.read()), size, require_record)


def _storage(identifier: Value) -> tuple[object, int]:
    """Return the key of a storage and the bytes that it must have."""
    parts = identifier.content
    if not isinstance(parts, tuple) or len(parts) < 5:  # "storage", type, key, device, length
        raise ValueError("it names something outside itself that is no storage")
    _, kind, key, _, length = (part.content for part in parts[:5])
    if kind not in _BYTES_OF_STORAGE or not isinstance(length, int) or length < 0:
        raise ValueError(f"its storage {key!r} is of {kind!r} and length {length!r}")
    return key, length * _BYTES_OF_STORAGE[kind]


def _entries_of_zip(file: BinaryIO, size: int) -> int:
    """Return how many entries an archive says it has, 0 if its end is missing.

    Raises:
        ValueError: If there are too many to be listed.
    """
    file.seek(max(0, size - 2**16 - 98))  # the longest comment, and both records of the end
    tail = file.read()
    place = tail.rfind(_END_OF_ZIP)
    if place < 0 or len(tail) < place + 22:
        return 0
    (entries,) = struct.unpack_from("<H", tail, place + 10)
    large = tail.rfind(_END_OF_ZIP64)
    if large >= 0 and len(tail) >= large + 40:
        entries = max(entries, *struct.unpack_from("<Q", tail, large + 32))
    if entries > _MAX_ENTRIES:
        raise ValueError(f"it has {entries} entries, at most {_MAX_ENTRIES} are expected")
    return int(entries)


def _refuse_expanded_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are no plain arrays, and views that repeat a few bytes over a huge shape."""
    size, total = path.stat().st_size, 0
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise ValueError(f"{path}: {name} is sparse, quantised or without values; save it as a dense tensor")
        total += tensor.numel() * tensor.itemsize
        if total > _BYTES_PER_BYTE * size + _FREE_BYTES:
            raise ValueError(
                f"{path}: its tensors up to {name} {tuple(tensor.shape)} have {total} bytes, the file {size}; "
                "save them as contiguous tensors"
            )


def _named_tensors(content: Any) -> tuple[dict[str, Tensor], str]:
    """Take the tensors of a state dict, out of the wrapper of a training checkpoint if there is one, and name that."""
    wrapper, seen = "", set[int]()
    while isinstance(content, Mapping) and id(content) not in seen:
        seen.add(id(content))  # a dictionary may hold itself
        inner = next((word for word in _WRAPPERS if isinstance(content.get(word), Mapping)), None)
        if inner is None:
            break
        content, wrapper = content[inner], inner
    if not isinstance(content, Mapping):
        return {}, wrapper
    made: dict[int, Tensor] = {}
    named: dict[str, Tensor] = {}
    for name, value in content.items():
        if isinstance(value, np.ndarray):
            made.setdefault(id(value), torch.from_numpy(value))
        if isinstance(name, str) and isinstance(value, Tensor | np.ndarray):
            named[name] = value if isinstance(value, Tensor) else made[id(value)]
    return named, wrapper
