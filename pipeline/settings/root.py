"""All settings of a run, one model per stage."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.settings.clip import ClipSettings
from pipeline.settings.compute import ComputeSettings, DaskSettings, FlowSettings
from pipeline.settings.evaluate import EvaluateSettings
from pipeline.settings.finetune import FinetuneSettings
from pipeline.settings.mine import MineSettings
from pipeline.settings.model import CHANGES_NO_RESULT, SettingsModel
from pipeline.settings.prepare import PrepareSettings
from pipeline.settings.proposal_net import ProposalNetSettings

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
        description="Directory of all artifacts.",
        json_schema_extra=CHANGES_NO_RESULT,
    )
    datasets: dict[DatasetKey, PrepareSettings] = Field(
        default={}, description="Data sets by the names that the stages know them by, such as [datasets.coco-train]."
    )
    clip: ClipSettings = Field(default=ClipSettings(), description="The CLIP of all stages.")
    proposal_net: ProposalNetSettings = Field(default=ProposalNetSettings(), description="Stage 1.")
    mine: MineSettings = Field(default=MineSettings(), description="Stage 2.")
    finetune: FinetuneSettings = Field(default=FinetuneSettings(), description="Stage 3.")
    evaluate: EvaluateSettings = Field(default=EvaluateSettings(), description="Stage 4.")
    compute: ComputeSettings = Field(default=ComputeSettings(), description="Workers and devices.")
    dask: DaskSettings = Field(default=DaskSettings(), description="The Dask cluster.")
    flow: FlowSettings = Field(default=FlowSettings(), description="The Prefect flow.")
