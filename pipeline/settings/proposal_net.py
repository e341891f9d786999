"""Settings of stage 1: the proposal net's architecture and its training recipe (OVSeg, section 3.1 and appendix)."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from pipeline.settings.model import ADDED_LATER, Precision, PromptTemplates, SettingsModel, check_sides
from pipeline.settings.training import CheckpointSettings

NONE, RANDOM, SHIPPED = "none", "random", "shipped"
SideLength = Annotated[int, Field(ge=16, le=8192)]


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
    def _fits_the_kind(self) -> "BackboneSettings":
        if self.is_swin and (self.freeze_at or self.frozen_batch_norm):
            message = f"freeze_at should be 0 and frozen_batch_norm false for the Swin {self.name!r}"
            raise ValueError(message)
        if self.drop_path_rate and not self.is_swin:
            message = f"drop_path_rate {self.drop_path_rate} should be 0 for {self.name!r}, which is no Swin"
            raise ValueError(message)
        if self.timm_arguments and self.name == "r101c":
            message = "timm_arguments should be empty for 'r101c', whose form is fixed"
            raise ValueError(message)
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

    backbone: BackboneSettings = Field(default=BackboneSettings(), description="What sees the image.")
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
    def _hidden_dim_divides(self) -> "ArchitectureSettings":
        for divisor, label in ((4, "4"), (self.heads, "heads"), (self.norm_groups, "norm_groups")):
            if self.hidden_dim % divisor:
                message = f"hidden_dim {self.hidden_dim} should be a multiple of {label}"
                raise ValueError(message if label == "4" else f"{message} {divisor}")
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
        json_schema_extra=ADDED_LATER,
        description="What pixels without a label, or of held-out classes, are to a mask: 'background', as published, "
        "or 'left_out' of matching and losses, so that masks of what has no label are not unlearned.",
    )


class AugmentationSettings(SettingsModel):
    """Resize to a random short side, crop, jitter colours, flip, pad to the crop's size, in this order."""

    short_sides_px: tuple[SideLength, ...] = Field(
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
        default=1, ge=1, description="Parts into which a process's share of the batch is cut to save memory."
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
    precision: Precision = Field(default="fp32", description="Arithmetic on CUDA; fp16 scales the loss.")
    augmentation: AugmentationSettings = Field(default=AugmentationSettings(), description="How samples are varied.")
    loss: LossSettings = Field(default=LossSettings(), description="Weights of the losses.")
    checkpoints: CheckpointSettings = Field(default=CheckpointSettings(), description="When to save, what to keep.")


class ProposalNetSettings(SettingsModel):
    """Stage 1, ``ovseg train-proposals``: scenes with labels in, ``proposal_net`` out."""

    dataset: str = Field(default="", description="Data set to train on, by its name; it needs labels.")
    held_out_classes: tuple[str, ...] = Field(
        default=(),
        description="Classes of the data set that are not shown: their pixels are ignored (15 of COCO-Stuff's 171 in "
        "SimBaseline and ZegFormer).",
    )
    validation_dataset: str = Field(default="", description="Labelled data set for validation; empty = no validation.")
    validation_every_steps: int = Field(default=5000, ge=1, description="Steps from one validation to the next.")
    validation_short_side_px: SideLength = Field(default=512, description="Short side at validation [px].")
    validation_max_side_px: SideLength = Field(default=2048, description="Upper limit of the long side there [px].")
    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around class names.")
    architecture: ArchitectureSettings = Field(default=ArchitectureSettings(), description="What is trained.")
    initial_weights: str = Field(
        default=NONE,
        min_length=1,
        description="Weights of a whole proposal net to start from, of the same architecture: the path of a weight "
        "file, 'shipped' (the small net of the drawn world, as demo.toml has it), or 'none'. The digest covers the "
        "file's bytes, not its path.",
    )
    training: ProposalTrainingSettings = Field(default=ProposalTrainingSettings(), description="How it is trained.")

    @model_validator(mode="after")
    def _sides_fit(self) -> "ProposalNetSettings":
        check_sides(
            short_side_px=self.validation_short_side_px,
            max_side_px=self.validation_max_side_px,
            prefix="validation_",
        )
        return self
