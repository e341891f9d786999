"""Settings of CLIP, which every stage after preparation uses."""

from typing import Literal

from pydantic import Field

from pipeline.settings.model import SettingsModel


class ClipSettings(SettingsModel):
    """The CLIP that scores proposals, is adapted, and gives the proposal net its text embeddings."""

    architecture: str = Field(
        default="ViT-B-16",
        min_length=1,
        description="Name of an open_clip architecture, path of an open_clip model JSON, or 'drawn-world-small', the "
        "small CLIP that this project ships.",
    )
    pretrained: str = Field(
        default="openai",
        min_length=1,
        description="Weights: an open_clip tag, the path of a weight file, 'shipped' (of 'drawn-world-small'), or "
        "'random'. The digest covers the weights themselves, not this name alone.",
    )
    quick_gelu: Literal["auto", "on", "off"] = Field(
        default="auto",
        description="Whether the activation is x * sigmoid(1.702 x), as OpenAI's weights want it; 'auto' = as the "
        "weights say, else as the architecture says.",
    )
    seed: int = Field(default=0, ge=0, description="Seed of random weights.")
    random_if_unavailable: bool = Field(
        default=False,
        description="Use random weights when a tag cannot be downloaded, to try the pipeline without network.",
    )
