"""A perceptual hash of pictures: finds the same picture re-encoded or resized, and tells different ones apart.

A difference hash with three values. The picture is shrunk to 9 x 9 grey values, and each is brighter than its left and
than its upper neighbour (1), darker (-1), or differs by less than `MIN_DIFFERENCE` (0). Plain difference hashes have a
bit in place of the 0, which noise decides wherever a picture is flat: skies, walls, drawn scenes. Beside it are the
mean colours of 8 x 8 blocks, as pictures of equal layout and other colours are other pictures.

Two pictures are the same if their hashes agree to at least `MIN_AGREEMENT`, and their colours differ by at most
`MAX_COLOUR_DIFFERENCE`. A picture with fewer than `MIN_EDGES` values beside 0 is too flat to be compared so.

Cropped, mirrored and turned copies are not found.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from jaxtyping import Float32, Int8, UInt8
from PIL import Image

SIDE = 8
SIGNS, COLOURS = 2 * SIDE**2, 3 * SIDE**2
MIN_DIFFERENCE = 2.0
"""Grey levels of 255; encoding a picture as JPEG moves the means by less."""
MIN_EDGES = 24
MIN_AGREEMENT = 0.75
"""Copies of quality 50 at half the size have 0.81 and more, the most alike of 65,000 pairs of pictures 0.65."""
MAX_COLOUR_DIFFERENCE = 8.0
"""Mean over blocks and channels, in levels of 255; for such copies at most 4, for different pictures at least 11."""


class PictureHash(NamedTuple):
    """What pictures are compared by.

    Attributes:
        signs: -1, 0 or 1: steps to the right, then steps down [128].
        colours: Mean red, green and blue of 8 x 8 blocks [192].
    """

    signs: Int8[np.ndarray, "*pictures sign"]
    colours: UInt8[np.ndarray, "*pictures colour"]


def picture_hash(image: Image.Image) -> PictureHash:
    """Compute the hash of an RGB picture of any size."""
    small = image.convert("L").resize((SIDE + 1, SIDE + 1), Image.Resampling.BILINEAR)
    grey = np.asarray(small, np.float32)  # [9 9] values have [8 8] steps to the right and as many down
    steps = np.concatenate([np.diff(grey, axis=1)[:SIDE].ravel(), np.diff(grey, axis=0)[:, :SIDE].ravel()])
    signs = np.where(np.abs(steps) >= MIN_DIFFERENCE, np.sign(steps), 0).astype(np.int8)
    return PictureHash(signs, np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX), np.uint8).ravel())


def too_flat(signs: Int8[np.ndarray, "picture sign"]) -> npt.NDArray[np.bool_]:
    """Return which pictures have too little structure to be compared [picture]."""
    flat: npt.NDArray[np.bool_] = np.count_nonzero(signs, axis=1) < MIN_EDGES
    return flat


def agreements(
    first: Int8[np.ndarray, "one sign"], second: Int8[np.ndarray, "other sign"]
) -> Float32[np.ndarray, "one other"]:
    """Return the cosine of each pair of hashes: 1 where all agree; 0 where one of them is flat."""
    vectors = []
    for signs in (first, second):
        lengths = np.sqrt(np.count_nonzero(signs, axis=1, keepdims=True)).clip(1)
        vectors.append(signs / lengths.astype(np.float32))
    cosines: npt.NDArray[np.float32] = vectors[0] @ vectors[1].T
    return cosines


def same_pictures(
    first: PictureHash, second: PictureHash
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Find the same pictures among two sets.

    Args:
        first: Of pictures [one sign] and [one colour].
        second: Of others [other sign] and [other colour].

    Returns:
        Place in the first and in the second set of each pair that is the same picture, in order of the first, the
        agreement of their hashes, and their difference in colour.
    """
    agreement = agreements(first.signs, second.signs)
    agreement[too_flat(first.signs)] = 0
    agreement[:, too_flat(second.signs)] = 0
    ones, others = np.nonzero(agreement >= MIN_AGREEMENT)
    apart = np.abs(first.colours[ones].astype(np.int16) - second.colours[others])
    difference = apart.mean(axis=1, dtype=np.float32) if len(ones) else np.zeros(0, np.float32)
    near = difference <= MAX_COLOUR_DIFFERENCE
    ones, others, difference = ones[near], others[near], difference[near]
    return ones, others, agreement[ones, others], difference
