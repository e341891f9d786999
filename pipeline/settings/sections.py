"""Every table of a settings file, in the order of the file, and ``Settings``, which holds them all."""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.config import JsonDict

from ovseg_models.image_input import PIXELS_MAX
from pipeline.data_set_options import CocoLabelKind, DataSetName, StuffValues, VocLabelDirectory
from pipeline.settings.model import (
    CHANGES_NO_RESULT,
    LATER_SETTING,
    BlankPatches,
    DatasetReference,
    ListOf,
    MaskThreshold,
    Namer,
    Precision,
    PromptTemplates,
    SettingsModel,
    Share,
    SideLength,
    all_settings,
    check_sides,
    result_settings,
    section,
    with_inherited,
)

# What several stages inherit


class NetInputSettings(SettingsModel):
    """What the proposal net sees and gives, in every stage that does not say otherwise."""

    short_side_px: SideLength = Field(default=512, description="Short side of the net's input [px].")
    max_side_px: SideLength = Field(default=2048, description="Upper limit of the input's long side [px].")
    mask_threshold: MaskThreshold = Field(
        default=0.5, description="Mask probability above which a pixel is in the mask."
    )

    _sides_fit = model_validator(mode="after")(check_sides)


class OnePassSettings(SettingsModel):
    """How large one pass sees a picture, which becomes a square of CLIP's own size or larger."""

    side_px: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="Side of the square [px], a multiple of the patches'; positions are resized to it. 0 = CLIP's own.",
    )
    stride_px: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="From one window of CLIP's own size to the next [px], a multiple of the patches' side: each is "
        "seen as a picture of its own, and no position is resized. 0 = no windows, the whole square at once.",
    )


_PRECISION: Precision = "fp32"
_NAMER: Namer = "crops"
_INHERITED = {
    "precision": _PRECISION,
    "namer": _NAMER,
    **{
        f"{section}.{name}": field.default
        for section, model in (("net_input", NetInputSettings), ("one_pass", OnePassSettings))
        for name, field in model.model_fields.items()
    },
}


def _inherited(key: str, description: str, mark: JsonDict | None = None) -> Any:
    """Declare a setting that takes the value at a key of ``Settings`` where its own section gives none."""
    extra = {**(mark or {}), "inherits": key}
    return Field(default=_INHERITED[key], description=description, json_schema_extra=extra)


def _inherited_namer() -> Any:
    """Declare how a stage's masks are named."""
    return _inherited(
        "namer", "How CLIP sees masks: 'crops', or the picture once: 'one-pass', 'pooled'.", LATER_SETTING
    )


def _inherited_side() -> Any:
    """Declare how large a stage's one pass sees a picture."""
    return _inherited("one_pass.side_px", "One pass: side of the square [px]; 0 = CLIP's own.", LATER_SETTING)


def _inherited_stride() -> Any:
    """Declare the windows of a stage's one pass."""
    return _inherited("one_pass.stride_px", "One pass: from window to window [px]; 0 = none.", LATER_SETTING)


# Data sets

# An option that few data sets have, and these.
_OWN_OPTIONS = {
    "labels": "coco",
    "captions": "coco",
    "annotations": "coco",
    "images": "coco",
    "present_only": "coco",
    "stuff_values": "coco",
    "voc_labels": "pascal-voc-20 and pascal-voc-21",
    "reference_resize": "ade20k-847",
    "drawn_world": "drawn-world",
}


class DrawnWorldSettings(SettingsModel):
    """The drawn world: pictures that are generated, with captions and labels."""

    scenes: int = Field(default=1000, ge=1, le=10_000_000, description="Number of scenes to draw.")
    seed: int = Field(default=0, ge=0, description="Chooses the world; splits of one seed never overlap.")
    size_px: int = Field(default=96, ge=32, le=1024, description="Side of the pictures [px].")


