"""Settings of data preparation: one data set in its official layout, or drawn, becomes one artifact of scenes."""

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from ovseg_models.image_input import PIXELS_MAX
from pipeline.prepare.options import CocoLabelKind, DataSetName, StuffValues, VocLabelDirectory
from pipeline.settings.model import CHANGES_NO_RESULT, SettingsModel, Share

_OWN_OPTIONS = {
    "labels": "coco",
    "captions": "coco",
    "annotations": "coco",
    "images": "coco",
    "present_only": "coco",
    "stuff_values": "coco",
    "voc_labels": "pascal-voc-20",
    "reference_resize": "ade20k-847",
    "drawn_world": "drawn-world",
}


class DrawnWorldSettings(SettingsModel):
    """The generated data set."""

    scenes: int = Field(default=1000, ge=1, le=10_000_000, description="Number of scenes to draw.")
    seed: int = Field(default=0, ge=0, description="Chooses the world; splits of one seed never overlap.")
    size_px: int = Field(default=96, ge=32, le=1024, description="Side of the pictures [px].")
    context: Share = Field(default=0.85, description="Share of things that stand on their home stuff.")
    captions_per_scene: int = Field(default=5, ge=0, le=5, description="Captions of each scene, at most.")


class PrepareSettings(SettingsModel):
    """Which data set to prepare, and how."""

    dataset: DataSetName = Field(description="Name of the data set.")
    root: Path = Field(
        default=Path(),
        description="Directory of the data set in its official layout; the drawn world needs none.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    split: str = Field(
        default="",
        pattern=r"^[A-Za-z0-9_-]{0,40}$",
        description="'train2017' or 'val2017' of COCO, 'train' or 'val' elsewhere; a folder may do without.",
    )
    labels: CocoLabelKind = Field(
        default="stuff",
        description="COCO: labels of COCO-Stuff (171 classes), panoptic (133), instances (80 things), or none. Files "
        "under 'annotations' say themselves what they hold, and their categories are the classes.",
    )
    captions: bool = Field(default=True, description="COCO: take the captions.")
    annotations: tuple[str, ...] = Field(
        default=(),
        description="COCO's format: JSON files of your own, relative to the root, such as "
        "['annotations/instances_default.json'] of CVAT; in place of the official ones.",
    )
    images: str = Field(
        default="",
        description="COCO's format: directory of the pictures, relative to the root; sub-folders are entered. Empty = "
        "the split's.",
    )
    present_only: bool = Field(
        default=False,
        description="COCO: take only the pictures that are there, as in a part of COCO with the official files; "
        "annotations of others are counted and passed over.",
    )
    stuff_values: StuffValues = Field(
        default="official",
        description="COCO: what values of stuffthingmaps mean: 'official' = a category's id less one, 'contiguous' = "
        "the index 0..170, as other tools write it.",
    )
    voc_labels: VocLabelDirectory = Field(
        default="SegmentationClassAug", description="Pascal VOC: directory of the labels."
    )
    reference_resize: bool = Field(
        default=False,
        description="ADE20K-847: shrink to short side 512 px and save as JPEG of quality 75, as the reference does.",
    )
    drawn_world: DrawnWorldSettings = Field(default=DrawnWorldSettings(), description="Drawn world: its options.")
    scenes_per_shard: int = Field(default=1000, ge=1, le=100_000, description="Scenes of one unit of work.")
    limit: int | None = Field(default=None, ge=1, description="Take the first scenes only, for a trial; none = all.")
    max_image_px: int = Field(
        default=PIXELS_MAX,
        ge=1,
        le=PIXELS_MAX,
        description="Width times height of an image at most [px]; larger ones are taken for decompression bombs. The "
        "default is where Pillow begins to warn.",
    )

    @model_validator(mode="after")
    def _options_fit_the_data_set(self) -> Self:
        """Refuse options of another data set, and a split where there must or must not be one."""
        faults = [
            f"{option}: is an option of {owner} only (got it for {self.dataset})"
            for option, owner in _OWN_OPTIONS.items()
            if self.dataset != owner and getattr(self, option) != type(self).model_fields[option].default
        ]
        if not self.split and self.dataset != "folder" and not (self.annotations and self.images):
            faults.append(f"split: should be named for {self.dataset} (got nothing)")
        if faults:
            raise ValueError("; ".join(faults))
        return self
