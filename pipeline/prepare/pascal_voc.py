"""Pascal VOC 2012 without background (PAS-20).

``ROOT/ImageSets/Segmentation/SPLIT.txt``, ``ROOT/JPEGImages/*.jpg`` and ``ROOT/SegmentationClassAug/*.png`` or
``ROOT/SegmentationClass/*.png``, where ROOT is ``VOCdevkit/VOC2012``.
"""

from pipeline.data_set_options import VocLabelDirectory
from pipeline.prepare.label_maps import ClassTable
from pipeline.prepare.layout import DataRoot
from pipeline.prepare.paired import PairedSource, pairs_of_list
from pipeline.prepare.vocabulary import load_vocabulary

_DOWNLOAD = "download VOCtrainval_11-May-2012.tar from http://host.robots.ox.ac.uk/pascal/VOC/voc2012"


def pascal_voc_20(root: DataRoot, split: str, labels: VocLabelDirectory) -> PairedSource:
    """Return the scenes of a list; values 0 (background) and 255 (border) are ignored, 1..20 are the classes.

    Args:
        root: ``VOC2012``.
        split: Name of a list in ``ImageSets/Segmentation``, such as ``val``.
        labels: Directory of the labels. The paper's numbers are on ``SegmentationClassAug``; for the 1,449 images of
            ``val`` it holds VOC's own labels without palette.

    Raises:
        LayoutError: If the list or a directory is not there.
    """
    vocabulary = load_vocabulary("pascal-voc-20")
    indices = {value: index for index, value in enumerate(vocabulary.source_ids)}
    list_file = f"ImageSets/Segmentation/{split}.txt"
    pairs = pairs_of_list(root, list_file, _DOWNLOAD, "JPEGImages/{}.jpg", f"{labels}/{{}}.png")
    other = "SegmentationClass" if labels == "SegmentationClassAug" else "SegmentationClassAug"
    root.required(labels, f"put it there, or use --voc-labels {other}")
    return PairedSource(
        root,
        pairs,
        vocabulary,
        ClassTable(indices, ignore_label=255, ignored=frozenset({0, 255})),
        "Pascal VOC 2012; pictures from Flickr under its terms of use, http://host.robots.ox.ac.uk/pascal/VOC",
        label_files=root.those_there(pair.label_path for pair in pairs.values()),
        text_files=[list_file],
    )
