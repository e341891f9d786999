"""Names that preparation's settings, its readers and the command share; importing them imports nothing else."""

from typing import Literal

DataSetName = Literal[
    "coco",
    "ade20k-150",
    "ade20k-847",
    "pascal-context-59",
    "pascal-context-459",
    "pascal-voc-20",
    "pascal-voc-21",
    "folder",
    "drawn-world",
]
"""What can be prepared."""

CocoLabelKind = Literal["stuff", "panoptic", "instances", "none"]
"""Which of COCO's annotations become label maps."""

StuffValues = Literal["official", "contiguous"]
"""What the values of ``stuffthingmaps`` mean: a category's id less one, or the index among the 171 classes."""

VocLabelDirectory = Literal["SegmentationClassAug", "SegmentationClass"]
"""Which of Pascal VOC's directories holds the label maps."""

RegionKind = Literal["classes", "things"]
"""Regions of labels that proposals are to meet: all places of a class together, or single things where the labels have
instances."""
