"""From settings to what the shard runner takes."""

from pipeline.executors import Compute
from pipeline.settings.sections import Settings
from pipeline.shard_runner import Limits


def compute_of(settings: Settings) -> Compute:
    """Return where and how wide a stage's units run."""
    return Compute(
        workers=settings.compute.workers,
        dask_address=settings.dask.address,
        connect_limit_s=settings.dask.connect_limit_s,
        dashboard_port=settings.dask.dashboard_port,
    )


def limits_of(settings: Settings) -> Limits:
    """Return when a run of a stage gives up."""
    return Limits(
        max_failed_units=settings.compute.max_failed_units,
        max_failed_share=settings.compute.max_failed_share,
        wait_s=settings.compute.wait_s,
    )
