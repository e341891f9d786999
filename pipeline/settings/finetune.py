"""Settings of stage 3: adapting CLIP to masked crops (OVSeg, sections 3.2 and 3.3)."""

from typing import Literal

from pydantic import Field

from pipeline.settings.model import CHANGES_NO_RESULT, Precision, PromptTemplates, SettingsModel
from pipeline.settings.training import CheckpointSettings

Mode = Literal["ft", "mpt", "ft-then-mpt", "mpt-then-ft", "ft+mpt"]


class PhaseSettings(SettingsModel):
    """AdamW with linear warm-up and a cosine to 0; one step is one global batch, over any number of processes."""

    epochs: int = Field(default=5, ge=1, description="Times each pair is shown.")
    batch_pairs: int = Field(
        default=256, ge=2, description="Pairs per step, over all processes; each is a negative of all the others."
    )
    learning_rate: float = Field(default=5e-6, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.2, ge=0, description="Decay of weights; norms, biases and gains have none.")
    warmup_steps: int = Field(default=100, ge=0, description="Steps of linear warm-up.")


class PromptPhaseSettings(PhaseSettings):
    """As for 'ft', with another learning rate and no decay."""

    learning_rate: float = Field(default=2e-2, gt=0, description="Learning rate after the warm-up.")
    weight_decay: float = Field(default=0.0, ge=0, description="Decay of the prompt tokens.")


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
        "batch, epochs and warm-up of 'ft', and learning rate and decay of 'mpt' for the prompts.",
    )
    pairs_dir: str = Field(
        default="",
        description="Directory of an artifact of pairs to train on, such as one mined elsewhere; empty = those that "
        "stage 2 makes of these settings.",
        json_schema_extra=CHANGES_NO_RESULT,  # their digest does
    )
    seed: int = Field(default=0, ge=0, description="Seed of prompt tokens, data order and augmentation.")
    prompt_depth: int = Field(default=3, ge=1, le=64, description="Transformer layers that get mask prompt tokens.")
    train_logit_scale: bool = Field(
        default=True, description="Train the logit scale too, up to ln 100, as the reference does in FT and MPT."
    )
    loss: Literal["contrastive", "noun-aware"] = Field(
        default="contrastive",
        description="'contrastive' = CLIP's own, where equal nouns in a batch are negatives of each other; "
        "'noun-aware' = equal nouns are positives.",
    )
    prompt_templates: PromptTemplates = Field(
        default="bare", description="Sentences around nouns; 'bare' is the noun itself."
    )
    ft: PhaseSettings = Field(default=PhaseSettings(), description="The phase that trains the image tower.")
    mpt: PromptPhaseSettings = Field(default=PromptPhaseSettings(), description="The phase that trains the prompts.")
    augmentation: CropAugmentationSettings = Field(
        default=CropAugmentationSettings(), description="How crops are varied."
    )
    precision: Precision = Field(default="fp32", description="Arithmetic on CUDA; fp16 scales the loss.")
    accumulation_steps: int = Field(
        default=1,
        ge=1,
        description="Parts into which a process's share of the batch is cut to save memory; embeddings are cached, so "
        "that the contrastive batch stays whole.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    gradient_checkpointing: bool = Field(
        default=False, description="Recompute activations to save memory.", json_schema_extra=CHANGES_NO_RESULT
    )
    validation_dataset: str = Field(
        default="",
        description="Labelled data set whose masked ground-truth crops are classified after each epoch; empty = none.",
    )
    checkpoints: CheckpointSettings = Field(default=CheckpointSettings(), description="When to save, what to keep.")

    @property
    def phases(self) -> tuple[str, ...]:
        """What is trained after what: each is 'ft', 'mpt' or 'ft+mpt'."""
        return tuple(self.mode.split("-then-"))
