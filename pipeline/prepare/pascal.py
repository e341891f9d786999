"""Pascal: VOC 2012 without background (PAS-20) and with it (PAS-21), and Pascal Context with 59 or 459 classes.

VOC: ``ROOT/ImageSets/Segmentation/SPLIT.txt``, ``ROOT/JPEGImages/*.jpg`` and ``ROOT/SegmentationClassAug/*.png`` or
``ROOT/SegmentationClass/*.png``, where ROOT is ``VOCdevkit/VOC2012``.

Context: ``ROOT/JPEGImages/*.jpg`` of VOC 2010, ``ROOT/trainval/*.mat``, ``ROOT/pascalcontext_SPLIT.txt`` and, for 59
classes, ``ROOT/labels.txt``, where ROOT is ``VOCdevkit/VOC2010``. ``59_labels.txt`` only orders names.
"""

import io
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from pipeline.data_set_options import VocLabelDirectory
from pipeline.prepare.data_root import DataRoot, LayoutError
from pipeline.prepare.faults import SceneFault
from pipeline.prepare.images import ImageFacts, refuse_too_large
from pipeline.prepare.label_maps import ClassTable, check_size
from pipeline.prepare.paired import DecodedLabel, PairedSource, pairs_of_list
from pipeline.prepare.vocabulary import load_vocabulary

_VARIABLE = "LabelMap"
_LIST_HINT = "put the list of image ids there, one a line; the reference names the 5,105 of val"
_LABELS_HINT = "download it from https://cs.stanford.edu/~roozbeh/pascal-context"

_DOWNLOAD = "download VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012"


def pascal_context_459(root: DataRoot, split: str) -> PairedSource:
    """Return the scenes with all 459 classes; value 0 is ignored, 1..459 are the classes.

    Raises:
        LayoutError: If the list or a directory is not there.
    """
    values = load_vocabulary("pascal-context-459").source_ids
    return _source(root, split, "pascal-context-459", values, others_ignored=False)


def pascal_context_59(root: DataRoot, split: str) -> PairedSource:
    """Return the scenes with the 59 frequent classes, found by name in ``labels.txt``; all others are ignored.

    Raises:
        LayoutError: If the list or a directory is not there, or ``labels.txt`` lacks one of the names.
    """
    value_of = values_by_name(root)
    names = load_vocabulary("pascal-context-59").class_names
    absent = [name for name in names if name not in value_of]
    if absent:
        message = f"{root.name}: labels.txt lacks {len(absent)} of the {len(names)} names, such as '{absent[0]}'"
        raise LayoutError(f"{message}; {_LABELS_HINT}")
    values = [value_of[name] for name in names]
    return _source(root, split, "pascal-context-59", values, others_ignored=True, text_files=["labels.txt"])


def values_by_name(root: DataRoot) -> dict[str, int]:
    """Read ``labels.txt``: lines ``value: name``.

    Raises:
        LayoutError: If it is not there, or a line is of another form.
    """
    values = {}
    for number, line in enumerate(root.text_lines("labels.txt", _LABELS_HINT), start=1):
        if not line:
            continue
        match = re.fullmatch(r"(\d{1,5})\s*:\s*(.+)", line)
        if not match:
            raise LayoutError(
                f"{root.name}: labels.txt: line {number} is {line!r}, expected 'value: name'; {_LABELS_HINT}"
            )
        values[match.group(2).strip()] = int(match.group(1))
    return values


def decode_mat(data: bytes, image: ImageFacts, max_image_px: int) -> DecodedLabel:
    """Decode a MATLAB file with the variable ``LabelMap``.

    Raises:
        SceneFault: If it is broken, or of another size than the image.
    """
    import scipy.io  # takes long, and planning does not need it

    try:
        shapes = {name: shape for name, shape, _ in scipy.io.whosmat(io.BytesIO(data))}  # type: ignore[arg-type]  # the stubs know paths only
        if _VARIABLE not in shapes or len(shapes[_VARIABLE]) != 2:
            reason = f"the .mat file holds {shapes}, expected the matrix {_VARIABLE}"
            raise SceneFault("label_mode_unsupported", reason)
        height, width = shapes[_VARIABLE]
        refuse_too_large(width, height, max_image_px)
        check_size(width, height, image)
        values = scipy.io.loadmat(io.BytesIO(data), variable_names=[_VARIABLE])[_VARIABLE]  # type: ignore[arg-type]
    except SceneFault:
        raise
    except Exception as error:  # scipy raises whatever its parser stumbles over
        raise SceneFault("label_unreadable", f"the .mat file cannot be read: {error}") from error
    if values.min() < 0 or values.max() > 65535:
        reason = f"the label holds values from {values.min()} to {values.max()}"
        raise SceneFault("label_outside_vocabulary", reason)
    return DecodedLabel(values.astype(np.uint16))


def _source(
    root: DataRoot,
    split: str,
    name: str,
    values: Sequence[int],
    *,
    others_ignored: bool,
    text_files: Sequence[str] = (),
) -> PairedSource:
    """Put a source together; ``values`` has the value of each class in the label files."""
    vocabulary = load_vocabulary(name)
    list_file = f"pascalcontext_{split}.txt"
    root.required("trainval", _LABELS_HINT)
    root.required("JPEGImages", "download VOCtrainval_03-May-2010.tar from http://host.robots.ox.ac.uk/pascal/VOC")
    table = ClassTable(
        {value: index for index, value in enumerate(values)},
        ignore_label=vocabulary.ignore_label,
        ignored=frozenset({0}),
        others_ignored=others_ignored,
    )
    pairs = pairs_of_list(root, list_file, _LIST_HINT, "JPEGImages/{}.jpg", "trainval/{}.mat")
    return PairedSource(
        root,
        pairs,
        vocabulary,
        table,
        "Pascal VOC 2010 pictures from Flickr under its terms of use; labels of Pascal Context, no licence stated",
        decode_label=decode_mat,
        label_files=root.those_there(pair.label_path for pair in pairs.values()),
        text_files=[list_file, *text_files],
    )


def pascal_voc(
    name: Literal["pascal-voc-20", "pascal-voc-21"], root: DataRoot, split: str, labels: VocLabelDirectory
) -> PairedSource:
    """Return the scenes of a list; value 255 (border) is ignored, 1..20 are the classes.

    Args:
        name: Of the classes: without background, whose value 0 is ignored then, or with it, as class 0.
        root: ``VOC2012``.
        split: Name of a list in ``ImageSets/Segmentation``, such as ``val``.
        labels: Directory of the labels. The paper's numbers are on ``SegmentationClassAug``; for the 1,449 images of
            ``val`` it holds VOC's own labels without palette.

    Raises:
        LayoutError: If the list or a directory is not there.
    """
    vocabulary = load_vocabulary(name)
    indices = {value: index for index, value in enumerate(vocabulary.source_ids)}
    list_file = f"ImageSets/Segmentation/{split}.txt"
    pairs = pairs_of_list(root, list_file, _DOWNLOAD, "JPEGImages/{}.jpg", f"{labels}/{{}}.png")
    other = "SegmentationClass" if labels == "SegmentationClassAug" else "SegmentationClassAug"
    root.required(labels, f"put it there, or use --voc-labels {other}")
    return PairedSource(
        root,
        pairs,
        vocabulary,
        ClassTable(indices, ignore_label=255, ignored=frozenset({0, 255} - indices.keys())),
        "Pascal VOC 2012; pictures from Flickr under its terms of use, http://host.robots.ox.ac.uk/pascal/VOC",
        label_files=root.those_there(pair.label_path for pair in pairs.values()),
        text_files=[list_file],
    )
