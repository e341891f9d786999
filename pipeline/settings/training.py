"""Settings of the training loop that stages 1 and 3 share."""

from pydantic import ConfigDict, Field

from pipeline.settings.model import CHANGES_NO_RESULT, SettingsModel


class CheckpointSettings(SettingsModel):
    """When a training saves its state; a run resumes exactly, so none of this changes the result."""

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
