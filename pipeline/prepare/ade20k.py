"""ADE20K: the 150 classes of the scene parsing challenge, and the 847 of the full release.

A-150: ``ROOT/images/{training,validation}/*.jpg`` and ``ROOT/annotations/{training,validation}/*.png``, where ROOT is
``ADEChallengeData2016``. A-847: ``ROOT/images/ADE/**/ADE_{train,val}_*.jpg`` with ``*_seg.png`` beside them, where ROOT
is ``ADE20K_2021_17_01``; its ``index_ade20k.pkl`` is a pickle, is not needed and never read.

Images of the full release have up to 10 megapixels. Before it evaluates A-847 the reference shrinks image and label to
a short side of 512 px and saves the image as JPEG of quality 75 (Pillow's default). That is not in the paper, and its
numbers on A-847 depend on it.
"""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from pipeline.prepare.data_root import AccessedPaths, DataRoot, LayoutError, failed_scene
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.file_digests import FileDigests
from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, encode_png, read_rgb_png
from pipeline.prepare.paired import DecodedLabel, PairedSource, pairs_of_files
from pipeline.prepare.source import Found
from pipeline.prepare.vocabulary import Vocabulary, load_vocabulary
from storage_schemas.columns import OK
from storage_schemas.scenes import Scene

SPLITS = {"train": "training", "val": "validation"}
_LICENCE = "ADE20K terms of use: research and teaching, https://ade20k.csail.mit.edu/terms"
_DOWNLOAD = "download it from https://ade20k.csail.mit.edu"

SHORT_SIDE_PX = 512
JPEG_QUALITY = 75


def ade20k_150(root: DataRoot, split: str) -> PairedSource:
    """Return the scenes of ADEChallengeData2016; value 0 is ignored, 1..150 are the classes.

    Raises:
        LayoutError: If the split is unknown, or its directories are not there.
    """
    directory = _directory_of(root, split)
    vocabulary = load_vocabulary("ade20k-150")
    indices = {value: index for index, value in enumerate(vocabulary.source_ids)}
    images = root.names(f"images/{directory}", hint=_DOWNLOAD)
    labels = f"annotations/{directory}"
    label_files = [f"{labels}/{name}" for name in root.names(labels, ("",), hint=_DOWNLOAD)]
    top = f"images/{directory}"
    pairs = pairs_of_files((f"{top}/{name}" for name in images), top, lambda name: f"{labels}/{name}.png")
    return PairedSource(
        root,
        pairs,
        vocabulary,
        ClassTable(indices, ignore_label=255, ignored=frozenset({0})),
        _LICENCE,
        label_files=label_files,
    )


def ade20k_847(root: DataRoot, split: str) -> PairedSource:
    """Return the scenes of the full release in its original resolution; class ids outside the 847 are ignored.

    The second part of a file's name decides its split, as in the reference.

    Raises:
        LayoutError: If the split is unknown, or it has no image.
    """
    _directory_of(root, split)
    vocabulary = load_vocabulary("ade20k-847")
    indices = {class_id: index for index, class_id in enumerate(vocabulary.source_ids)}
    images = []
    for below, inner, names in root.walk("images", hint=_DOWNLOAD):
        # Directories of single objects are named after their image; they hold no pictures.
        inner[:] = [name for name in inner if not name.startswith("ADE_")]
        prefix = f"images/{below}/" if below else "images/"
        images += [f"{prefix}{name}" for name in names if name.startswith(f"ADE_{split}_") and name.endswith(".jpg")]
    if not images:
        raise LayoutError(
            f"{root.name}: {root.directory}/images has no ADE_{split}_*.jpg; {_DOWNLOAD}, or choose another split"
        )
    pairs = pairs_of_files(images, "", lambda path: f"{path}_seg.png")
    return PairedSource(
        root,
        pairs,
        vocabulary,
        ClassTable(indices, ignore_label=65535, ignored=frozenset({0}), others_ignored=True),
        _LICENCE,
        decode_label=decode_segmentation,
        label_files=root.those_there(pair.label_path for pair in pairs.values()),
    )


def decode_segmentation(data: bytes, image: ImageFacts, max_image_px: int) -> DecodedLabel:
    """Decode a ``_seg.png`` of the full release: class id = (R // 10) * 256 + G; B distinguishes instances."""
    rgb = read_rgb_png(data, image, max_image_px=max_image_px)
    return DecodedLabel((rgb[..., 0] // 10).astype(np.uint16) << 8 | rgb[..., 1])


def _directory_of(root: DataRoot, split: str) -> str:
    """Return the directory name of a split."""
    if split not in SPLITS:
        raise LayoutError(f"{root.name}: got split '{split}', expected one of {', '.join(SPLITS)}; correct --split")
    return SPLITS[split]


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
    def accessed(self) -> AccessedPaths:
        """Those of the source."""
        return self.source.accessed

    def identity(self, digests: FileDigests, keys: Sequence[str]) -> Mapping[str, str | int | bool]:
        """Return the source's identity; that the scenes are shrunk is a setting."""
        return self.source.identity(digests, keys)

    def found(self) -> Found:
        """Return what the source holds."""
        return self.source.found()

    def scene(self, key: str) -> Scene:
        """Read one scene and shrink it. EXIF orientation is neither applied nor kept."""
        scene = self.source.scene(key)
        if scene.status != OK:
            return scene
        try:
            with Image.open(io.BytesIO(scene.image), formats=["JPEG", "PNG", "WEBP"]) as picture:
                image = np.asarray(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # damage that the check of its structure cannot find
            fault = SceneFault("image_unreadable", f"the image cannot be decoded: {error}")
            return failed_scene(key, scene.image_id, scene.source_path, fault)
        width_px, height_px = shrunk_size(scene.width_px, scene.height_px)
        buffer = io.BytesIO()
        Image.fromarray(shrink_image(image, width_px, height_px)).save(buffer, "JPEG", quality=JPEG_QUALITY)
        label_png, classes = None, ()
        if scene.label_png is not None:
            with Image.open(io.BytesIO(scene.label_png), formats=["PNG"]) as png:
                label = shrink_label(np.asarray(png), width_px, height_px)
            # Small regions may vanish, and their classes with them.
            label_png, classes = encode_png(label), tuple(np.unique(label[label != 65535]).tolist())
        return dataclasses.replace(
            scene,
            image=buffer.getvalue(),
            image_suffix="jpg",
            width_px=width_px,
            height_px=height_px,
            exif_orientation=1,
            label_png=label_png,
            classes=classes,
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
