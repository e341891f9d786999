"""Settings of stage 2, mining: propose masks, embed masked crops, pair them with nouns (OVSeg, section 3.2)."""

import unicodedata
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.mine.word_lists import word_list
from pipeline.settings.model import (
    CHANGES_NO_RESULT,
    MaskThreshold,
    Precision,
    PromptTemplates,
    SettingsModel,
    Share,
    check_sides,
)

Source = Literal["masks-classes", "masks-1-caption", "proposals-1-caption", "proposals-5-captions"]
"""Where masks and texts of pairs come from, the four rows of the paper's Table 2; 'masks' are ground truth."""


class ProposeSettings(SettingsModel):
    """First step: scenes and the proposal net give proposals. A change here redoes all three steps."""

    short_side_px: int = Field(default=512, ge=16, le=8192, description="Short side of the net's input [px].")
    max_side_px: int = Field(default=2048, ge=16, le=8192, description="Upper limit of the input's long side [px].")
    mask_threshold: MaskThreshold = Field(
        default=0.5, description="Mask probability above which a pixel is in the mask."
    )
    duplicate_iou: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="IoU with an earlier query's mask above which a proposal is dropped; 1 = none is.",
    )
    precision: Precision = Field(default="fp32", description="Arithmetic on CUDA.")
    batch_images: int = Field(
        default=1, ge=1, description="Images per forward pass.", json_schema_extra=CHANGES_NO_RESULT
    )

    @model_validator(mode="after")
    def _sides_fit(self) -> "ProposeSettings":
        check_sides(short_side_px=self.short_side_px, max_side_px=self.max_side_px)
        return self


class EmbedSettings(SettingsModel):
    """Second step: the original CLIP gives one embedding per masked crop. No noun or caption plays a part."""

    precision: Precision = Field(default="fp32", description="Arithmetic on CUDA.")
    batch_crops: int | None = Field(
        default=None,
        ge=1,
        description="Crops per forward pass, of many images; halved when the memory does not suffice. "
        "By default 256 on a GPU, 64 on a CPU.",
        json_schema_extra=CHANGES_NO_RESULT,
    )


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
    stop_words: tuple[str, ...] = Field(
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
                message = f"stop word {word!r} should be in lower case, with single blanks between words, as lemmas are"
                raise ValueError(message)
        return stop_words

    @model_validator(mode="after")
    def _lemmas_are_lower_case(self) -> "NounSettings":
        if self.lemmas and not self.lower_case:
            message = "lower_case should be true where lemmas is, as lemmas are lower case"
            raise ValueError(message)
        return self

    @property
    def all_stop_words(self) -> frozenset[str]:
        """The words of ``stop_words`` and of the shipped list, if it is asked for."""
        return frozenset({*self.stop_words, *(word_list("stop_words") if self.shipped_stop_words else ())})


class PairSettings(SettingsModel):
    """Third step: each noun gets the proposal whose embedding is nearest. A change here redoes this step alone."""

    prompt_templates: PromptTemplates = Field(default="vild", description="Sentences around nouns.")
    min_score: float = Field(
        default=-1.0, ge=-1, le=1, description="Cosine below which a pair is not kept; -1 = all are, as in the paper."
    )
    min_area_share: Share = Field(
        default=0.0, description="Share of the image below which a mask makes no pair; 0 = none, as in the paper."
    )
    crop_format: Literal["png", "jpg"] = Field(
        default="png",
        description="File format of the crops: 'png' is lossless, 'jpg' takes about a fifth of the space.",
    )
    jpeg_quality: int = Field(default=95, ge=50, le=100, description="Quality of crops of format 'jpg'.")


class MineSettings(SettingsModel):
    """Stage 2, ``ovseg mine``: scenes with captions, the proposal net and CLIP in, ``pairs`` out."""

    dataset: str = Field(default="", description="Data set to mine, by its name.")
    source: Source = Field(
        default="proposals-1-caption",
        description="Table 2 of the paper: ground-truth masks with their classes or with the nouns of one caption, or "
        "proposals with the nouns of one caption (the one with the lowest id) or of five.",
    )
    propose: ProposeSettings = Field(default=ProposeSettings(), description="Step 1.")
    embed: EmbedSettings = Field(default=EmbedSettings(), description="Step 2.")
    nouns: NounSettings = Field(default=NounSettings(), description="Words of captions, for step 3.")
    pair: PairSettings = Field(default=PairSettings(), description="Step 3.")

    @property
    def uses_ground_truth_masks(self) -> bool:
        """Whether masks come from the labels; the half of ``source`` that steps 1 and 2 depend on."""
        return self.source.startswith("masks")

    @property
    def captions_per_image(self) -> int:
        """Captions of an image whose nouns are taken, the lowest ids first; 0 = class names instead of captions."""
        return {"classes": 0, "1-caption": 1, "5-captions": 5}[self.source.partition("-")[2]]
