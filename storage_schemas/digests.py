"""Digests: canonical JSON for settings, sha256 for files."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as encode_string
from pathlib import Path
from typing import TypeAlias

SEAL = "document_digest"

Json: TypeAlias = "str | int | float | bool | None | Sequence[Json] | Mapping[str, Json]"


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a sidecar states of one file.

    Attributes:
        name: File name inside the artifact's directory.
        size_bytes: Length of the file.
        sha256: Lower-case hexadecimal digest of the file's bytes.
    """

    name: str
    size_bytes: int
    sha256: str


def canonical_json(value: Json) -> bytes:
    """Encode a JSON value so that equal values give equal bytes: sorted keys, no blanks, UTF-8.

    Raises:
        ValueError: If the value holds NaN or an infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def readable_json(value: Json) -> bytes:
    """Encode a JSON value to be read: sorted keys, two blanks of indent, a newline at the end.

    The bytes are those of ``json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False)``, which is written in
    Python, too, and takes several times as long; a scan of an artifact encodes each of its sidecars.

    Raises:
        ValueError: If the value holds NaN or an infinity, which JSON does not have.
    """
    return f"{_indented(value, chr(10))}\n".encode()


def _indented(value: Json, line_break: str) -> str:
    """Encode a JSON value whose lines begin with what follows the newline in ``line_break``."""
    if isinstance(value, str):
        return encode_string(value)
    inner = f"{line_break}  "
    if isinstance(value, dict):
        names = {key: encode_string(key if isinstance(key, str) else json.dumps(key)) for key in sorted(value)}
        items = [f"{name}: {_indented(value[key], inner)}" for key, name in names.items()]
        return f"{{{inner}{f',{inner}'.join(items)}{line_break}}}" if items else "{}"
    if isinstance(value, list | tuple):
        entries = [_indented(entry, inner) for entry in value]
        return f"[{inner}{f',{inner}'.join(entries)}{line_break}]" if entries else "[]"
    if type(value) is int:
        return repr(value)
    return json.dumps(value, allow_nan=False)


def sealed_json(document: Mapping[str, Json]) -> bytes:
    """Encode a JSON object to be read, with the digest of all of it under ``document_digest``.

    A file of these bytes shows every change to it: to a value by the digest, to the white space by encoding it again.
    """
    return readable_json({**document, SEAL: sha256_of_json(document)})


def sha256_of_json(value: Json) -> str:
    """Return the hexadecimal sha256 of a JSON value's canonical encoding."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal sha256 of a file's bytes.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
