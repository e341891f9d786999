"""The shrinking of ADE20K's full release that the reference does before it evaluates A-847.

Its images have up to 10 megapixels; the reference shrinks image and label to a short side of 512 px, saves the image
as JPEG of quality 75 (Pillow's default), and evaluates on the result. That is not in the paper, and its numbers on
A-847 depend on it.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.prepare.contents import FileContents
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.label_maps import encode_png
from pipeline.prepare.layout import Looked, failed_scene
from pipeline.prepare.paired import PairedSource
from pipeline.prepare.source import Found
from pipeline.prepare.vocabulary import Vocabulary
from storage_schemas.scenes import OK, Scene

SHORT_SIDE_PX = 512
JPEG_QUALITY = 75


@dataclass(frozen=True)
class ReferenceResized:
    """A source whose scenes are shrunk like the reference's; smaller ones keep their size and are saved as JPEG too.

    Attributes:
        source: The scenes in their original size.
    """

    source: PairedSource

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the source."""
        return self.source.vocabulary

    @property
    def ignore_label(self) -> int:
        """That of the source."""
        return self.source.ignore_label

    @property
    def licence(self) -> str:
        """That of the source."""
        return self.source.licence

    def keys(self) -> Sequence[str]:
        """Return the source's keys."""
        return self.source.keys()

    @property
    def looked(self) -> Looked:
        """Where the source has looked."""
        return self.source.looked

    def identity(self, contents: FileContents, keys: Sequence[str]) -> Mapping[str, str | int | bool]:
        """Return the source's identity; that the scenes are shrunk is a setting."""
        return self.source.identity(contents, keys)

    def found(self) -> Found:
        """Return what the source holds."""
        return self.source.found()

    def scene(self, key: str) -> Scene:
        """Read one scene and shrink it. EXIF orientation is neither applied nor kept."""
        scene = self.source.scene(key)
        if scene.status != OK:
            return scene
        try:
            image = _decoded_rgb(scene.image)
        except SceneFault as fault:
            return failed_scene(key, scene.image_id, scene.source_path, fault)
        width_px, height_px = shrunk_size(scene.width_px, scene.height_px)
        buffer = io.BytesIO()
        Image.fromarray(shrink_image(image, width_px, height_px)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        label_png = None if scene.label_png is None else _shrunk_label(scene.label_png, width_px, height_px)
        return dataclasses.replace(
            scene,
            image=buffer.getvalue(),
            image_suffix="jpg",
            width_px=width_px,
            height_px=height_px,
            exif_orientation=1,
            label_png=label_png[0] if label_png else None,
            classes=label_png[1] if label_png else (),
        )


def shrunk_size(width_px: int, height_px: int) -> tuple[int, int]:
    """Return width and height with a short side of at most 512 px, each rounded to the nearest pixel."""
    scale = min(1.0, SHORT_SIDE_PX / min(width_px, height_px))
    return round(width_px * scale), round(height_px * scale)


def shrink_image(image: npt.NDArray[np.uint8], width_px: int, height_px: int) -> npt.NDArray[np.uint8]:
    """Resize bilinearly without antialiasing, pixel centres at half-integers, as OpenCV's ``INTER_LINEAR`` does.

    OpenCV computes in 11-bit fixed point, this in floating point: at most one level apart.

    Args:
        image: [height width 3].
        width_px: New width.
        height_px: New height.
    """
    if image.shape[:2] == (height_px, width_px):
        return image
    upper, lower, weight = _neighbours(image.shape[0], height_px)
    rows = _blend(image[upper], image[lower], weight[:, None, None])
    left, right, weight = _neighbours(image.shape[1], width_px)
    return np.rint(_blend(rows[:, left], rows[:, right], weight[None, :, None])).astype(np.uint8)


def shrink_label(label: npt.NDArray[np.uint16], width_px: int, height_px: int) -> npt.NDArray[np.uint16]:
    """Take the nearest pixel, by the rounded-down position that OpenCV's ``INTER_NEAREST`` uses.

    Args:
        label: [height width].
        width_px: New width.
        height_px: New height.
    """
    rows = np.arange(height_px) * label.shape[0] // height_px
    columns = np.arange(width_px) * label.shape[1] // width_px
    shrunk: npt.NDArray[np.uint16] = label[rows[:, None], columns]
    return shrunk


def _neighbours(
    old_px: int, new_px: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return for each new pixel the two old ones around its centre, and the weight of the second."""
    centre = np.clip((np.arange(new_px) + 0.5) * old_px / new_px - 0.5, 0, old_px - 1)
    first = np.floor(centre).astype(np.int64)
    return first, np.minimum(first + 1, old_px - 1), (centre - first).astype(np.float32)


def _blend(
    first: npt.NDArray[np.generic], second: npt.NDArray[np.generic], weight: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Mix two arrays."""
    start = first.astype(np.float32)
    return start + (second.astype(np.float32) - start) * weight


def _decoded_rgb(image: bytes) -> npt.NDArray[np.uint8]:
    """Decode an image whose structure is known to be sound.

    Raises:
        SceneFault: ``image_unreadable``.
    """
    try:
        with Image.open(io.BytesIO(image), formats=["JPEG", "PNG", "WEBP"]) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise SceneFault("image_unreadable", f"the image cannot be decoded: {error}") from error


def _shrunk_label(label_png: bytes, width_px: int, height_px: int) -> tuple[bytes, tuple[int, ...]]:
    """Shrink a stored label map; small regions may vanish from it."""
    with Image.open(io.BytesIO(label_png), formats=["PNG"]) as png:
        label = shrink_label(np.asarray(png), width_px, height_px)
    return encode_png(label), tuple(int(index) for index in np.unique(label) if index != 65535)