class PrepareSettings(SettingsModel):
    """Which data set to prepare, and how."""

    dataset: DataSetName = Field(description="Name of the data set.")
    root: Path = Field(
        default=Path(),
        strict=False,
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
    annotations: ListOf[str] = Field(
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
    drawn_world: DrawnWorldSettings = section(DrawnWorldSettings)
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
            if self.dataset not in owner.split(" and ")
            and getattr(self, option) != type(self).model_fields[option].get_default(call_default_factory=True)
        ]
        if not self.split and self.dataset != "folder" and not (self.annotations and self.images):
            faults.append(f"split: should be named for {self.dataset} (got nothing)")
        if faults:
            raise ValueError("; ".join(faults))
        return self


# Masks of others


MaskFormat = Literal["auto", "coco", "panoptic", "sam", "npz", "png"]
"""Kinds of files that masks of others come in."""

DropAbove = Annotated[float, Field(gt=0, le=1)]
"""A share of overlap above which a mask is dropped or joined; 1 = none is."""


class MaskRuleSettings(SettingsModel):
    """Which imported masks are kept. Rules apply in this order; masks with higher scores, then larger ones, come first.

    Segment Anything's masks are finer than things with names: parts, and wholes of parts, beside each other.
    """

    merge_categories: bool = Field(
        default=False, description="Join all masks of a picture that have the same category, as semantic regions are."
    )
    merge_overlap: DropAbove = Field(
        default=1.0,
        description="Share of the smaller mask in the larger one above which the two are joined: parts become a whole; "
        "1 = none is.",
    )
    min_share: Share = Field(default=0.0, description="Share of the picture below which a mask is dropped.")
    max_share: Share = Field(default=1.0, description="Share of the picture above which a mask is dropped.")
    duplicate_iou: DropAbove = Field(
        default=1.0, description="IoU with a mask that comes before it above which a mask is dropped; 1 = none is."
    )
    contained_share: DropAbove = Field(
        default=1.0,
        description="Share of a mask inside a larger one that is kept above which it is dropped; 1 = none is.",
    )
    max_masks: int | None = Field(
        default=None, ge=1, le=10_000, description="Masks of a picture at most, those that come first; none = all."
    )

    @model_validator(mode="after")
    def _shares_fit(self) -> Self:
        if self.max_share < self.min_share:
            raise ValueError(f"max_share {self.max_share} should be at least min_share {self.min_share}")
        return self


class MasksSettings(SettingsModel):
    """Masks of others for a data set, ``ovseg import-masks``: they take the place of the proposal net's."""

    path: Path = Field(
        strict=False,
        description="A JSON file (COCO results, COCO, COCO panoptic, sem_seg_predictions), or a folder with a file per "
        "picture (SA-1B or SAM JSON, NPZ, label PNG) or a folder per picture (SAM's PNGs).",
        json_schema_extra=CHANGES_NO_RESULT,  # the digests of the files do
    )
    format: MaskFormat = Field(
        default="auto",
        description="'coco' = results or annotations with run lengths or polygons, 'panoptic' = COCO's JSON and PNGs, "
        "'sam' = SA-1B's JSON or what SAM's automatic generator saves, 'npz' and 'png' = arrays and label maps; "
        "'auto' = found out from the files.",
    )
    images: str = Field(
        default="",
        description="COCO: a JSON file with the list 'images', where results name pictures by ids that the scenes do "
        "not have.",
        json_schema_extra=CHANGES_NO_RESULT,  # as of path
    )
    png_dir: str = Field(
        default="",
        description="COCO panoptic: folder of the PNGs; empty = named as the JSON file, or the JSON's own folder.",
        json_schema_extra=CHANGES_NO_RESULT,  # as of path
    )
    background: ListOf[int] = Field(
        default=(0,), description="Label maps of 'npz' and 'png': values that are no mask, such as 0 and 255."
    )
    pixels: Literal["upright", "stored"] = Field(
        default="upright",
        description="What masks lie on where a picture's EXIF tag turns it: the picture as shown, which most tools "
        "read, or its stored pixels, as COCO's annotations do. Where the size fits one alone, that one is taken.",
    )
    rules: MaskRuleSettings = section(MaskRuleSettings)


# CLIP


class ClipSettings(SettingsModel):
    """The CLIP that names regions: it scores proposals, is adapted, and gives the proposal net its text embeddings."""

    architecture: str = Field(
        default="ViT-B-16",
        min_length=1,
        description="Name of an open_clip architecture, 'hf-hub:ORG/NAME', 'local-dir:PATH' (a folder that open_clip "
        "wrote), path of an open_clip model JSON, or 'drawn-world-small', the small CLIP that this project ships.",
    )
    pretrained: str = Field(
        default="openai",
        min_length=1,
        description="Weights: an open_clip tag, the path of a weight file, 'shipped' (of 'drawn-world-small'), or "
        "'random'; to be left out for 'hf-hub:' and 'local-dir:', which hold their own. The digest covers the weights "
        "themselves, not this name alone.",
    )
    quick_gelu: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the activation is x * sigmoid(1.702 x), as OpenAI's weights expect; 'auto' = as the "
        "weights say, else as the architecture says. Of no matter to towers of timm.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of random weights.")
    random_if_unavailable: bool = Field(
        default=False,
        description="Use random weights when a tag cannot be downloaded, to try the pipeline without network.",
    )


# Training, of stages 1 and 3


class CheckpointSettings(SettingsModel):
    """When a training saves its state; a stopped run goes on from it, so none of this changes the result."""

    model_config = ConfigDict(json_schema_extra=CHANGES_NO_RESULT)

    every_steps: int = Field(
        default=1000,
        ge=1,
        description="Steps from one checkpoint to the next; the last step always has one.",
    )
    keep_last: int = Field(
        default=2,
        ge=1,
        description="Checkpoints that are kept, the newest; the best one is kept besides.",
    )


# Stage 1: the proposal net (OVSeg, section 3.1 and appendix)


NONE, RANDOM, SHIPPED = "none", "random", "shipped"


class BackboneSettings(SettingsModel):
    """What turns the image into feature maps at strides 4, 8, 16 and 32."""

    name: str = Field(
        default="r101c",
        min_length=1,
        description="'r101c' or 'swin_base_patch4_window12_384' as in the paper, or any timm model with such maps.",
    )
    pretrained: str = Field(
        default=RANDOM,
        min_length=1,
        description="Weights to start from: a timm tag, the path of a weight file, or 'random'. The digest covers "
        "the file's bytes, not its path alone.",
    )
    freeze_at: int = Field(
        default=0,
        ge=0,
        le=5,
        description="Stages that are not trained: 0 = none, 1 = the stem, 2 = the stem and the first stage, and so on; "
        "0 for a Swin.",
    )
    frozen_batch_norm: bool = Field(
        default=False, description="Keep the statistics and weights of all batch norms as they are; off for a Swin."
    )
    drop_path_rate: float = Field(
        default=0.0, ge=0, lt=1, description="Share of residual paths dropped in the last block; 0 but for a Swin."
    )
    timm_arguments: dict[str, JsonValue] = Field(
        default={}, description="Further arguments of the timm model, such as channels = [24, 48, 72, 96] of a ResNet."
    )

    @model_validator(mode="after")
    def _fits_the_kind(self) -> Self:
        if self.is_swin and (self.freeze_at or self.frozen_batch_norm):
            raise ValueError(f"freeze_at should be 0 and frozen_batch_norm false for the Swin {self.name!r}")
        if self.drop_path_rate and not self.is_swin:
            raise ValueError(f"drop_path_rate {self.drop_path_rate} should be 0 for {self.name!r}, which is no Swin")
        if self.timm_arguments and self.name == "r101c":
            raise ValueError("timm_arguments should be empty for 'r101c', whose form is fixed")
        return self

    @property
    def is_swin(self) -> bool:
        """Whether the backbone is a Swin Transformer."""
        return self.name.startswith("swin_")

    def arguments(self) -> dict[str, Any]:
        """Return what the backbone's builder takes beside name and weights."""
        if self.is_swin:
            kind: dict[str, Any] = {"drop_path_rate": self.drop_path_rate}
        else:
            kind = {"freeze_at": self.freeze_at, "frozen_batch_norm": self.frozen_batch_norm}
        return kind | ({"timm_arguments": self.timm_arguments} if self.timm_arguments else {})


