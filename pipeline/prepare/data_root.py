"""Files of a data set: found, listed and read below its root, and nowhere else."""

import contextlib
import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.errors import PipelineError
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import IMAGE_ENDINGS, ImageFacts, stored_image
from storage_schemas.scenes import Caption, Scene
from storage_schemas.tars import KEY

_BYTES_PER_PIXEL = 8
_HEADER_ROOM_BYTES = 1 << 20
_NAME_BYTES, _PATH_BYTES = 255, 3500  # of file systems; a path also has the root in front


class LayoutError(PipelineError):
    """A data set's directory is not in the layout that its reader expects."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known of a scene beside its picture; see ``Scene`` for the fields."""

    label_png: bytes | None = None
    instances_png: bytes | None = None
    classes: tuple[int, ...] = ()
    captions: tuple[Caption, ...] = ()
    ignored_values: tuple[int, ...] = ()


@dataclass(slots=True)
class AccessedPaths:
    """Paths of a data set that decided what was found in it: if one changes, that may change, too.

    Attributes:
        directories: Those whose entries were listed.
        files: Those that were read, or whose presence, size or times were asked for; directories where only their
            presence was.
    """

    directories: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class DataRoot:
    """The directory of a data set. All paths are relative to it, with ``/``.

    Attributes:
        name: The data set's name, for messages.
        max_image_px: Width times height that an image or label may have at most [px].
        accessed: By all methods but ``path``, ``read`` and ``scene``.
    """

    name: str
    directory: Path
    max_image_px: int
    accessed: AccessedPaths = field(default_factory=AccessedPaths, repr=False, compare=False)
    _safe_parents: dict[str, bool] = field(default_factory=dict, repr=False, compare=False)

    def path(self, relative: str) -> Path:
        """Return the path of a file below the root.

        Raises:
            SceneFault: ``path_outside_root`` if the path leaves the root, also by a symbolic link; ``path_impossible``
                if the file system has no such paths.
        """
        parts = PurePosixPath(relative)
        path = self.directory / relative
        odd_parts = any(part in relative for part in ("//", "\\", "\0"))
        if parts.is_absolute() or ".." in parts.parts or odd_parts:
            raise SceneFault("path_outside_root", f"the path {shortened(relative)} is not one below the root")
        parent = str(parts.parent)
        try:
            if parent not in self._safe_parents:
                self._safe_parents[parent] = self._is_inside(path.parent)
            if not self._safe_parents[parent] or (path.is_symlink() and not self._is_inside(path)):
                reason = f"{relative} leads to {path.resolve()}, outside the root {self.directory}"
                raise SceneFault("path_outside_root", reason)
            # Found without asking the disk, as this is done for each of 100,000 files.
            if max(map(len, map(os.fsencode, parts.parts)), default=0) > _NAME_BYTES or len(relative) > _PATH_BYTES:
                raise SceneFault("path_impossible", f"{shortened(relative)}: File name too long")
        except (OSError, ValueError) as error:  # a name that is too long, a lone surrogate, a loop of links
            found = getattr(error, "strerror", None) or error
            raise SceneFault("path_impossible", f"{shortened(relative)}: {found}") from error
        return path

    def read(self, relative: str, missing: str) -> bytes:
        """Read a whole file.

        Args:
            missing: Slug of the fault if it is not there.

        Raises:
            SceneFault: If it is not there, cannot be read, leaves the root, or is longer than any allowed picture.
        """
        path = self.path(relative)
        limit = self.max_image_px * _BYTES_PER_PIXEL + _HEADER_ROOM_BYTES
        unreadable = "label_unreadable" if missing.startswith("label") else "image_unreadable"
        try:
            # Opening a pipe would wait for a writer forever, opening a device may do anything: check first.
            mode = path.stat().st_mode
            if not stat.S_ISREG(mode):
                kinds = {stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a directory", stat.S_IFSOCK: "a socket"}
                kind = kinds.get(stat.S_IFMT(mode), "a device")
                raise SceneFault(unreadable, f"{relative} is {kind}, expected a regular file")
            with path.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes > limit:
                    reason = f"{relative} has {size_bytes} bytes, more than max_image_px = {self.max_image_px} can need"
                    raise SceneFault("image_too_large", reason)
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            raise SceneFault(missing, f"{relative} is not there") from None
        except OSError as error:
            raise SceneFault(unreadable, f"{relative} cannot be read: {error.strerror}") from error

    def required(self, relative: str, hint: str) -> Path:
        """Return the path of a file or directory without which nothing can be done.

        Args:
            hint: What to do if it is not there.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        self.accessed.files.add(relative)
        try:
            path = self.path(relative)
        except SceneFault as fault:
            raise LayoutError(
                f"{self.name}: {fault.reason}; give the directory that holds the files themselves as --root"
            ) from fault
        if not path.exists():
            raise LayoutError(f"{self.name}: {self.directory} has no {relative}; {hint}")
        return path

    def has(self, relative: str) -> bool:
        """Return whether a file or directory is there.

        Raises:
            SceneFault: As for ``path``.
        """
        self.accessed.files.add(relative)
        return self.path(relative).exists()

    def names(self, directory: str, endings: tuple[str, ...] = IMAGE_ENDINGS, *, hint: str) -> list[str]:
        """List what a directory holds, in order, by its endings in any case; hidden names are left out.

        A directory or pipe with such an ending is listed as well: reading it is a fault that names it.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        path = self._directory(directory, hint)
        self.accessed.directories.add(directory)
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if not entry.name.startswith(".")]
        return sorted(name for name in names if name.lower().endswith(endings))

    def tree(self, directory: str, *, hint: str) -> list[str]:
        """List all files of a directory and of those below it, relative to it, in order; hidden names are left out.

        A directory whose name ends as a picture's does is listed, not entered. Links to directories are not followed.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        found = []
        for below, inner, names in self.walk(directory, hint=hint):
            prefix = f"{below}/" if below else ""
            found += [f"{prefix}{name}" for name in names if not name.startswith(".")]
            found += [f"{prefix}{name}" for name in inner if name.lower().endswith(IMAGE_ENDINGS)]
            inner[:] = [name for name in inner if not name.startswith(".") and not name.lower().endswith(IMAGE_ENDINGS)]
        return sorted(found)

    def walk(self, directory: str, *, hint: str) -> Iterator[tuple[str, list[str], list[str]]]:
        """Go through a directory and those below it, as ``os.walk`` does: what is taken from ``inner`` is not entered.

        Yields:
            Path below ``directory`` (empty for itself), names of the directories there, names of all else.

        Raises:
            LayoutError: If it is not there, or leaves the root.
        """
        top = self._directory(directory, hint)
        for place, inner, names in os.walk(top):
            below = "" if place == str(top) else os.path.relpath(place, top).replace(os.sep, "/")
            self.accessed.directories.add(f"{directory}/{below}".removesuffix("/"))
            yield below, inner, names

    def those_there(self, relatives: Iterable[str | None]) -> list[str]:
        """Return the paths at which there is a file."""
        there = []
        for relative in relatives:
            with contextlib.suppress(SceneFault):  # reading it is the fault of its scene
                if relative and self.has(relative):
                    there.append(relative)
        return there

    def _directory(self, directory: str, hint: str) -> Path:
        path = self.required(directory, hint)
        if not path.is_dir():
            raise LayoutError(f"{self.name}: {path} is a file, expected a directory; {hint}")
        return path

    def text_lines(self, relative: str, hint: str) -> list[str]:
        """Read a UTF-8 list file: lines with blanks at both ends removed; a line ends at a line feed alone.

        Raises:
            LayoutError: If it is not there, leaves the root, or is not UTF-8.
        """
        path = self.required(relative, hint)
        try:
            text = path.read_bytes().decode("utf-8-sig")
            return [line.strip() for line in text.removesuffix("\n").split("\n")] if text else []
        except UnicodeDecodeError as error:
            raise LayoutError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from error

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
            image, facts = stored_image(self.read(source_path, "image_missing"), max_image_px=self.max_image_px)
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
            ignored_values=annotations.ignored_values,
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


def composed(name: str) -> str:
    """Return a file name in Unicode's composed form: file systems and archives differ in how they write an umlaut."""
    return unicodedata.normalize("NFC", name)


def shortened(path: str) -> str:
    """Quote a path for a message, the middle of a long one left out."""
    return repr(path if len(path) <= 120 else f"{path[:60]}...{path[-40:]}")


def printable(text: str) -> str:
    """Replace what UTF-8 cannot encode (bytes of a file name that are no text) so that the text can be stored."""
    return text.encode("utf-8", "backslashreplace").decode()


def text_digest(value: Any) -> str:
    """Return the sha256 of a value's JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
