"""Label maps: PNG files of a data set's own values become PNG files of class indices, cheaply."""

import io
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts, refuse_too_large
from pipeline.prepare.png_structure import GREY, PALETTE, RGB, SIGNATURE, PngFacts, png_facts

Values = npt.NDArray[Any]
"""Values of a label file, [height width] uint8, uint16 or uint32."""

_OUTSIDE = -1


@dataclass(frozen=True, slots=True)
class LabelMap:
    """A label map as it is stored.

    Attributes:
        png: Greyscale PNG file of class indices, 8 or 16 bit as the ignore label needs.
        classes: Indices that occur, ascending, the ignore label left out.
        ignored_values: Values of the data set's file that became the ignore label, ascending.
    """

    png: bytes
    classes: tuple[int, ...]
    ignored_values: tuple[int, ...] = ()


class ClassTable:
    """Turns the values of 8- and 16-bit label files into class indices."""

    def __init__(
        self, indices: Mapping[int, int], *, ignore_label: int, ignored: frozenset[int], others_ignored: bool = False
    ) -> None:
        """Make the table.

        Args:
            indices: Value in the label file to class index.
            ignore_label: What pixels without a class become: 255 or 65535. It decides the depth of the result.
            ignored: Values that mean "no class".
            others_ignored: Whether any further value means "no class" too, or is a fault.
        """
        self.ignore_label = ignore_label
        self._index_of = np.full(65536, ignore_label if others_ignored else _OUTSIDE, np.int32)
        self._index_of[list(ignored)] = ignore_label
        self._index_of[list(indices)] = list(indices.values())
        self._stored = self._index_of.astype(index_dtype(ignore_label))

    def label_map(self, values: Values, original_png: bytes | None = None) -> LabelMap:
        """Convert a label file's values.

        Args:
            values: [height width], uint8 or uint16.
            original_png: The file they come from, if it is a greyscale PNG; it is kept as it is where every value
                is its own index and the depth is right.

        Raises:
            SceneFault: ``label_outside_vocabulary``.
        """
        present = present_values(values)
        indices = self._index_of[present]
        if (indices == _OUTSIDE).any():
            odd = present[indices == _OUTSIDE]
            found = f"{', '.join(str(value) for value in odd[:5])}{' ...' if len(odd) > 5 else ''}"
            raise SceneFault("label_outside_vocabulary", f"the label holds {found}, which is no class's value")
        classes = tuple(int(index) for index in np.unique(indices) if index != self.ignore_label)
        ignored = tuple(present[indices == self.ignore_label].tolist())
        if original_png is not None and values.dtype == self._stored.dtype and (indices == present).all():
            return LabelMap(original_png, classes, ignored)
        return LabelMap(encode_png(self._stored.take(values)), classes, ignored)


def index_dtype(ignore_label: int) -> npt.DTypeLike:
    """Return the depth of label maps with that ignore label."""
    return np.uint8 if ignore_label == 255 else np.uint16


def read_index_png(data: bytes, image: ImageFacts, *, max_image_px: int) -> tuple[Values, bool]:
    """Decode a label PNG of class values: palette indices (the palette itself means nothing) or grey.

    Returns:
        Values [height width], uint8 or uint16, and whether the file is greyscale.

    Raises:
        SceneFault: If it is broken, of another kind, or of another size than the image.
    """
    facts = _label_facts(data, image, max_image_px)
    grey = facts.colour_type == GREY and facts.bit_depth in {8, 16}  # of fewer bits, decoders would stretch the values
    if not grey and facts.colour_type != PALETTE:
        reason = f"PNG of colour type {facts.colour_type}, {facts.bit_depth} bits; expected palette, or grey of 8 or 16"
        raise SceneFault("label_mode_unsupported", reason)
    values = _decode(data)
    return values.astype(np.uint16 if facts.bit_depth == 16 else np.uint8, copy=False), grey


def read_rgb_png(data: bytes, image: ImageFacts, *, max_image_px: int) -> npt.NDArray[np.uint8]:
    """Decode a label PNG whose three channels together hold a number.

    Returns:
        [height width 3].

    Raises:
        SceneFault: If it is broken, of another kind, or of another size than the image.
    """
    facts = _label_facts(data, image, max_image_px)
    if facts.colour_type != RGB or facts.bit_depth != 8:
        reason = f"PNG of colour type {facts.colour_type}, {facts.bit_depth} bits; expected RGB of 8 bits"
        raise SceneFault("label_mode_unsupported", reason)
    return _decode(data)


def check_size(width_px: int, height_px: int, image: ImageFacts) -> None:
    """Refuse a label that does not lie on its image pixel by pixel; EXIF orientation is not applied to either.

    Raises:
        SceneFault: ``label_size_mismatch``.
    """
    if (width_px, height_px) != (image.width_px, image.height_px):
        turned = ", turned by EXIF" if image.exif_orientation > 4 else ""
        reason = f"the label has {width_px} x {height_px} px, the image {image.width_px} x {image.height_px}{turned}"
        raise SceneFault("label_size_mismatch", reason)


def present_values(values: Values) -> npt.NDArray[np.int64]:
    """Return the distinct values of an 8- or 16-bit map, ascending."""
    seen = np.zeros(65536, bool)  # marking all values costs less than sorting them, as np.unique does
    seen[values] = True
    return np.flatnonzero(seen)


def encode_png(values: Values) -> bytes:
    """Encode a map as a greyscale PNG of 8 or 16 bits.

    Regions are flat and borders mostly upright, so each row less the one above is nearly all zeros, which run-length
    matching at the lowest level packs as small as a full search does, in a fifth of the time.

    Args:
        values: [height width], uint8 or uint16.
    """
    height, width = values.shape
    # [height bytes]: PNG's 16-bit samples are big-endian.
    samples = values.astype(">u2", order="C").view(np.uint8) if values.dtype == np.uint16 else values
    rows = np.empty((height, samples.shape[1] + 1), np.uint8)
    rows[:, 0] = 2  # the filter "up"
    rows[0, 1:] = samples[0]
    np.subtract(samples[1:], samples[:-1], out=rows[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    header = struct.pack(">IIBBBBB", width, height, 8 * values.itemsize, GREY, 0, 0, 0)
    pixels = packer.compress(rows.tobytes()) + packer.flush()
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    """Wrap the body of a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _label_facts(data: bytes, image: ImageFacts, max_image_px: int) -> PngFacts:
    """Check a label PNG's structure and size."""
    if not data.startswith(SIGNATURE):
        raise SceneFault("label_unreadable", f"the label starts with {data[:8].hex(' ')!r}, expected a PNG")
    try:
        facts = png_facts(data)
    except SceneFault as fault:
        raise SceneFault("label_unreadable", f"the label's {fault.reason}") from fault
    refuse_too_large(facts.width_px, facts.height_px, max_image_px)
    check_size(facts.width_px, facts.height_px, image)
    return facts


def _decode(data: bytes) -> npt.NDArray[Any]:
    """Decode a PNG whose structure is known to be sound."""
    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as png:
            return np.asarray(png)
    except (OSError, SyntaxError, ValueError, zlib.error, struct.error) as error:
        raise SceneFault("label_unreadable", f"the label cannot be decoded: {error}") from error
