"""What a data set must offer so that it can be prepared: keys in a fixed order, and one scene per key."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.prepare.data_root import AccessedPaths
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.vocabulary import Vocabulary
from storage_schemas.scenes import Scene


@dataclass(frozen=True, slots=True)
class PassedOver:
    """What preparation does not use.

    Attributes:
        count: How many files or scenes.
        example: One of them.
        reason: Why.
    """

    count: int
    example: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is in a data set, as far as its lists and annotations say.

    Attributes:
        labels: Label files, or pictures with an annotation that gives a label.
        captions: Captions; None if their number is known only when scenes are made.
        passed_over: Files that belong to no scene.
        no_label_used: Why no picture has any of the labels that are there or asked for; empty where one has.
        notes: What else is worth knowing of how files were understood.
    """

    pictures: int
    labels: int = 0
    captions: int | None = 0
    passed_over: tuple[PassedOver, ...] = ()
    no_label_used: str = ""
    notes: tuple[str, ...] = ()


class SceneSource(Protocol):
    """A data set in its official layout, seen as a list of scenes.

    A source is opened once per worker, and once to plan unless its files are known to be unchanged. ``keys`` and
    ``identity`` open no image; ``scene`` opens one.
    """

    @property
    def vocabulary(self) -> Vocabulary:
        """Class names in index order; empty for a data set without labels."""
        ...

    @property
    def ignore_label(self) -> int:
        """Value of pixels without a class: 255 in 8-bit label maps, 65535 in 16-bit ones."""
        ...

    @property
    def licence(self) -> str:
        """Licence or terms of the data, one line, for data cards."""
        ...

    def keys(self) -> Sequence[str]:
        """Return the scene keys in the order in which they are stored: sorted, without repeats."""
        ...

    @property
    def accessed(self) -> AccessedPaths:
        """Paths that the source and the digests of its files have accessed so far."""
        ...

    def identity(self, digests: FileDigests, keys: Sequence[str]) -> Mapping[str, str | int | bool]:
        """Return what decides some scenes besides the settings, as digests of text files, labels and the image listing.

        No path or clock: the same data under another root has the same identity.

        Args:
            digests: Digests of the data set's files.
            keys: Of the scenes; files of no other scene are read.
        """
        ...

    def found(self) -> Found:
        """Return what is there; opens no picture."""
        ...

    def scene(self, key: str) -> Scene:
        """Read one scene. A bad input is not an exception but a scene with ``status`` and ``reason``."""
        ...