class ArchitectureSettings(SettingsModel):
    """A MaskFormer whose class head gives an embedding in CLIP's space for each query."""

    backbone: BackboneSettings = section(BackboneSettings)
    queries: int = Field(default=100, ge=1, le=1000, description="Number of proposals per image.")
    encoder_layers: int = Field(default=0, ge=0, le=12, description="Self-attention layers among stride-32 pixels.")
    decoder_layers: int = Field(default=6, ge=1, le=12, description="Layers of the query decoder; each is supervised.")
    hidden_dim: int = Field(
        default=256,
        ge=4,
        description="Width of queries and pixel decoder; a multiple of 4, of heads and of norm_groups.",
    )
    mask_dim: int = Field(default=256, ge=1, description="Channels of mask features and mask embeddings.")
    norm_groups: int = Field(default=32, ge=1, description="Groups of the pixel decoder's norms.")
    heads: int = Field(default=8, ge=1, description="Heads of each attention.")
    feedforward_dim: int = Field(default=2048, ge=1, description="Hidden width of the feed-forward parts.")
    dropout: float = Field(default=0.1, ge=0, lt=1, description="Dropout in encoder and decoder.")
    query_source: Literal["res3", "res4", "res5"] = Field(
        default="res5",
        description="The backbone's map that encoder and decoder read: stride 8, 16 or 32. The paper's is res5; of a "
        "small picture that is a few pixels only.",
    )
    embedding_hidden_dim: int = Field(default=1024, ge=1, description="Hidden width of the proposal-embedding head.")

    @model_validator(mode="after")
    def _hidden_dim_divides(self) -> Self:
        for divisor, label in ((4, ""), (self.heads, "heads "), (self.norm_groups, "norm_groups ")):
            if self.hidden_dim % divisor:
                raise ValueError(f"hidden_dim {self.hidden_dim} should be a multiple of {label}{divisor}")
        return self

    def arguments(self) -> dict[str, Any]:
        """Return what ``ovseg_models``' builder takes beside the two numbers that follow from CLIP."""
        sizes = self.model_dump(exclude={"backbone"})
        weights = False if self.backbone.pretrained == RANDOM else self.backbone.pretrained
        return {
            "backbone": self.backbone.name,
            "backbone_arguments": self.backbone.arguments(),
            "pretrained": weights,
            **sizes,
        }


class LossSettings(SettingsModel):
    """Weights of the proposal net's losses, the same in matching and training."""

    class_weight: float = Field(default=1.0, ge=0, description="Weight of the classification loss.")
    mask_weight: float = Field(default=20.0, ge=0, description="Weight of the focal mask loss.")
    dice_weight: float = Field(default=1.0, ge=0, description="Weight of the dice mask loss.")
    no_object_weight: float = Field(
        default=0.1, ge=0, le=1, description="Weight of queries without an object within the classification loss."
    )
    unlabelled_pixels: Literal["background", "left_out"] = Field(
        default="background",
        description="What pixels without a label, or of held-out classes, are to a mask: 'background', as published, "
        "or 'left_out' of matching and losses, so that masks of what has no label are not unlearned.",
    )


class AugmentationSettings(SettingsModel):
    """Resize to a random short side, crop, jitter colours, flip, pad to the crop's size, in this order."""

    short_sides_px: ListOf[SideLength] = Field(
        default=(512,), min_length=1, description="Short sides [px] of which one is drawn for each sample."
    )
    max_side_px: SideLength = Field(default=2048, description="Upper limit of the long side after resizing [px].")
    crop_px: SideLength = Field(default=512, description="Side of the square crop [px].")
    colours: bool = Field(default=True, description="Vary brightness, contrast, saturation and hue.")


class ProposalTrainingSettings(SettingsModel):
    """AdamW with a polynomial schedule; one step is one global batch, over any number of processes."""

    seed: int = Field(default=0, ge=0, description="Seed of initial weights, data order and augmentation.")
    steps: int = Field(default=120_000, ge=1, description="Optimizer steps.")
    batch_images: int = Field(default=32, ge=1, description="Images per step, over all processes together.")
    accumulation_steps: int = Field(
        default=0,
        ge=0,
        description="Parts in which a process takes its share of the batch to save memory; 0 = as many as the device's "
        "memory makes necessary, found by trying.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass instead of keeping them, to save memory.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    learning_rate: float = Field(default=2e-4, gt=0, description="Learning rate after the warm-up.")
    backbone_rate_factor: float = Field(default=0.1, ge=0, description="Factor on the backbone's learning rate.")
    weight_decay: float = Field(default=1e-4, ge=0, description="Decay of weights; norms and embeddings have none.")
    warmup_steps: int = Field(default=1500, ge=0, description="Steps of linear warm-up.")
    warmup_factor: float = Field(default=1e-6, ge=0, le=1, description="Factor on the learning rate at step 0.")
    poly_power: float = Field(default=0.9, gt=0, description="Exponent of the fall to 0 at the last step.")
    gradient_clip_norm: float = Field(
        default=0.01, gt=0, description="Upper limit of the L2 norm of the whole model's gradient."
    )
    precision: Precision = _inherited("precision", "Arithmetic on CUDA; fp16 scales the loss.")
    augmentation: AugmentationSettings = section(AugmentationSettings)
    loss: LossSettings = section(LossSettings)
    checkpoints: CheckpointSettings = section(CheckpointSettings)


class ProposalNetSettings(SettingsModel):
    """Stage 1, ``ovseg train-proposals``: scenes with labels in, ``proposal_net`` out."""

    dataset: DatasetReference = Field(default="", description="Data set to train on, by its name; it needs labels.")
    held_out_classes: ListOf[str] = Field(
        default=(),
        description="Classes of the data set that are not shown: their pixels are ignored (15 of COCO-Stuff's 171 in "
        "SimBaseline and ZegFormer).",
    )
    validation_dataset: DatasetReference = Field(
        default="", description="Labelled data set for validation; empty = no validation."
    )
    validation_every_steps: int = Field(default=5000, ge=1, description="Steps from one validation to the next.")
    validation_short_side_px: SideLength = _inherited("net_input.short_side_px", "Short side at validation [px].")
    validation_max_side_px: SideLength = _inherited("net_input.max_side_px", "Upper limit of the long side there [px].")
    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around class names.")
    architecture: ArchitectureSettings = section(ArchitectureSettings)
    initial_weights: str = Field(
        default=NONE,
        min_length=1,
        description="Weights of a whole proposal net to start from, of the same architecture: the path of a weight "
        "file, 'shipped' (the small net of the drawn world, as demo.toml has it), or 'none'. The digest covers the "
        "file's bytes, not its path.",
    )
    clip: ClipSettings | None = Field(
        default=None,
        description="The CLIP whose texts the net learns, if that is another one than [clip]; none = [clip]. With "
        "another one the net finds masks, and [clip] alone names them (ensemble weight 1): so the CLIP that names can "
        "be exchanged, and neither this stage nor the proposals are made again.",
        json_schema_extra=CHANGES_NO_RESULT,  # its digest does
    )
    training: ProposalTrainingSettings = section(ProposalTrainingSettings)

    _sides_fit = model_validator(mode="after")(check_sides)


# Stage 2: mining (OVSeg, section 3.2)


Source = Literal["masks-classes", "masks-1-caption", "proposals-1-caption", "proposals-5-captions"]
"""Where masks and texts of pairs come from, the four rows of the paper's Table 2; 'masks' are ground truth."""


class ProposeSettings(SettingsModel):
    """First step: scenes and the proposal net give proposals. A change here redoes all three steps."""

    short_side_px: SideLength = _inherited("net_input.short_side_px", "Short side of the net's input [px].")
    max_side_px: SideLength = _inherited("net_input.max_side_px", "Upper limit of the input's long side [px].")
    mask_threshold: MaskThreshold = _inherited(
        "net_input.mask_threshold", "Mask probability above which a pixel is in the mask."
    )
    duplicate_iou: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="IoU with an earlier query's mask above which a proposal is dropped; 1 = none is.",
    )
    precision: Precision = _inherited("precision", "Arithmetic on CUDA.")
    batch_images: int = Field(
        default=1, ge=1, description="Images per forward pass.", json_schema_extra=CHANGES_NO_RESULT
    )

    _sides_fit = model_validator(mode="after")(check_sides)


