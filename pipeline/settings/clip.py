"""Settings of CLIP, which every stage after preparation uses."""

from pydantic import Field

from pipeline.settings.model import SettingsModel


class ClipSettings(SettingsModel):
    """The CLIP that scores proposals, is adapted, and gives the proposal net its text embeddings."""

    architecture: str = Field(
        default="ViT-B-16",
        min_length=1,
        description="Name of an open_clip architecture, or path of an open_clip model JSON.",
    )
    pretrained: str = Field(
        default="openai",
        min_length=1,
        description="Weights: an open_clip tag, the path of a weight file, or 'random'. A stage's digest covers the "
        "weights themselves, not this name alone.",
    )
    quick_gelu: bool = Field(
        default=True,
        description="Use the activation that OpenAI's weights were trained with, x * sigmoid(1.702 x).",
    )
    random_if_unavailable: bool = Field(
        default=False,
        description="Use random weights when a tag cannot be downloaded, to try the pipeline without network.",
    )
