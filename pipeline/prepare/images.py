"""The check of an image file's bytes, and what is recorded of it. No pixel is decoded."""

from dataclasses import dataclass
from typing import Literal

from pipeline.prepare import jpeg_structure, png_structure
from pipeline.prepare.faults import SceneFault

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png")
"""Endings of file names, in lower case, that are taken for images; the bytes decide what the file is."""

_ORIENTATION_TAG = 274
_ENTRY_BYTES = 12
_JPEG_COLOURS: dict[int, Literal["grey", "rgb", "cmyk"]] = {1: "grey", 3: "rgb", 4: "cmyk"}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is recorded of an image file.

    Attributes:
        suffix: ``"jpg"`` or ``"png"``, from the bytes.
        width_px: Width as stored, EXIF orientation not applied.
        height_px: Height, likewise.
        exif_orientation: 1 to 8; 1 without EXIF or where its value is none of these.
        colours: What the file holds. Readers convert all of them to RGB.
    """

    suffix: Literal["jpg", "png"]
    width_px: int
    height_px: int
    exif_orientation: int
    colours: Literal["grey", "rgb", "cmyk", "palette"]


def inspect_image(data: bytes, *, max_image_px: int) -> ImageFacts:
    """Check an image file's bytes from end to end and read its header.

    Args:
        data: The whole file.
        max_image_px: Width times height that is allowed at most [px].

    Raises:
        SceneFault: If it cannot be used; see the faults that start with ``image_``.
    """
    if data.startswith(jpeg_structure.SIGNATURE):
        jpeg = jpeg_structure.jpeg_facts(data)
        orientation = exif_orientation(jpeg.exif)
        facts = ImageFacts("jpg", jpeg.width_px, jpeg.height_px, orientation, _JPEG_COLOURS[jpeg.channels])
    elif data.startswith(png_structure.SIGNATURE):
        facts = _png_image(png_structure.png_facts(data))
    else:
        found = f"starts with {data[:8].hex(' ')}" if data else "is empty"
        raise SceneFault("image_unreadable", f"the file {found}, wanted a JPEG or PNG")
    refuse_too_large(facts.width_px, facts.height_px, max_image_px)
    return facts


def refuse_too_large(width_px: int, height_px: int, max_image_px: int) -> None:
    """Stop a decompression bomb before it is decoded.

    Raises:
        SceneFault: ``image_too_large``.
    """
    if width_px * height_px > max_image_px:
        reason = f"{width_px} x {height_px} px, at most {max_image_px} px are allowed (max_image_px)"
        raise SceneFault("image_too_large", reason)


def exif_orientation(exif: bytes) -> int:
    """Read tag 274 of an EXIF block; 1 if there is none, or nothing that means an orientation.

    Args:
        exif: The block, with or without ``Exif`` and two zero bytes in front; may be empty or broken.
    """
    block = exif.removeprefix(b"Exif\0\0")
    order: Literal["little", "big"] = "little" if block.startswith(b"II") else "big"
    first = int.from_bytes(block[4:8], order)
    entries = int.from_bytes(block[first : first + 2], order)
    for start in range(first + 2, min(first + 2 + _ENTRY_BYTES * entries, len(block)), _ENTRY_BYTES):
        if int.from_bytes(block[start : start + 2], order) == _ORIENTATION_TAG:
            value = int.from_bytes(block[start + 8 : start + 10], order)  # a 16-bit number, by the standard
            return value if 1 <= value <= 8 else 1
    return 1


def _png_image(facts: png_structure.PngFacts) -> ImageFacts:
    """Turn a PNG's facts into an image's; 16-bit grey is refused, since converting it to 8 bit clips."""
    if facts.bit_depth == 16 and facts.colour_type == png_structure.GREY:
        raise SceneFault("image_mode_unsupported", "PNG of 16-bit grey, wanted 8 bits a channel")
    colours: Literal["grey", "rgb", "palette"] = "rgb"
    if facts.colour_type == png_structure.PALETTE:
        colours = "palette"
    elif facts.colour_type in {png_structure.GREY, png_structure.GREY_ALPHA}:
        colours = "grey"
    return ImageFacts("png", facts.width_px, facts.height_px, exif_orientation(facts.exif), colours)