class EmbedSettings(SettingsModel):
    """Second step: the original CLIP gives one embedding per mask, by default of its crop. No noun plays a part."""

    namer: Namer = _inherited_namer()
    picture_side_px: int = _inherited_side()
    window_stride_px: int = _inherited_stride()
    precision: Precision = _inherited("precision", "Arithmetic on CUDA.")
    share_above_iou: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="IoU above which overlapping masks of a picture share the crop and embedding of one of them; 1 = "
        "only equal masks do. The card of the pairs reports what it saved.",
        json_schema_extra=LATER_SETTING,
    )
    blank_patches: BlankPatches = Field(
        default="kept",
        description="'dropped' = tokens of patches without a mask pixel leave CLIP's sequence; for a CLIP that was "
        "finetuned so, as 'clip.pretrained' may name one.",
        json_schema_extra=LATER_SETTING,
    )
    batch_crops: int | None = Field(
        default=None,
        ge=1,
        description="Crops per forward pass, of many images; halved when the memory does not suffice. "
        "By default 256 on a GPU, 64 on a CPU.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    batch_images: int | None = Field(
        default=None,
        ge=1,
        description="One pass: pictures per forward pass; halved when the memory does not suffice. By default 16 on a "
        "GPU, 1 on a CPU.",
        json_schema_extra=CHANGES_NO_RESULT,
    )

    @model_validator(mode="after")
    def _shares_crops_alone(self) -> Self:
        if self.namer != "crops" and self.share_above_iou < 1:
            raise ValueError(
                f"share_above_iou {self.share_above_iou} should be 1 where namer is {self.namer!r}, which cuts no crops"
            )
        return self


class NounSettings(SettingsModel):
    """Which words of a caption count as nouns. A change here redoes the third step alone."""

    tagger: Literal["embedded", "nltk", "spacy"] = Field(
        default="embedded",
        description="'embedded' = the caption tagger in this package, 'nltk' = NLTK's own averaged perceptron (to be "
        "downloaded), 'spacy' = spaCy (an extra to be installed).",
    )
    compound_nouns: bool = Field(default=False, description="Keep 'traffic light' together, not 'traffic' and 'light'.")
    fixed_expressions: bool = Field(
        default=False,
        description="Keep the expressions of the shipped list together: 'hot dog' is no 'dog', 'teddy bear' no bear.",
    )
    stop_words: ListOf[str] = Field(
        default=(),
        description="Lemmas that make no pair, such as 'photo' or 'view'; 'picture of' is 'picture' where 'of' "
        "follows. None in the paper.",
    )
    shipped_stop_words: bool = Field(
        default=False,
        description="Add the shipped list of words that name no region to stop_words: photo, view, side, group, ...",
    )
    lemmas: bool = Field(
        default=True, description="Bring nouns to their dictionary form; false = as written, 'dogs' and 'dog' differ."
    )
    lower_case: bool = Field(
        default=True, description="Write nouns in lower case; false, only where lemmas is, keeps their capitals."
    )

    @field_validator("stop_words")
    @classmethod
    def _written_as_lemmas(cls, stop_words: tuple[str, ...]) -> tuple[str, ...]:
        for word in stop_words:
            lemma = " ".join(unicodedata.normalize("NFC", word.lower()).split())
            if word != lemma or not word:
                raise ValueError(
                    f"stop word {word!r} should be in lower case, with single blanks between words, as lemmas are"
                )
        return stop_words

    @model_validator(mode="after")
    def _lemmas_are_lower_case(self) -> Self:
        if self.lemmas and not self.lower_case:
            raise ValueError("lower_case should be true where lemmas is, as lemmas are lower case")
        return self


class PairSettings(SettingsModel):
    """Third step: each noun gets the proposal whose embedding is nearest. A change here redoes this step alone."""

    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around nouns.")
    min_score: float = Field(
        default=-1.0, ge=-1, le=1, description="Cosine below which a pair is not kept; -1 = all are, as in the paper."
    )
    min_area_share: Share = Field(
        default=0.0, description="Share of the image below which a mask makes no pair; 0 = none, as in the paper."
    )
    crop_format: Literal["png", "jpg", "jpg-256"] = Field(
        default="png",
        description="File format of the crops: 'png' is lossless, 'jpg' takes about a fifth of the space; 'jpg-256' is "
        "shrunk to a shorter side of 256 px besides, the fastest to train on.",
    )


