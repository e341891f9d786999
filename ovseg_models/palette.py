"""Colours for class indices that the eye tells apart."""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

_GRID_STEPS = 17  # per colour channel: 4,913 candidates
_LIGHTNESS_RANGE = (35.0, 92.0)  # neither lost in shadows nor like paper
_CHROMA_MIN = 25.0  # grey stands for what is unlabelled
_SRGB_TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
_WHITE_XYZ = np.array([0.9505, 1.0, 1.089])


@lru_cache(maxsize=8)
def palette(colours: int) -> npt.NDArray[np.uint8]:
    """Choose colours of which each is as far as possible, in CIELAB, from all before it.

    The colours of a smaller palette are the first ones of a larger one, so a class keeps its colour.

    Args:
        colours: Number of colours, 1 to about 3,000.

    Returns:
        RGB [colour 3], all different; not writable.

    Raises:
        ValueError: If the number is out of range.
    """
    steps = np.linspace(0, 255, _GRID_STEPS).round().astype(np.uint8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _cielab(candidates)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    usable = (lab[:, 0] > _LIGHTNESS_RANGE[0]) & (lab[:, 0] < _LIGHTNESS_RANGE[1]) & (chroma > _CHROMA_MIN)
    candidates, lab = candidates[usable], lab[usable]
    if not 1 <= colours <= len(candidates):
        raise ValueError(
            f"palette: {colours} colours are asked for, 1 to {len(candidates)} are expected; ask for fewer"
        )
    chosen = [int(chroma[usable].argmax())]
    distances = np.full(len(lab), np.inf)
    while len(chosen) < colours:
        distances = np.minimum(distances, ((lab - lab[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(distances.argmax()))
    rgb = candidates[chosen]
    rgb.flags.writeable = False
    return rgb


def _cielab(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Convert sRGB [colour 3] to CIELAB under D65, where distances are about those that the eye sees."""
    parts = rgb / 255
    linear = np.where(parts > 0.04045, ((parts + 0.055) / 1.055) ** 2.4, parts / 12.92)
    xyz = linear @ _SRGB_TO_XYZ.T / _WHITE_XYZ
    roots = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = roots.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
