"""What every settings model shares: frozen, no unknown keys, finite numbers; and the mark of what changes no result."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

CHANGES_NO_RESULT: JsonDict = {"changes_result": False}
"""``json_schema_extra`` of a setting, or of a whole model, that says how the work is done, not what comes out."""

ADDED_LATER: JsonDict = {"added_later": True}
"""``json_schema_extra`` of a setting whose default is what was done before it, and must stay so."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

MaskThreshold = Annotated[float, Field(ge=0, lt=1)]
"""A mask probability above which a pixel belongs to a mask; none is above 1, so that a segmenter refuses it too."""

Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of a model on CUDA; a CPU always computes in fp32."""


PromptTemplates = Literal["bare", "single", "vild", "imagenet"]
"""Sentences that a noun or class name is put into: the name alone, one sentence, ViLD's 14, CLIP's 80 for ImageNet."""


class SettingsModel(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_sides(*, short_side_px: int, max_side_px: int, prefix: str = "") -> None:
    """Refuse an upper limit of the long side that is below the short side: no picture could be resized so.

    Args:
        short_side_px: Wanted short side.
        max_side_px: Upper limit of the long side.
        prefix: Of both settings' names.

    Raises:
        ValueError: If the limit is too low.
    """
    if max_side_px < short_side_px:
        message = f"{prefix}max_side_px {max_side_px} should be at least {prefix}short_side_px {short_side_px}"
        raise ValueError(message)
