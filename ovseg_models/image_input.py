"""Images as callers give them, as upright 8-bit RGB, and the size at which the nets see them."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

PIXELS_MAX = 89_478_485
"""Width times height of a picture at most: where Pillow begins to warn of decompression bombs."""

if TYPE_CHECKING:
    from torch import Tensor

    ImageInput: TypeAlias = (
        str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8] | npt.NDArray[np.floating] | Tensor
    )
    """A file, its bytes or an open one; a Pillow image; an array [height width] (grey), [height width 3] (RGB) or
    [height width 4] (RGBA); a tensor [1 height width], [3 height width] or [4 height width]. Pixels of arrays and
    tensors are uint8, or floating-point numbers from 0 to 1."""
else:
    ImageInput = Any  # planning imports this module, and no torch; `rgb_image` says what it cannot read

IndexMap = TypeVar("IndexMap", bound=npt.NDArray[Any])


def rgb_image(image: ImageInput, where: str = "image") -> Image.Image:
    """Read an image as 8-bit RGB, turned upright.

    Files and Pillow images are turned as their EXIF orientation says, so the result's height and width are those that a
    viewer shows; arrays and tensors are taken as they are. Grey and CMYK are converted, transparency is dropped (the
    colour that lies beneath shows), 16-bit grey is divided by 256, and of an animation the first frame is taken.

    Args:
        image: See `ImageInput`.
        where: What the caller calls the image, for messages; files are named by their paths.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is no image, is damaged or too large, or an array has another shape, type or range.
        TypeError: If ``image`` is none of these things.
    """
    if isinstance(image, Image.Image):
        return _to_rgb(image, where)
    torch = sys.modules.get("torch")  # whoever has a tensor has imported it
    if torch is not None and isinstance(image, torch.Tensor):
        if image.ndim != 3 or image.shape[0] not in {1, 3, 4}:
            batch = image.ndim == 4 and image.shape[1] in {1, 3, 4}
            remedy = "give a batch as list(images)" if batch else "use tensor.permute(2, 0, 1) if channels come last"
            raise ValueError(
                f"{where}: found a tensor {tuple(image.shape)}; [channels height width] with 1, 3 or 4 channels is "
                f"expected; {remedy}"
            )
        channels_last = image.detach().cpu().permute(1, 2, 0)
        if channels_last.dtype in {torch.float16, torch.bfloat16}:
            channels_last = channels_last.float()
        array = channels_last.numpy()
        return _of_array(array[..., 0] if array.shape[2] == 1 else array, where)
    if isinstance(image, np.ndarray):
        return _of_array(image, where)
    if isinstance(image, bytes | bytearray | memoryview):
        return _decoded(io.BytesIO(image), where, "its bytes cannot be read as an image")
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            is_address = str(image).startswith(("http://", "https://"))
            remedy = "addresses are not fetched: download it first" if is_address else "check the path"
            raise FileNotFoundError(f"{image}: there is no such file; {remedy}")
        return _decoded(path, str(path), "cannot be read as an image")
    opened: Any = image
    if isinstance(opened, io.TextIOBase):
        raise TypeError(f"{where}: found a file that is open for text; open it with mode 'rb'")
    if hasattr(opened, "read"):
        named = getattr(opened, "name", None)
        return _decoded(opened, named if isinstance(named, str) else where, "the file cannot be read as an image")
    raise TypeError(
        f"{where}: found {type(image).__name__}; a path, bytes, an open file, a Pillow image, an array or a tensor is "
        "expected; convert it"
    )


def _decoded(source: Any, where: str, fault: str) -> Image.Image:
    """Read a file of any format that Pillow knows, by its path or open."""
    try:
        with Image.open(source) as opened:
            return _to_rgb(opened, where)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{where}: {fault} ({error}); a whole JPEG, PNG or the like is expected") from error


def _of_array(array: npt.NDArray[Any], where: str) -> Image.Image:
    """Make an image of pixels that are 0 to 255, or 0 to 1 where they are floating-point numbers."""
    is_float = np.issubdtype(array.dtype, np.floating)
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in {3, 4})
    if 0 in array.shape or not fits or not (array.dtype == np.uint8 or is_float):
        raise ValueError(
            f"{where}: found an array of {array.dtype} {array.shape}; uint8 or float [height width], [height width 3] "
            "or [height width 4] is expected; convert it"
        )
    if is_float:
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(
                f"{where}: found floating-point pixels from {low:g} to {high:g}, 0 to 1 is expected; undo a "
                "normalisation, or convert pixels from 0 to 255 to uint8"
            )
        array = (array * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


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
