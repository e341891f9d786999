"""Images as callers give them, as upright 8-bit RGB, and the size at which the nets see them."""

from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

PIXELS_MAX = 89_478_485
"""Width times height of a picture at most: where Pillow begins to warn of decompression bombs."""

ImageInput: TypeAlias = str | Path | Image.Image | npt.NDArray[np.uint8]
"""A file, a Pillow image, or an array [height width] (grey), [height width 3] (RGB) or [height width 4] (RGBA)."""


IndexMap = TypeVar("IndexMap", bound=npt.NDArray[Any])


def rgb_image(image: ImageInput) -> Image.Image:
    """Read an image as 8-bit RGB, turned upright.

    Files and Pillow images are turned as their EXIF orientation says, so the result's height and width are those that a
    viewer shows; arrays are taken as they are. Grey and CMYK are converted, transparency is dropped (the colour that
    lies beneath shows), 16-bit grey is divided by 256, and of an animation the first frame is taken.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image, is damaged or too large, or the array has another shape or type.
        TypeError: If ``image`` is none of these things.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(image, "image")
    if isinstance(image, np.ndarray):
        is_grey, is_colour = image.ndim == 2, image.ndim == 3 and image.shape[2] in {3, 4}
        if image.dtype != np.uint8 or 0 in image.shape or not (is_grey or is_colour):
            raise ValueError(
                f"image: found an array of {image.dtype} {image.shape}; "
                "uint8 [height width], [height width 3] or [height width 4] is expected; convert it"
            )
        return Image.fromarray(image).convert("RGB")
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: there is no such file; check the path")
        try:
            with Image.open(path) as opened:
                return _to_rgb(opened, str(path))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{path}: cannot be read as an image ({error}); a whole JPEG, PNG or the like is expected"
            ) from error
    raise TypeError(
        f"image: found a {type(image).__name__}; a path, a Pillow image or a uint8 array is expected; convert it"
    )


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    """Turn an image upright and convert it to RGB."""
    if 0 in image.size:
        raise ValueError(
            f"{where}: found {image.width} x {image.height} px, sides of at least 1 px are expected; check it"
        )
    if image.mode == "F":
        raise ValueError(f"{where}: found floating-point pixels, whose range is unknown; convert them to 8 bits")
    return stored_rgb(ImageOps.exif_transpose(image))


def stored_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to 8-bit RGB as `rgb_image` does, but leave its pixels where they are stored."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) >> 8).astype(np.uint8))
    return image.convert("RGBA").convert("RGB") if image.mode in {"P", "PA"} else image.convert("RGB")


def resized_size(height_px: int, width_px: int, *, short_side_px: int, max_side_px: int) -> tuple[int, int]:
    """Find the size at which an image is segmented: its short side set, its long side bounded, its aspect kept.

    Sizes are rounded half up. A side that would vanish (an image 5,000 times as wide as high) stays at 1 px.

    Args:
        height_px: Of the image.
        width_px: Of the image.
        short_side_px: Length of the shorter side; small images are enlarged.
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
        height_px: Of the result.
        width_px: Of the result.
    """
    import torch  # planning imports this module, and no torch
    from torch.nn import functional

    doubles = torch.from_numpy(label_map.astype(np.float64))[None, None]
    resized: Any = functional.interpolate(doubles, size=(height_px, width_px), mode="nearest")[0, 0].numpy()
    values: IndexMap = resized.astype(label_map.dtype)
    return values
