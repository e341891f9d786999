"""The stored pictures of a pair, decoded."""

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from storage_schemas.pairs import PairMembers


def pair_pictures(members: PairMembers) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Decode a pair's crop, RGB and not masked [height width 3], and its mask, True inside the region [height width].

    Both may be written to. Whether they have one size is not checked.

    Raises:
        OSError, SyntaxError, ValueError: If their bytes are damaged, as Pillow says it.
    """
    with Image.open(io.BytesIO(members.crop)) as crop, Image.open(io.BytesIO(members.crop_mask_png)) as mask:
        return np.array(crop.convert("RGB")), np.asarray(mask.convert("L")) > 0
