"""The size at which the proposal net sees an image."""

from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

IndexMap = TypeVar("IndexMap", bound=npt.NDArray[Any])


def resized_size(height_px: int, width_px: int, *, short_side_px: int, max_side_px: int) -> tuple[int, int]:
    """Find the size at which an image is segmented: its short side set, its long side bounded, its aspect kept.

    Sizes are rounded half up. A side that would vanish (an image 5,000 times as wide as high) stays at 1 px.

    Args:
        height_px: Of the image.
        width_px: Of the image.
        short_side_px: Wanted length of the shorter side; small images are enlarged.
        max_side_px: Upper bound of the longer side, which goes before ``short_side_px``.

    Returns:
        Height and width [px].

    Raises:
        ValueError: If a length is less than 1, or the bound is below ``short_side_px``.

    References:
        detectron2's ResizeShortestEdge, with which the published models were trained and tested.
    """
    if min(height_px, width_px, short_side_px) < 1 or max_side_px < short_side_px:
        raise ValueError(
            f"image size: image {width_px} x {height_px} px, short_side_px {short_side_px}, max_side_px {max_side_px}; "
            "lengths of at least 1 and max_side_px >= short_side_px are expected; correct the settings"
        )
    scale = short_side_px / min(height_px, width_px)
    if height_px < width_px:
        height, width = float(short_side_px), scale * width_px
    else:
        height, width = scale * height_px, float(short_side_px)
    if max(height, width) > max_side_px:
        shrink = max_side_px / max(height, width)
        height, width = height * shrink, width * shrink
    return max(1, int(height + 0.5)), max(1, int(width + 0.5))


def resize_image(image: Image.Image, *, short_side_px: int, max_side_px: int) -> Image.Image:
    """Resize an RGB image as `resized_size` says: bilinear, averaging when it shrinks, rounded to 8 bits.

    Raises:
        ValueError: As `resized_size`.
    """
    height, width = resized_size(image.height, image.width, short_side_px=short_side_px, max_side_px=max_side_px)
    return image.resize((width, height), Image.Resampling.BILINEAR)


def nearest_resized(label_map: IndexMap, height_px: int, width_px: int) -> IndexMap:
    """Resize a map of class indices [height width] as the reference does.

    It uses torch's "nearest" on doubles, which rounds places down; that of other libraries differs by a pixel at edges.

    Args:
        label_map: Of any whole numbers; the result is of the same type.
        height_px: Wanted height.
        width_px: Wanted width.
    """
    import torch  # planning imports this module, and no torch
    from torch.nn import functional

    doubles = torch.from_numpy(label_map.astype(np.float64))[None, None]
    resized: Any = functional.interpolate(doubles, size=(height_px, width_px), mode="nearest")[0, 0].numpy()
    values: IndexMap = resized.astype(label_map.dtype)
    return values
