"""Text embeddings on disk: a name goes through a text tower once, whichever process asks for it, and when.

A folder for each way of embedding, named by a digest of all that decides a name's vector: the tower's weights and what
they do not show, the sentences and the tokens that they become, and the kind of device. In it a file for each name, of
about 2 kB for vectors of 512 numbers and 3 kB for 768: safetensors with the name and a digest of the vector beside it.
At most `NAMES_MAX` names are kept in a folder, the last ones. Whatever lies there may be deleted at any time.
"""

import contextlib
import hashlib
import json
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import filelock
import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

logger = logging.getLogger(__name__)

VARIABLE = "OVSEG_TEXT_CACHE"
"""Environment variable with the folder, or "off" for none."""
OFF = "off"
NAMES_MAX = 50_000
_FORMAT = "1"
_LOCK_WAIT_S = 120.0


class TextCache:
    """Vectors of names in one folder; made by `user_cache`, or for a folder of one's own.

    A folder that cannot be written to is read as far as possible, and reported once. Files appear complete, under their
    names; one that is damaged all the same is reported, and counts as not there.

    Attributes:
        folder: Made when something is first written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._is_writable = True

    @contextlib.contextmanager
    def alone(self, space: str) -> Iterator[None]:
        """Keep other processes from embedding in the same space, so that they find these names when their turn comes.

        Where nothing can be locked, or another process takes minutes, the block runs all the same: two processes then
        may embed a name, and write the same.
        """
        lock = filelock.FileLock(self.folder / space / "lock")
        try:
            if self._is_writable:
                (self.folder / space).mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=_LOCK_WAIT_S)
        except filelock.Timeout:
            logger.info("text cache %s: held by another process for %.0f s, going on", self.folder, _LOCK_WAIT_S)
        except OSError as error:
            self._give_up_writing(error)
        try:
            yield
        finally:
            lock.release()

    def read(self, space: str, names: Sequence[str]) -> dict[str, Float[Tensor, "dim"]]:
        """Return the vectors of the names that are there, on the CPU."""
        found = {}
        for name in names:
            path = self._path(space, name)
            try:
                found[name] = _vector(path, name)
            except FileNotFoundError:
                continue
            except (OSError, ValueError, SafetensorError) as error:
                logger.warning("%s: the text embedding of %r is damaged (%s); it is made again", path, name, error)
        return found

    def write(self, space: str, vectors: Mapping[str, Float[Tensor, "dim"]]) -> None:
        """Keep vectors; those that are there are replaced. The oldest go where there are more than `NAMES_MAX`."""
        if not self._is_writable:
            return
        try:
            (self.folder / space).mkdir(parents=True, exist_ok=True)
            for name, vector in vectors.items():
                path = self._path(space, name)
                content = vector.cpu().contiguous()
                facts = {"name": name, "sha256": _digest(content)}
                # Written beside and renamed: no process ever reads half of a file.
                temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.tmp")
                temporary.write_bytes(save({"embedding": content}, metadata=facts))
                temporary.replace(path)
            self._drop_oldest(space)
        except OSError as error:
            self._give_up_writing(error)

    def _drop_oldest(self, space: str) -> None:
        paths = list((self.folder / space).glob("*.safetensors"))
        if len(paths) > NAMES_MAX:
            oldest = sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name))[: len(paths) - NAMES_MAX]
            for path in oldest:
                path.unlink(missing_ok=True)

    def _give_up_writing(self, error: OSError) -> None:
        self._is_writable = False
        logger.warning(
            "text cache %s: cannot be written to (%s), so names are embedded again next time; set %s to another "
            "folder, or to %s",
            *(self.folder, error, VARIABLE, OFF),
        )

    def _path(self, space: str, name: str) -> Path:
        return self.folder / space / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"


def user_cache() -> TextCache | None:
    """Return the cache that the environment asks for; by default that of the user, None where it is switched off.

    ``OVSEG_TEXT_CACHE`` is a folder or ``off``; else the folder is ``ovseg/text`` in ``XDG_CACHE_HOME``, or in
    ``~/.cache``. No home folder, no cache.
    """
    chosen = os.environ.get(VARIABLE, "").strip()
    if chosen.lower() == OFF:
        return None
    if chosen:
        return TextCache(Path(chosen).expanduser())
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        # As the XDG standard has it, a relative path there is ignored.
        root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    return TextCache(root / "ovseg" / "text")


def tower_structure(clip: nn.Module) -> str:
    """Return the digest of what a text tower's weights do not show: kinds of layers, heads, pooling, epsilons.

    It covers the kind and all plain numbers, words and truth values of each module outside the image tower.
    """
    kinds = [
        [
            name,
            f"{type(module).__module__}.{type(module).__qualname__}",
            module.extra_repr(),
            sorted(
                (key, repr(value))
                for key, value in vars(module).items()
                if not key.startswith("_") and key != "training" and isinstance(value, bool | int | float | str)
            ),
        ]
        for name, module in clip.named_modules()
        if name.split(".")[0] != "visual"
    ]
    return hashlib.sha256(json.dumps(kinds).encode()).hexdigest()


def space_of(tower: str, sentences: Sequence[str], tokens: Tensor, device: torch.device) -> str:
    """Return the name of the folder for a way of embedding.

    Args:
        tower: Digest of weights and structure.
        sentences: With ``{}`` for the name.
        tokens: What a tokenizer makes of these sentences: another one makes other tokens.
        device: Sums on a GPU differ from a CPU's by rounding, so each kind has vectors of its own.
    """
    how = [_FORMAT, tower, list(sentences), tokens.tolist(), device.type]
    return hashlib.sha256(json.dumps(how).encode()).hexdigest()[:32]


def _digest(vector: Float[Tensor, "dim"]) -> str:
    return hashlib.sha256(vector.numpy().tobytes()).hexdigest()


def _vector(path: Path, name: str) -> Float[Tensor, "dim"]:
    """Read a file, and check it.

    Raises:
        OSError: If it is not there or cannot be read.
        SafetensorError: If it is no such file.
        ValueError: If it is of another name, or of other bytes than were written.
    """
    with safe_open(path, framework="pt") as file:
        facts = file.metadata() or {}
        vector: Tensor = file.get_tensor("embedding")
    if facts.get("name") != name or vector.dtype != torch.float32 or facts.get("sha256") != _digest(vector):
        raise ValueError("its digest is another one")
    return vector
