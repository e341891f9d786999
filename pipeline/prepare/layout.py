"""Files of a data set: found, listed and read below its root, and nowhere else."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import IMAGE_ENDINGS, ImageFacts, inspect_image
from storage_schemas.scenes import Caption, Scene
from storage_schemas.tars import KEY

_BYTES_PER_PIXEL = 8
_HEADER_ROOM_BYTES = 1 << 20


class LayoutError(PipelineError):
    """A data set's directory does not look as its layout says."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known of a scene beside its picture; see ``Scene`` for the fields."""

    label_png: bytes | None = None
    instances_png: bytes | None = None
    classes: tuple[int, ...] = ()
    captions: tuple[Caption, ...] = ()


@dataclass(frozen=True)
class DataRoot:
    """The directory of a data set. All paths are relative to it, with ``/``.

    Attributes:
        name: The data set's name, for messages.
        directory: The root.
        max_image_px: Width times height that an image or label may have at most [px].
    """

    name: str
    directory: Path
    max_image_px: int
    _safe_parents: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    def path(self, relative: str) -> Path:
        """Return the path of a file below the root.

        Raises:
            SceneFault: ``path_outside_root`` if the path leaves the root, also by a symbolic link.
        """
        parts = PurePosixPath(relative)
        path = self.directory / relative
        odd_parts = any(part in relative for part in ("//", "\\", "\0"))
        if parts.is_absolute() or ".." in parts.parts or odd_parts:
            raise SceneFault("path_outside_root", f"the path {relative!r} is not one below the root")
        parent = str(parts.parent)
        if parent not in self._safe_parents:
            self._safe_parents[parent] = self._is_inside(path.parent)
        if not self._safe_parents[parent] or (path.is_symlink() and not self._is_inside(path)):
            reason = f"{relative} leads to {path.resolve()}, outside the root {self.directory}"
            raise SceneFault("path_outside_root", reason)
        return path

    def read(self, relative: str, missing: str) -> bytes:
        """Read a whole file.

        Args:
            relative: Its path.
            missing: Slug of the fault if it is not there.

        Raises:
            SceneFault: If it is not there, cannot be read, leaves the root, or is longer than any allowed picture.
        """
        path = self.path(relative)
        limit = self.max_image_px * _BYTES_PER_PIXEL + _HEADER_ROOM_BYTES
        try:
            with path.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes > limit:
                    reason = f"{relative} has {size_bytes} bytes, more than max_image_px = {self.max_image_px} can need"
                    raise SceneFault("image_too_large", reason)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise SceneFault(missing, f"{relative} is not there") from None
        except OSError as error:
            slug = "label_unreadable" if missing.startswith("label") else "image_unreadable"
            raise SceneFault(slug, f"{relative} cannot be read: {error.strerror}") from error

    def read_if_there(self, relative: str) -> bytes | None:
        """Read a whole label file, None if there is none.

        Raises:
            SceneFault: If it cannot be read, leaves the root, or is longer than any allowed picture.
        """
        try:
            return self.read(relative, "label_missing")
        except SceneFault as fault:
            if fault.slug == "label_missing":
                return None
            raise

    def required(self, relative: str, hint: str) -> Path:
        """Return the path of a file or directory without which nothing can be done.

        Args:
            relative: Its path.
            hint: What to do if it is not there.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        try:
            path = self.path(relative)
        except SceneFault as fault:
            message = f"{self.name}: {fault.reason}; give the directory that holds the files themselves as --root"
            raise LayoutError(message) from fault
        if not path.exists():
            message = f"{self.name}: {self.directory} has no {relative}; {hint}"
            raise LayoutError(message)
        return path

    def names(self, directory: str, endings: tuple[str, ...] = IMAGE_ENDINGS, *, hint: str) -> list[str]:
        """List the files of a directory, in order, by their endings in any case; hidden ones are left out.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        path = self.required(directory, hint)
        if not path.is_dir():
            message = f"{self.name}: {path} is a file, a directory is wanted; {hint}"
            raise LayoutError(message)
        with os.scandir(path) as entries:
            return sorted(
                entry.name
                for entry in entries
                if entry.name.lower().endswith(endings) and not entry.name.startswith(".") and not entry.is_dir()
            )

    def text_lines(self, relative: str, hint: str) -> list[str]:
        """Read a UTF-8 list file: lines with blanks at both ends removed.

        Raises:
            LayoutError: If it is not there, leaves the root, or is not UTF-8.
        """
        path = self.required(relative, hint)
        try:
            return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
        except UnicodeDecodeError as error:
            message = f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
            raise LayoutError(message) from error

    def file_digest(self, relative: str) -> str:
        """Return the sha256 of a file that is known to be there."""
        with self.path(relative).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def listing_digest(self, relatives: Iterable[str]) -> str:
        """Return the sha256 of names and sizes of files, which stands for their content; absent ones have size -1."""
        digest = hashlib.sha256()
        for relative in sorted(relatives):
            try:
                size_bytes = self.path(relative).stat().st_size
            except (OSError, SceneFault):
                size_bytes = -1
            digest.update(f"{relative}\0{size_bytes}\0".encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def scene(self, key: str, image_id: str, source_path: str, annotate: Callable[[ImageFacts], Annotations]) -> Scene:
        """Read and check one image and what belongs to it; whatever is wrong becomes the scene's status.

        Args:
            key: Key of the scene.
            image_id: The data set's own id.
            source_path: Path of the image file.
            annotate: Called with the image's facts, to read the rest.
        """
        facts: ImageFacts | None = None
        try:
            image = self.read(source_path, "image_missing")
            facts = inspect_image(image, max_image_px=self.max_image_px)
            annotations = annotate(facts)
        except SceneFault as fault:
            return failed_scene(key, image_id, source_path, fault, facts)
        return Scene(
            key=key,
            image_id=image_id,
            image=image,
            image_suffix=facts.suffix,
            width_px=facts.width_px,
            height_px=facts.height_px,
            exif_orientation=facts.exif_orientation,
            label_png=annotations.label_png,
            instances_png=annotations.instances_png,
            classes=annotations.classes,
            captions=annotations.captions,
            source_path=printable(source_path),
        )

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.directory.resolve())


def failed_scene(
    key: str, image_id: str, source_path: str, fault: SceneFault, facts: ImageFacts | None = None
) -> Scene:
    """Make the row of a scene that cannot be used."""
    return Scene(
        key=key,
        image_id=printable(image_id),
        image=b"",
        image_suffix=facts.suffix if facts else "",
        width_px=facts.width_px if facts else 0,
        height_px=facts.height_px if facts else 0,
        exif_orientation=facts.exif_orientation if facts else 1,
        source_path=printable(source_path),
        status=fault.slug,
        reason=printable(fault.reason),
    )


def scene_key(stem: str) -> str:
    """Return the key of an image: its file stem, or where that holds other characters or is long, a readable stand-in.

    The stand-in ends in a digest of the stem, so different stems have different keys.
    """
    if KEY.fullmatch(stem):
        return stem
    digest = hashlib.sha256(stem.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{re.sub(r'[^A-Za-z0-9_-]', '_', stem)[:60]}-{digest}"


def printable(text: str) -> str:
    """Replace what UTF-8 cannot encode (bytes of a file name that are no text) so that the text can be stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_digest(value: Any) -> str:
    """Return the sha256 of a value's JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
