"""What a data set must offer so that it can be prepared: keys in a fixed order, and one scene per key."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.prepare.vocabulary import Vocabulary
from storage_schemas.scenes import Scene


class SceneSource(Protocol):
    """A data set in its official layout, seen as a list of scenes.

    A source is opened once per worker. ``keys`` and ``identity`` open no image; ``scene`` opens one.
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

    def identity(self) -> Mapping[str, str | int | bool]:
        """Return what decides the result besides the settings, as digests of annotation files and of the image listing.

        No path or clock: the same data under another root has the same identity.
        """
        ...

    def scene(self, key: str) -> Scene:
        """Read one scene. A bad input is not an exception but a scene with ``status`` and ``reason``."""
        ...
