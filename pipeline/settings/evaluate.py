"""Settings of stage 4: zero-shot evaluation and the paper's ablations (OVSeg, sections 3.4 and 4)."""

from collections import Counter
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.settings.finetune import Mode
from pipeline.settings.model import (
    CHANGES_NO_RESULT,
    MaskThreshold,
    Precision,
    PromptTemplates,
    SettingsModel,
    Share,
    check_sides,
)


class EvaluatedDatasetSettings(SettingsModel):
    """One labelled data set to be evaluated on."""

    dataset: str = Field(min_length=1, description="Name of the data set; it needs labels.")
    ensemble_weight: Share = Field(
        default=0.7, description="Lambda in p^(1-lambda) p_hat^lambda: 0 = proposal net only, 1 = CLIP only."
    )


class SweepSettings(SettingsModel):
    """Values that ``ovseg evaluate --ablate`` goes through."""

    ensemble_weights: tuple[Share, ...] = Field(
        default=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.9, 1.0),
        description="Ensemble weights; no model runs again for them.",
    )
    mask_thresholds: tuple[MaskThreshold, ...] = Field(
        default=(0.35, 0.4, 0.45, 0.5), description="Mask thresholds; the CLIP branch runs for each."
    )
    finetune_modes: tuple[Mode, ...] = Field(
        default=(),
        description="Other modes of stage 3, such as 'ft', whose CLIPs are compared with the original and the adapted "
        "one (Tables 3 and 6); each is to be made before, by 'ovseg finetune --set finetune.mode=ft'.",
    )
    validation_dataset: str = Field(
        default="",
        description="Data set whose mined pairs choose an ensemble weight without any test label; it is to be mined "
        "before, by 'ovseg mine --set mine.dataset=NAME'; empty = no choice.",
    )
    validation_pairs: int = Field(
        default=2000, ge=1, description="Pairs at most that are named for that choice; the first ones in order."
    )


class EvaluateSettings(SettingsModel):
    """Stage 4, ``ovseg evaluate``: labelled scenes, the proposal net and the adapted CLIP in, ``scores`` out."""

    datasets: tuple[EvaluatedDatasetSettings, ...] = Field(
        default=(), description="What to evaluate on, in order; each data set once."
    )
    clip: Literal["adapted", "original"] = Field(
        default="adapted", description="CLIP as stage 3 adapted it, or 'original' = as it was before: the baseline."
    )
    short_side_px: int = Field(default=512, ge=16, le=8192, description="Short side of the net's input [px].")
    max_side_px: int = Field(default=2048, ge=16, le=8192, description="Upper limit of the input's long side [px].")
    mask_threshold: MaskThreshold = Field(
        default=0.5, description="Mask probability above which a pixel is in the crop."
    )
    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around class names.")
    precision: Precision = Field(default="fp32", description="Arithmetic on CUDA.")
    use_mask_prompts: bool = Field(default=True, description="Give masked patches their prompt tokens (Table 3).")
    masked_crops: bool = Field(default=True, description="Fill crops outside the mask; off = the box as it is.")
    proposals: Literal["net", "ground-truth"] = Field(
        default="net", description="'ground-truth' = masks of the labels with CLIP as the classifier (Figure 1(c))."
    )
    oracle_labels: bool = Field(
        default=False, description="Give each proposal the class of the ground truth that it covers best (Figure 1(c))."
    )
    sweep: SweepSettings = Field(default=SweepSettings(), description="What --ablate goes through.")
    bootstrap_rounds: int = Field(
        default=1000, ge=1, le=1_000_000, description="Resamplings of images for the 95 % intervals."
    )
    batch_crops: int | None = Field(
        default=None,
        ge=1,
        description="Crops per forward pass of CLIP. By default 256 on a GPU, 64 on a CPU.",
        json_schema_extra=CHANGES_NO_RESULT,
    )

    @field_validator("datasets")
    @classmethod
    def _each_once(cls, datasets: tuple[EvaluatedDatasetSettings, ...]) -> tuple[EvaluatedDatasetSettings, ...]:
        name, times = Counter(each.dataset for each in datasets).most_common(1)[0] if datasets else ("", 0)
        if times > 1:
            message = f"data set {name!r} should be there once, not {times} times"
            raise ValueError(message)
        return datasets

    @model_validator(mode="after")
    def _sides_fit(self) -> "EvaluateSettings":
        check_sides(short_side_px=self.short_side_px, max_side_px=self.max_side_px)
        return self
