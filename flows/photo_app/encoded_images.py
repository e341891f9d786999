"""A memory of encoded photographs, so that other names for the same photograph cost no image model."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from ovseg_models.encoding import EncodedImage
from ovseg_models.segmenter import Segmenter

_BYTES_PER_PIXEL = 3


class Remembered(NamedTuple):
    """An encoded photograph, and whether it was there already."""

    encoded: EncodedImage
    was_kept: bool


class EncodedImages:
    """Encodes photographs and keeps those asked for last.

    They are known by their pixels, so users who bring the same photograph share one and those who bring others never
    meet. Threads may ask at once: the nets see one photograph after the other, so that each is encoded only once and
    the nets' memory is needed only once. Nobody waits for the nets who asks for a photograph that is kept.

    Args:
        limit_bytes: What all kept photographs may take together. The latest one is kept even if it alone takes more.
    """

    def __init__(self, segmenter: Segmenter, *, limit_bytes: int) -> None:
        self._segmenter = segmenter
        self._limit_bytes = limit_bytes
        self._nets = threading.Lock()
        self._lock = threading.Lock()  # of what is kept; never held while a net runs
        self._kept: OrderedDict[str, EncodedImage] = OrderedDict()  # the one asked for last is the last

    def encoded(self, photograph: Image.Image, begun: Callable[[], object] | None = None) -> Remembered:
        """Return a photograph encoded, from memory if it is there.

        Args:
            photograph: RGB.
            begun: Is called when the nets are free and begin with it.
        """
        key = hashlib.sha256(f"{photograph.size}".encode() + photograph.tobytes()).hexdigest()
        if (known := self._known(key)) is not None:
            return Remembered(known, True)
        with self._nets:
            if (known := self._known(key)) is not None:  # somebody else's, while this one waited
                return Remembered(known, True)
            if begun is not None:
                begun()
            found = self._segmenter.encode(photograph)
            _ = found.mask_extents  # whatever names are asked for, they are needed
            with self._lock:
                self._kept[key] = found
                while len(self._kept) > 1 and self.size_bytes() > self._limit_bytes:
                    self._kept.popitem(last=False)  # the longest unused
        return Remembered(found, False)

    def _known(self, key: str) -> EncodedImage | None:
        """Return a kept photograph, which becomes the one asked for last."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def __len__(self) -> int:
        return len(self._kept)

    def size_bytes(self) -> int:
        """Return what the kept photographs take."""
        return sum(map(encoded_bytes, self._kept.values()))


def encoded_bytes(encoded: EncodedImage) -> int:
    """Return the memory of an encoded image: its pixels and its tensors, CLIP's and one pass's if they were made."""
    held = vars(encoded)
    tensors = [part for part in (*held.values(), *held.get("regions", ())) if isinstance(part, Tensor)]
    # The picture at its own size, and at the size at which CLIP's crops are cut.
    pixels = encoded.image.width * encoded.image.height + encoded.net_size[0] * encoded.net_size[1]
    seen = 0 if encoded.seen is None else encoded.seen.nbytes
    return seen + sum(tensor.nbytes for tensor in tensors) + pixels * _BYTES_PER_PIXEL