class MineSettings(SettingsModel):
    """Stage 2, ``ovseg mine``: scenes with captions, the proposal net and CLIP in, ``pairs`` out."""

    dataset: DatasetReference = Field(default="", description="Data set to mine, by its name.")
    source: Source = Field(
        default="proposals-1-caption",
        description="Table 2 of the paper: ground-truth masks with their classes or with the nouns of one caption, or "
        "proposals with the nouns of one caption (the one with the lowest id) or of five.",
    )
    left_out_classes: ListOf[str] = Field(
        default=(),
        description="Classes whose ground-truth masks are no regions, for the sources 'masks-...'. The paper's masks "
        "are of the classes that its proposal net learned: give those of proposal_net.held_out_classes.",
        json_schema_extra=LATER_SETTING,
    )
    proposals: Literal["net", "imported"] = Field(
        default="net",
        description="Where proposals come from: the proposal net, or 'imported' = the masks of others that the section "
        "'masks' names for this data set.",
        json_schema_extra=LATER_SETTING,
    )
    propose: ProposeSettings = section(ProposeSettings)
    embed: EmbedSettings = section(EmbedSettings)
    nouns: NounSettings = section(NounSettings)
    pair: PairSettings = section(PairSettings)

    @property
    def uses_ground_truth_masks(self) -> bool:
        """Whether masks come from the labels; the half of ``source`` that steps 1 and 2 depend on."""
        return self.source.startswith("masks")

    @property
    def captions_per_image(self) -> int:
        """Captions of an image whose nouns are taken, the lowest ids first; 0 = class names instead of captions."""
        return {"classes": 0, "1-caption": 1, "5-captions": 5}[self.source.partition("-")[2]]


# Stage 3: CLIP's adaptation (OVSeg, sections 3.2 and 3.3)


Mode = Literal["ft", "mpt", "ft-then-mpt", "mpt-then-ft", "ft+mpt", "psm", "ft+psm", "text", "query"]


class PhaseSettings(SettingsModel):
    """The image tower is trained: AdamW with linear warm-up and a cosine to 0; one step is one global batch."""

    epochs: int = Field(default=5, ge=1, description="Times each pair is shown.")
    batch_pairs: int = Field(
        default=256, ge=2, description="Pairs per step, over all processes; each is a negative of all the others."
    )
    learning_rate: float = Field(default=5e-6, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.2, ge=0, description="Decay of weights; norms, biases and gains have none.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps of linear warm-up.")


