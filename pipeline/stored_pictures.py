"""Decoding stored pictures: those of scenes and their label maps, upright, and those of pairs.

Scenes hold files as they came, and labels refer to the pixels as stored. So both are turned, by the orientation that
preparation recorded with the scene; a picture's other hints, such as XMP's, turn neither.
"""

import contextlib
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.image_input import stored_rgb
from pipeline.errors import PipelineError
from storage_schemas.pairs import PairMembers
from storage_schemas.scenes import Scene

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What brings stored pixels upright, by EXIF orientation."""


class UndecodableError(PipelineError):
    """A stored picture cannot be decoded, whatever its decoder raised: "cannot be decoded: REASON".

    Preparation checked each picture, so its file was damaged since, or is of a kind that the checks do not know.
    """


@contextlib.contextmanager
def decoding() -> Iterator[None]:
    """Decode inside this context.

    Raises:
        UndecodableError: In place of what Pillow and its decoders raise for damaged bytes.
    """
    try:
        yield
    except (OSError, SyntaxError, ValueError, zlib.error, struct.error, Image.DecompressionBombError) as error:
        raise UndecodableError(f"cannot be decoded: {error}") from error


def upright_picture(scene: Scene) -> Image.Image:
    """Decode a scene's picture: RGB, upright.

    Raises:
        UndecodableError: If its bytes are damaged.
    """
    with decoding(), Image.open(io.BytesIO(scene.image)) as image:
        stored = stored_rgb(image)
    return upright(stored, scene.exif_orientation)


def upright(stored: Image.Image, exif_orientation: int) -> Image.Image:
    """Turn a picture as its EXIF orientation says."""
    turn = _TURNS.get(exif_orientation)
    return stored if turn is None else stored.transpose(turn)


def upright_labels(png: bytes, exif_orientation: int) -> npt.NDArray[np.int32]:
    """Decode a map of class indices, turned as the picture on which it lies [height width].

    Args:
        png: The file, of 8 or 16 bits.
        exif_orientation: Of the picture; 1 leaves the map as stored.

    Raises:
        UndecodableError: If its bytes are damaged.
    """
    with decoding(), Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        stored = np.asarray(image).astype(np.int32)
    return turned_upright(stored, exif_orientation)


def turned_upright(stored: npt.NDArray[np.int32], exif_orientation: int) -> npt.NDArray[np.int32]:
    """Turn a map of whole numbers [height width] as the picture on whose stored pixels it lies."""
    turn = _TURNS.get(exif_orientation)
    return stored if turn is None else np.array(Image.fromarray(stored).transpose(turn))


def pair_pictures(members: PairMembers) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Decode a pair's crop, RGB and not masked [height width 3], and its mask, True inside the region [height width].

    Both may be written to. Whether they have one size is not checked.

    Raises:
        UndecodableError: If the bytes of one are damaged.
    """
    crop_file, mask_file = io.BytesIO(members.crop), io.BytesIO(members.crop_mask_png)
    with decoding(), Image.open(crop_file) as crop, Image.open(mask_file) as mask:
        return np.array(crop.convert("RGB")), np.asarray(mask.convert("L")) > 0
