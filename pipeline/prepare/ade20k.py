"""ADE20K: the 150 classes of the scene parsing challenge, and the 847 of the full release.

A-150: ``ROOT/images/{training,validation}/*.jpg`` and ``ROOT/annotations/{training,validation}/*.png``, where ROOT is
``ADEChallengeData2016``. A-847: ``ROOT/images/ADE/**/ADE_{train,val}_*.jpg`` with ``*_seg.png`` beside them, where ROOT
is ``ADE20K_2021_17_01``; its ``index_ade20k.pkl`` is a pickle, is not needed and never read.
"""

import numpy as np

from pipeline.prepare.images import ImageFacts
from pipeline.prepare.label_maps import ClassTable, read_rgb_png
from pipeline.prepare.layout import DataRoot, LayoutError
from pipeline.prepare.paired import DecodedLabel, PairedSource, pairs_of_files
from pipeline.prepare.vocabulary import load_vocabulary

SPLITS = {"train": "training", "val": "validation"}
_LICENCE = "ADE20K terms of use: research and teaching, https://ade20k.csail.mit.edu/terms"
_DOWNLOAD = "download it from https://ade20k.csail.mit.edu"


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
    images = [path for path in _full_release_images(root) if path.rpartition("/")[2].split("_")[1] == split]
    if not images:
        message = f"{root.name}: {root.directory}/images has no ADE_{split}_*.jpg; {_DOWNLOAD}, or choose another split"
        raise LayoutError(message)
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
    """Decode a ``_seg.png`` of the full release: class id = (R // 10) * 256 + G; B tells instances apart."""
    rgb = read_rgb_png(data, image, max_image_px=max_image_px)
    return DecodedLabel((rgb[..., 0] // 10).astype(np.uint16) << 8 | rgb[..., 1])


def _directory_of(root: DataRoot, split: str) -> str:
    """Return the directory name of a split."""
    if split not in SPLITS:
        message = f"{root.name}: got split '{split}', expected one of {', '.join(SPLITS)}; correct --split"
        raise LayoutError(message)
    return SPLITS[split]


def _full_release_images(root: DataRoot) -> list[str]:
    """Find the images of the full release; directories of single objects, named after their image, are passed by."""
    found = []
    for below, inner, names in root.walk("images", hint=_DOWNLOAD):
        inner[:] = [name for name in inner if not name.startswith("ADE_")]
        prefix = f"images/{below}/" if below else "images/"
        found += [f"{prefix}{name}" for name in names if name.startswith("ADE_") and name.endswith(".jpg")]
    return found
