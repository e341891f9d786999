"""A folder that is complete or not there."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to write to, which gets its name when the context is left without an error.

    Raises:
        FileExistsError: If there is something in the folder already.
    """
    require_new(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.parent / f".tmp-{folder.name}-{secrets.token_hex(4)}"
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def require_new(folder: Path) -> None:
    """Refuse a folder that has content, before work is done for it.

    Raises:
        FileExistsError: If there is something in the folder already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder}: is there already, a new folder is expected; choose another name or delete it")


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors and see that they reach the disk."""
    # Not save_file, whose files only their owner may read, whatever the umask.
    path.write_bytes(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}))
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file and see that it reaches the disk."""
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
