"""Settings of how the work is done: workers, devices, Dask, the flow. None of them changes a result."""

from pydantic import ConfigDict, Field

from pipeline.settings.model import CHANGES_NO_RESULT, SettingsModel, Share


class ComputeSettings(SettingsModel):
    """Processes, devices, and how much may go wrong before a stage gives up."""

    model_config = ConfigDict(json_schema_extra=CHANGES_NO_RESULT)

    workers: int = Field(
        default=0, ge=0, le=1024, description="Processes on this machine that share the units; 0 = this process alone."
    )
    threads_per_worker: int = Field(
        default=1, ge=1, le=1024, description="Threads of torch per process, in training too."
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
