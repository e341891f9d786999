"""``ovseg demo``: all stages, CLIP evaluated before and after each adaptation, a table and a picture."""

import sys
from pathlib import Path

from flows.arguments import RunArguments

SHOWN_IMAGES = 6


def demo(arguments: RunArguments, *, picture: Path | None = None) -> None:
    """Run all stages for the original CLIP, MPT, FT, and FT then MPT, as far as that is not done, and compare them.

    The four share all that they can: scenes, proposal net, pairs, and of trainings all but MPT's. The last lines are a
    table of mIoU with 95 % intervals over the images, where the report of the last row lies, and where the picture.

    Args:
        arguments: Where the settings come from.
        picture: PNG file to draw a few images into; by default NAME.png in the runs directory.

    Raises:
        SettingsError: If the settings are wrong, or name nothing to evaluate on.
        PipelineError: If a stage fails, or Prefect's server does not start or goes away.
    """
    from flows.flow_commands import run_missing
    from pipeline.adaptations import (
        ADAPTATIONS,
        AFTER,
        adaptation_picture,
        adaptation_tables,
        report_of,
    )
    from pipeline.picture_sheets import write_picture
    from pipeline.settings import SettingsError
    from storage_schemas.reports import html_path

    settings = arguments.settings()
    if not settings.evaluate.datasets:
        message = "evaluate.datasets: at least one data set is expected; name one (got [])"
        raise SettingsError([message])
    run_missing({row.title: row.settings_of(settings) for row in ADAPTATIONS})
    target = picture or settings.runs_dir / f"{settings.name}.png"
    write_picture(adaptation_picture(settings, images=SHOWN_IMAGES), target)
    for table in adaptation_tables(settings):
        sys.stdout.write(f"{table.text()}\n")
    sys.stdout.write(f"report:  {html_path(report_of(AFTER.settings_of(settings)))}\npicture: {target}\n")
