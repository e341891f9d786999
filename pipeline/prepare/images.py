"""The check of an image file's bytes, and what is recorded of it.

JPEG, PNG and WebP are kept as they are; what else Pillow reads is kept as a PNG of the same pixels. No pixel of a JPEG
or PNG is decoded.
"""

import io
from dataclasses import dataclass
from typing import Literal

from PIL import Image, UnidentifiedImageError

from pipeline.prepare import jpeg_structure, png_structure
from pipeline.prepare.faults import SceneFault

IMAGE_ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"),
    *(".tif", ".tiff", ".bmp", ".dib", ".gif", ".jp2", ".j2k", ".avif", ".ppm", ".pgm", ".pbm", ".pnm"),
)
"""Endings of file names, in lower case, that are taken for images; the bytes decide what the file is."""

_CONVERTED = ("TIFF", "BMP", "DIB", "GIF", "JPEG2000", "AVIF", "PPM")
"""Pillow's names of the formats that become PNG. Each begins with a signature of its own."""

_PNG_MODES: dict[str, Literal["grey", "rgb", "palette"]] = {
    "1": "grey",
    "L": "grey",
    "LA": "grey",
    "P": "palette",
    "PA": "palette",
    "RGB": "rgb",
    "RGBA": "rgb",
}
"""Pillow's modes of which a PNG holds each pixel, and what ``ImageFacts.colours`` calls them."""

_DECODE_ERRORS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning)

_ORIENTATION_TAG = 274
_ENTRY_BYTES = 12
_PNG_COLOURS: dict[int, Literal["grey", "rgb", "palette"]] = {
    png_structure.GREY: "grey",
    png_structure.GREY_ALPHA: "grey",
    png_structure.PALETTE: "palette",
    png_structure.RGB: "rgb",
    png_structure.RGB_ALPHA: "rgb",
}
_JPEG_COLOURS: dict[int, Literal["grey", "rgb", "cmyk"]] = {1: "grey", 3: "rgb", 4: "cmyk"}


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is recorded of an image file.

    Attributes:
        suffix: ``"jpg"``, ``"png"`` or ``"webp"``, from the bytes.
        width_px: Width as stored, EXIF orientation not applied.
        height_px: Height, likewise.
        exif_orientation: 1 to 8; 1 without EXIF or where its value is none of these.
        colours: What the file holds. Readers convert all of them to RGB.
    """

    suffix: Literal["jpg", "png", "webp"]
    width_px: int
    height_px: int
    exif_orientation: int
    colours: Literal["grey", "rgb", "cmyk", "palette"]


def stored_image(data: bytes, *, max_image_px: int) -> tuple[bytes, ImageFacts]:
    """Return the bytes to store of an image file, and what is recorded of them.

    Args:
        max_image_px: Width times height that is allowed at most [px].

    Raises:
        SceneFault: If it cannot be used; see the faults that start with ``image_``.
    """
    if not data.startswith((jpeg_structure.SIGNATURE, png_structure.SIGNATURE)) and data[8:12] != b"WEBP":
        data = _as_png(data, max_image_px)
    return data, inspect_image(data, max_image_px=max_image_px)


def inspect_image(data: bytes, *, max_image_px: int) -> ImageFacts:
    """Check the bytes of a JPEG, PNG or WebP file from end to end and read its header.

    Args:
        max_image_px: Width times height that is allowed at most [px].

    Raises:
        SceneFault: If it cannot be used; see the faults that start with ``image_``.
    """
    if data.startswith(jpeg_structure.SIGNATURE):
        jpeg = jpeg_structure.jpeg_facts(data)
        orientation = exif_orientation(jpeg.exif)
        facts = ImageFacts("jpg", jpeg.width_px, jpeg.height_px, orientation, _JPEG_COLOURS[jpeg.channels])
    elif data.startswith(png_structure.SIGNATURE):
        png = png_structure.png_facts(data)
        if png.bit_depth == 16 and png.colour_type == png_structure.GREY:  # converting it to 8 bit clips
            raise SceneFault("image_mode_unsupported", "PNG of 16-bit grey, expected 8 bits a channel")
        colours = _PNG_COLOURS[png.colour_type]
        facts = ImageFacts("png", png.width_px, png.height_px, exif_orientation(png.exif), colours)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return _webp_image(data, max_image_px)
    else:
        raise SceneFault("image_unreadable", _unknown_format(data))
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


def _webp_image(data: bytes, max_image_px: int) -> ImageFacts:
    """Check a WebP file by decoding it: unlike JPEG and PNG, its structure says little about what is missing."""
    if len(data) < 8 + int.from_bytes(data[4:8], "little"):
        raise SceneFault("image_truncated", f"WebP of {len(data)} bytes is shorter than its header says")
    try:
        with Image.open(io.BytesIO(data), formats=["WEBP"]) as image:
            refuse_too_large(image.width, image.height, max_image_px)
            _refuse_several(image)
            image.load()
            orientation = exif_orientation(image.info.get("exif", b""))
            return ImageFacts("webp", image.width, image.height, orientation, "rgb")
    except _DECODE_ERRORS as error:
        raise SceneFault("image_unreadable", f"the WebP cannot be decoded: {error}") from error


def _as_png(data: bytes, max_image_px: int) -> bytes:
    """Turn an image file of another format into a PNG of the same pixels.

    A TIFF comes out upright, as Pillow and viewers show it; its PNG has no EXIF orientation.

    Raises:
        SceneFault: If it cannot be decoded, or a PNG of 8 bits cannot hold its pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_CONVERTED) as image:
            name = str(image.format)
            refuse_too_large(image.width, image.height, max_image_px)
            _refuse_several(image)
            image.load()
            if image.mode not in _PNG_MODES:
                reason = f"{name} of mode {image.mode}, expected grey, palette or RGB of 8 bits a channel; convert it"
                raise SceneFault("image_mode_unsupported", reason)
            buffer = io.BytesIO()
            image.save(buffer, "PNG", exif=b"", icc_profile=None)
            return buffer.getvalue()
    except UnidentifiedImageError:
        raise SceneFault("image_unreadable", _unknown_format(data)) from None
    except _DECODE_ERRORS as error:
        raise SceneFault("image_unreadable", f"the image cannot be decoded: {error}") from error


def _refuse_several(image: Image.Image) -> None:
    """Refuse files of several pictures (animations, pages): which of them labels and captions mean is unknown."""
    pictures = getattr(image, "n_frames", 1)
    if pictures > 1:
        raise SceneFault("image_mode_unsupported", f"{image.format} of {pictures} pictures, expected one; split it")


def _unknown_format(data: bytes) -> str:
    found = f"starts with {data[:8].hex(' ')}" if data else "is empty"
    return f"the file {found}, expected a JPEG, PNG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF or PPM"