class PromptPhaseSettings(PhaseSettings):
    """The mask prompts are trained, as in 'ft' with another learning rate and no decay."""

    learning_rate: float = Field(default=2e-2, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the prompt tokens.")


class SimilarityPhaseSettings(PhaseSettings):
    """As for 'ft', for the parameters on similarities; MaskCLIP++ has this rate, and a tower a hundredth of it."""

    learning_rate: float = Field(default=2e-4, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the weights of sentences.")


class TextPhaseSettings(PhaseSettings):
    """As for 'ft', for tokens before each name; SimBaseline's rate is 0.02, of SGD."""

    length: int = Field(default=16, ge=1, le=64, description="Number of tokens, 16 in SimBaseline.")
    learning_rate: float = Field(default=2e-3, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the tokens.")


class QueryPhaseSettings(PhaseSettings):
    """As for 'ft', for the queries of mask tokens; MasQCLIP has this rate."""

    learning_rate: float = Field(default=1e-4, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the queries.")


class HoldingSettings(SettingsModel):
    """Keeps the image tower near the original CLIP while it is trained."""

    form: Literal["none", "similarities", "embeddings"] = Field(
        default="none",
        description="'similarities' = what both say of unmasked crops, among the nouns of the batch (MAFT); "
        "'embeddings' = the cosine of a masked crop with the original's embedding of the unmasked one (CLIPSelf). In "
        "one pass, whole pictures take the place of unmasked crops in the first, mask tokens that of masked crops in "
        "the second.",
    )
    weight: float = Field(default=0.1, ge=0, description="Weight of this loss beside the contrastive one.")


class HardNegativeSettings(SettingsModel):
    """Nouns of other pictures that each crop is compared with, beside those of its batch."""

    count: int = Field(
        default=0, ge=0, description="Nouns of a pair: the nearest to its own in CLIP's space, of other pictures."
    )
    max_cosine: float = Field(
        default=0.9, ge=-1, le=1, description="A noun nearer than this to the pair's own counts as the same thing."
    )


class CropAugmentationSettings(SettingsModel):
    """A random window of each crop, resized to CLIP's input size."""

    min_scale: float = Field(
        default=0.9, gt=0, le=1, description="Smallest share of the crop's area in the window; the largest is 1."
    )
    max_aspect: float = Field(
        default=4 / 3, ge=1, description="Largest width to height of the window; the smallest is its inverse."
    )


class FinetuneSettings(SettingsModel):
    """Stage 3, ``ovseg finetune``: pairs and CLIP in, ``adapted_clip`` out; no mode trains the text tower."""

    mode: Mode = Field(
        default="ft-then-mpt",
        description="FT trains the image tower, MPT the mask prompt tokens alone; 'ft+mpt' trains both at once with "
        "batch, epochs and warm-up of 'ft', and learning rate and decay of 'mpt' for the prompts. 'psm' trains a "
        "weight for each sentence of prompt_templates on the similarities alone, as MaskCLIP++ does; 'ft+psm' the "
        "image tower too, which there learns slowly; 'text' trains tokens before each name, as SimBaseline does; "
        "'query' trains what mask tokens of one pass ask with, and no weight of CLIP, as MasQCLIP does.",
    )
    namer: Literal["crops", "one-pass"] = Field(
        default="crops",
        description="What CLIP is tuned for: 'crops', or mask tokens of 'one-pass'; not inherited, as the modes that "
        "make sense depend on it. Evaluate by the same namer.",
        json_schema_extra=LATER_SETTING,
    )
    picture_side_px: int = _inherited_side()
    window_stride_px: int = _inherited_stride()
    pair_source: Literal["mined", "ground-truth", "both"] = Field(
        default="mined",
        description="'mined' = the pairs that 'mine' describes; 'ground-truth' = the labels' masks of mine.dataset "
        "with their class names, but for proposal_net.held_out_classes; 'both' = all of these.",
        json_schema_extra=LATER_SETTING,
    )
    pairs_dir: str = Field(
        default="",
        description="Directory of an artifact of pairs to train on, such as one mined elsewhere; empty = those that "
        "stage 2 makes of these settings.",
        json_schema_extra=CHANGES_NO_RESULT,  # their digest does
    )
    seed: int = Field(default=0, ge=0, description="Seed of prompt tokens, data order and augmentation.")
    prompt_depth: int = Field(default=3, ge=1, le=64, description="Transformer layers that get mask prompt tokens.")
    blank_patches: BlankPatches = Field(
        default="kept",
        description="'dropped' = tokens of patches without a mask pixel leave the sequence (after the last layer that "
        "takes prompts): fewer operations here and wherever the adapted CLIP is used.",
        json_schema_extra=LATER_SETTING,
    )
    train_logit_scale: bool = Field(
        default=True,
        description="Train the logit scale too, up to ln 100, as the reference does in FT and MPT; of a sigmoid model "
        "scale and bias, without limit.",
    )
    loss: Literal["contrastive", "noun-aware", "sigmoid"] = Field(
        default="contrastive",
        description="'contrastive' = the model's own (CLIP's softmax, or SigLIP's sigmoid with its bias), where equal "
        "nouns in a batch are negatives of each other; 'noun-aware' = equal nouns are positives; 'sigmoid' = SigLIP's "
        "for any model, where they are positives too.",
    )
    holding: HoldingSettings = section(HoldingSettings, LATER_SETTING)
    hard_negatives: HardNegativeSettings = section(HardNegativeSettings, LATER_SETTING)
    tuned_share: Share = Field(
        default=1.0,
        description="Share of the tuned weights in an average with the original ones (WiSE-FT); only mode 'ft'. "
        "Another share trains nothing again.",
        json_schema_extra=LATER_SETTING,
    )
    prompt_templates: PromptTemplates = Field(
        default="bare", description="Sentences around nouns; 'bare' is the noun itself."
    )
    ft: PhaseSettings = section(PhaseSettings)
    mpt: PromptPhaseSettings = section(PromptPhaseSettings)
    psm: SimilarityPhaseSettings = section(SimilarityPhaseSettings, LATER_SETTING)
    text: TextPhaseSettings = section(TextPhaseSettings, LATER_SETTING)
    query: QueryPhaseSettings = section(QueryPhaseSettings, LATER_SETTING)
    augmentation: CropAugmentationSettings = section(CropAugmentationSettings)
    precision: Precision = _inherited("precision", "Arithmetic on CUDA; fp16 scales the loss.")
    accumulation_steps: int = Field(
        default=0,
        ge=0,
        description="Parts in which a process takes its share of the batch to save memory; embeddings are cached, so "
        "that the contrastive batch stays whole. 0 = as many as the device's memory makes necessary, found by trying.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    gradient_checkpointing: bool = Field(
        default=False,
        description="Compute activations again in the backward pass instead of keeping them, to save memory.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    validation_dataset: DatasetReference = Field(
        default="",
        description="Labelled data set whose masked ground-truth crops are classified after each epoch; empty = none.",
    )
    checkpoints: CheckpointSettings = section(CheckpointSettings)

    @model_validator(mode="after")
    def _averages_the_tower_alone(self) -> Self:
        if self.tuned_share < 1 and self.mode != "ft":
            message = (
                f"tuned_share {self.tuned_share} should be 1 in mode {self.mode!r}: the original CLIP has nothing to "
                "average with but its image tower, which mode 'ft' trains"
            )
            raise ValueError(message)
        return self

    @model_validator(mode="after")
    def _holds_what_is_trained(self) -> Self:
        if self.holding.form != "none" and not any({"ft", "query"} & set(phase.split("+")) for phase in self.phases):
            message = f"holding should be 'none' in mode {self.mode!r}: it keeps the image tower near the original CLIP"
            raise ValueError(f"{message}, and no phase trains that")
        return self

    @model_validator(mode="after")
    def _trains_what_the_namer_uses(self) -> Self:
        """Refuse what has no meaning for crops, or none in one pass."""
        if self.namer == "crops" and self.mode == "query":
            raise ValueError(
                "mode 'query' should be another one where namer is 'crops': it trains what mask tokens of one pass ask "
                "with; set namer to 'one-pass', or mode to 'ft'"
            )
        if self.namer == "crops":
            return self
        if "mpt" in self.mode:
            raise ValueError(
                f"mode {self.mode!r} should be 'ft' or 'query' where namer is 'one-pass': nothing is cut out of the "
                "picture, so that mask prompts have no place"
            )
        if self.blank_patches == "dropped":
            raise ValueError("blank_patches should be 'kept' where namer is 'one-pass', which sees whole pictures")
        if self.mode == "query" and self.holding.form == "similarities":
            raise ValueError(
                "holding.form 'similarities' should be 'embeddings' or 'none' in mode 'query', which leaves what CLIP "
                "says of whole pictures as it is"
            )
        return self

    @property
    def phases(self) -> tuple[str, ...]:
        """What is trained after what: each is 'ft', 'mpt', 'psm', 'text', or two of them with '+' between."""
        return tuple(self.mode.split("-then-"))

    def in_mode(self, mode: Mode) -> "FinetuneSettings":
        """Return the same settings with another mode, for the ablations that compare modes."""
        return self.model_copy(update={"mode": mode})


# Stage 4: zero-shot evaluation and ablations (OVSeg, sections 3.4 and 4)


class PredictionsSettings(SettingsModel):
    """Label maps that another model predicted for a data set, scored as our own are."""

    path: Path = Field(
        strict=False,
        description="A folder of label PNGs or NPZ files, named as the pictures; or detectron2's "
        "sem_seg_predictions.json, or the folder in which it lies.",
        json_schema_extra=CHANGES_NO_RESULT,  # the digests of the files do
    )
    format: Literal["auto", "png", "npz", "detectron2"] = Field(
        default="auto", description="What the files are; 'auto' = found out from them."
    )
    numbers: Literal["auto", "index", "dataset"] = Field(
        default="auto",
        description="What the numbers of classes are: 'index' = places in the class list, from 0; 'dataset' = the data "
        "set's own, such as 1 to 150 of ADE20K, where 0 is no class; 'auto' = decided by all numbers that occur, and "
        "logged. detectron2 writes the one or the other, by how the data set was registered.",
    )
    no_class: ListOf[int] = Field(
        default=(255, 65535), description="Numbers that mean no class, if no class has them: these pixels are missed."
    )
    pixels: Literal["upright", "stored"] = Field(
        default="upright",
        description="What maps lie on where a picture's EXIF tag turns it: the picture as shown, or its stored pixels. "
        "Where the size fits one alone, that one is taken.",
    )


class EvaluatedDatasetSettings(SettingsModel):
    """One labelled data set to be evaluated on."""

    dataset: DatasetReference = Field(min_length=1, description="Name of the data set; it needs labels.")
    ensemble_weight: Share = Field(
        default=0.7, description="Lambda in p^(1-lambda) p_hat^lambda: 0 = proposal net only, 1 = CLIP only."
    )
    ensemble_on: Literal["all", "unseen"] = Field(
        default="all",
        description="'unseen' = CLIP decides among unseen classes alone, as in ZegFormer; of scores alone, the "
        "segmenter knows no seen classes.",
        json_schema_extra=LATER_SETTING,
    )
    background_names: ListOf[str] = Field(
        default=(),
        description="Words in place of the class 'background': what is named by any of them is background. Empty = the "
        "word 'background' itself.",
        json_schema_extra=LATER_SETTING,
    )
    predictions: PredictionsSettings | None = Field(
        default=None,
        description="Predictions of another model, which are scored in place of our own; no net takes part.",
        json_schema_extra=LATER_SETTING,
    )


class SweepSettings(SettingsModel):
    """Values that ``ovseg evaluate --ablate`` goes through."""

    ensemble_weights: ListOf[Share] = Field(
        default=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0),
        description="Ensemble weights; no model runs again for them.",
    )
    mask_thresholds: ListOf[MaskThreshold] = Field(
        default=(0.35, 0.4, 0.45, 0.5), description="Mask thresholds; the CLIP branch runs for each."
    )
    finetune_modes: ListOf[Mode] = Field(
        default=(),
        description="Other modes of stage 3, such as 'ft', whose CLIPs are compared with the original and the adapted "
        "one (Tables 3 and 6); each is to be made before, by 'ovseg finetune --set finetune.mode=ft'.",
    )
    validation_dataset: DatasetReference = Field(
        default="",
        description="Data set whose mined pairs choose an ensemble weight without any test label; it is to be mined "
        "before, by 'ovseg mine --set mine.dataset=NAME'; empty = no choice.",
    )
    validation_pairs: int = Field(
        default=2000, ge=1, description="Pairs at most that are named for that choice; the first ones in order."
    )


class EvaluateSettings(SettingsModel):
    """Stage 4, ``ovseg evaluate``: labelled scenes, the proposal net and the adapted CLIP in, ``scores`` out."""

    datasets: ListOf[EvaluatedDatasetSettings] = Field(
        default=(), description="What to evaluate on, in order; each data set once."
    )
    clip: Literal["adapted", "original"] = Field(
        default="adapted", description="CLIP as stage 3 adapted it, or 'original' = as it was before: the baseline."
    )
    # Changes no scores. The digests of what it names are among the report's inputs.
    baseline: str = Field(
        default="",
        description="What the report compares with, class by class and picture by picture: 'original' = the same with "
        "the CLIP as it was before, which is to be evaluated first (--set evaluate.clip=original); or the directory of "
        "any scores or report on the same scenes; empty = nothing.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    short_side_px: SideLength = _inherited("net_input.short_side_px", "Short side of the net's input [px].")
    max_side_px: SideLength = _inherited("net_input.max_side_px", "Upper limit of the input's long side [px].")
    mask_threshold: MaskThreshold = _inherited(
        "net_input.mask_threshold", "Mask probability above which a pixel is in the crop."
    )
    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around class names.")
    precision: Precision = _inherited("precision", "Arithmetic on CUDA.")
    use_mask_prompts: bool = Field(default=True, description="Give masked patches their prompt tokens (Table 3).")
    masked_crops: bool = Field(default=True, description="Fill crops outside the mask; off = the box as it is.")
    namer: Namer = _inherited_namer()
    picture_side_px: int = _inherited_side()
    window_stride_px: int = _inherited_stride()
    proposals: Literal["net", "ground-truth", "imported"] = Field(
        default="net",
        description="'ground-truth' = masks of the labels with CLIP as the classifier (Figure 1(c)); 'imported' = the "
        "masks that the section 'masks' names for each data set, named by CLIP alone.",
    )
    temperature: Literal["auto", "published", "model"] = Field(
        default="auto",
        description="The factor on CLIP's cosines: 'published' = 100, as in OVSeg's code; 'model' = what the CLIP has "
        "learned; 'auto' = 100 for CLIPs of OpenAI's form, else the model's.",
        json_schema_extra=LATER_SETTING,
    )
    oracle_labels: bool = Field(
        default=False, description="Give each proposal the class of the ground truth that it covers best (Figure 1(c))."
    )
    error_sources: bool = Field(
        default=False,
        description="Also score our masks with perfect names, and perfect masks with CLIP's names: the report then "
        "shows by class what masks lose and what names lose. CLIP runs once more, on the label map's regions; --ablate "
        "scores both anyway.",
        json_schema_extra=LATER_SETTING,
    )
    audit_overlap: bool = Field(
        default=True,
        description="Look for pictures and class names of the test data in the training data, and list them in the "
        "report. Each picture is decoded once per data set, at an eighth of its size.",
        json_schema_extra=LATER_SETTING,
    )
    memory: str = Field(
        default="",
        description="File of remembered masks ('ovseg memory add'), which name regions beside the texts; empty = none.",
        json_schema_extra=LATER_SETTING,
    )
    sweep: SweepSettings = section(SweepSettings)
    bootstrap_rounds: int = Field(
        default=1000, ge=1, le=1_000_000, description="Resamplings of images for the 95 % intervals."
    )
    batch_crops: int | None = Field(
        default=None,
        ge=1,
        description="Crops per forward pass of CLIP. By default 256 on a GPU, 64 on a CPU.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    share_proposals: bool = Field(
        default=False,
        description="Store what the proposal net says of each picture, so that evaluations of other CLIPs don't run it "
        "again. 100 masks of a net input of 640 x 960 px take 15 MB.",
        json_schema_extra=CHANGES_NO_RESULT,
    )

    @field_validator("datasets")
    @classmethod
    def _each_once(cls, datasets: tuple[EvaluatedDatasetSettings, ...]) -> tuple[EvaluatedDatasetSettings, ...]:
        name, times = Counter(each.dataset for each in datasets).most_common(1)[0] if datasets else ("", 0)
        if times > 1:
            raise ValueError(f"data set {name!r} should be there once, not {times} times")
        return datasets

    _sides_fit = model_validator(mode="after")(check_sides)


# How the work is done; none of it changes a result


TrackerName = Literal["wandb", "mlflow", "trackio"]


class ComputeSettings(SettingsModel):
    """Processes, devices, and how much may go wrong before a stage gives up."""

    model_config = ConfigDict(json_schema_extra=CHANGES_NO_RESULT)

    workers: int = Field(
        default=0, ge=0, le=1024, description="Processes on this machine that share the units; 0 = this process alone."
    )
    threads_per_worker: int = Field(
        default=1, ge=1, le=1024, description="Threads of torch per process, in training too."
    )
    decode_threads: int | None = Field(
        default=None,
        ge=1,
        le=256,
        description="Threads per process that decode pictures and encode masks beside the models. By default its share "
        "of the cores, 2 to 8.",
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="'cpu', 'cuda', 'cuda:N', or 'auto' = CUDA where there is one.",
    )
    loader_workers: int = Field(
        default=2,
        ge=0,
        le=256,
        description="Processes that read samples for one training process; 0 = the training process itself.",
    )
    channels_last: bool = Field(default=False, description="Keep images channels-last in memory.")
    compile: bool = Field(default=False, description="Compile models with torch.compile.")
    deterministic: bool = Field(
        default=False,
        description="Let a GPU give the same bits on every run; slower, and experimental: not yet tried on one. A CPU "
        "does so anyway.",
    )
    trackers: ListOf[TrackerName] = Field(
        default=(),
        description="Trackers that get the numbers of metrics.jsonl while stages 1 and 3 train, beside TensorBoard: "
        "'wandb', 'mlflow', 'trackio'. Each is an extra of its own: pip install 'ovseg-pipeline[wandb]'.",
    )
    max_failed_units: int = Field(default=10, ge=0, description="Units that may fail before no more are begun.")
    max_failed_share: Share = Field(
        default=0.01, description="Share of rows that may have failed in a finished artifact."
    )
    wait_s: float = Field(
        default=0.0,
        ge=0,
        description="Wait for another process that writes the artifact [s]; 0 = give up at once.",
    )


class DaskSettings(SettingsModel):
    """The Dask cluster that units are sent to."""

    model_config = ConfigDict(json_schema_extra=CHANGES_NO_RESULT)

    address: str = Field(
        default="",
        pattern=r"^$|^[a-z]+://\S+$",
        description="Scheduler to use, such as 'tcp://10.0.0.1:8786', whose workers take the place of compute.workers; "
        "empty = none.",
    )
    connect_limit_s: float = Field(
        default=30.0, gt=0, description="Wait for that scheduler, and then for its workers [s]."
    )
    dashboard_port: int = Field(
        default=0, ge=0, le=65535, description="Port of the dashboard of workers on this machine; 0 = any free one."
    )


class FlowSettings(SettingsModel):
    """The Prefect flow, ``ovseg run``."""

    model_config = ConfigDict(json_schema_extra=CHANGES_NO_RESULT)

    retries: int = Field(default=2, ge=0, le=100, description="Times a unit is tried again after an I/O error.")
    retry_delay_s: float = Field(
        default=5.0, ge=0, description="Wait before the first retry [s]; it doubles with each further one."
    )
    server_start_limit_s: int = Field(default=120, ge=1, description="Wait for Prefect's own server to start [s].")


# All together


DatasetKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""Name of a data set in the settings; no dot, so that flags can reach it."""


class Settings(SettingsModel):
    """All settings of a run; relative paths are relative to the directory in which the command is given."""

    name: str = Field(
        default="run",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$",
        description="Name of the run's artifacts; letters, digits, '_' and '-'.",
    )
    runs_dir: Path = Field(
        default=Path("runs"),
        strict=False,
        description="Directory of all artifacts.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    precision: Precision = Field(
        default=_PRECISION,
        description="Arithmetic of all models on CUDA, where a stage does not say otherwise: single precision in full, "
        "or with products in TF32, or half precision by autocast. A CPU computes in fp32.",
    )
    namer: Namer = Field(
        default=_NAMER,
        description="How CLIP sees masks, in every stage that does not say otherwise: 'crops' = one of each mask, as "
        "in the paper, or 'one-pass' = the picture once, with a token for each mask, in a fortieth of the time.",
        json_schema_extra=LATER_SETTING,
    )
    one_pass: OnePassSettings = section(OnePassSettings, LATER_SETTING)
    net_input: NetInputSettings = section(NetInputSettings)
    datasets: dict[DatasetKey, PrepareSettings] = Field(
        default={}, description="Data sets by the names that the stages know them by, such as [datasets.coco-train]."
    )
    masks: dict[DatasetKey, MasksSettings] = Field(
        default={},
        description="Masks of others by the name of the data set that they are of, such as [masks.coco-train].",
        json_schema_extra=LATER_SETTING,
    )
    clip: ClipSettings = section(ClipSettings)
    proposal_net: ProposalNetSettings = section(ProposalNetSettings)
    mine: MineSettings = section(MineSettings)
    finetune: FinetuneSettings = section(FinetuneSettings)
    evaluate: EvaluateSettings = section(EvaluateSettings)
    compute: ComputeSettings = section(ComputeSettings)
    dask: DaskSettings = section(DaskSettings)
    flow: FlowSettings = section(FlowSettings)

    @field_validator("masks")
    @classmethod
    def _of_data_sets(cls, masks: dict[str, MasksSettings], info: ValidationInfo) -> dict[str, MasksSettings]:
        odd = sorted(masks.keys() - info.data.get("datasets", masks).keys())
        if odd:
            known = ", ".join(info.data["datasets"]) or "none"
            raise ValueError(f"{odd[0]!r} is no name under 'datasets'; there are {known}")
        return masks

    @property
    def clip_names_alone(self) -> bool:
        """Whether the proposal net was trained with another CLIP than the one that names, and can name nothing."""
        other = self.proposal_net.clip
        return other is not None and result_settings(other) != result_settings(self.clip)

    @model_validator(mode="after")
    def _branches_to_weigh(self) -> Self:
        if self.clip_names_alone and self.evaluate.sweep.validation_dataset:
            raise ValueError(
                "evaluate.sweep.validation_dataset should be empty where proposal_net.clip differs from clip: there is "
                "one branch, and no weight to choose"
            )
        return self

    @model_validator(mode="before")
    @classmethod
    def _inherit(cls, document: Any) -> Any:
        """Give the stages what they inherit, before their sections are validated.

        What is inherited and wrong is not passed on, so that it is reported at its own place alone.
        """
        if not isinstance(document, Mapping):
            return document
        shared = {}
        for source in {setting.inherits for setting in all_settings(cls)} - {()}:
            top, *below = source
            if top in document:  # else the defaults are the same
                kind: Any = cls.model_fields[top].annotation
                with suppress(ValidationError):
                    value = TypeAdapter(kind).validate_python(document[top])
                    shared[source] = reduce(getattr, below, value)
        return with_inherited(cls, document, shared)
