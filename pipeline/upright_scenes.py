"""Pictures and label maps of scenes as every stage sees them: upright.

Scenes hold files as they came, and labels refer to the pixels as stored. So both are turned, by the orientation that
preparation recorded with the scene; a picture's other hints, such as XMP's, turn neither.
"""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from ovseg_models.image_input import stored_rgb
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


def upright_picture(scene: Scene) -> Image.Image:
    """Decode a scene's picture: RGB, upright.

    Raises:
        OSError, SyntaxError, ValueError, Image.DecompressionBombError: If its bytes are damaged, as Pillow says it.
    """
    with Image.open(io.BytesIO(scene.image)) as image:
        stored = stored_rgb(image)
    turn = _TURNS.get(scene.exif_orientation)
    return stored if turn is None else stored.transpose(turn)


def upright_labels(png: bytes, exif_orientation: int) -> npt.NDArray[np.int32]:
    """Decode a map of class indices, turned as the picture on which it lies [height width].

    Args:
        png: The file, of 8 or 16 bits.
        exif_orientation: Of the picture; 1 leaves the map as stored.

    Raises:
        OSError, SyntaxError, ValueError: If its bytes are damaged, as Pillow says it.
    """
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        stored = np.asarray(image).astype(np.int32)
    turn = _TURNS.get(exif_orientation)
    return stored if turn is None else np.array(Image.fromarray(stored).transpose(turn))
