"""``ovseg run``, ``demo``, ``ui`` and ``serve``: the Prefect flow, its pages, and runs that are started there."""

import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from flows.arguments import RunArguments
from pipeline.stage_names import StageName

if TYPE_CHECKING:
    from pipeline.settings import Settings

logger = logging.getLogger(__name__)
SHOWN_IMAGES = 6


def run(
    arguments: RunArguments,
    *,
    from_stage: Annotated[StageName, tyro.conf.arg(name="from")] = "prepare",
    only: StageName | None = None,
    dry_run: bool = False,
) -> int:
    """Run all stages that are not complete, from data sets to scores, as a Prefect flow.

    What is complete is read from the artifacts, so the command can be stopped or killed at any moment and continues
    when it is run again. Where all is complete, nothing is started. Prefect's server is the one of 'ovseg ui' if that
    runs, the one that PREFECT_API_URL names, or one for the time of the run.

    Args:
        arguments: Where the settings come from.
        from_stage: Begin with this stage; those before it must be complete.
        only: Run this stage alone.
        dry_run: Only print the units to make, the disk that they take, and whether data, weights and disk are
            there.

    Returns:
        The exit status: 2 if a dry run finds something missing.

    Raises:
        SettingsError: If the settings are wrong.
        PipelineError: If a stage fails, or Prefect's server does not start or goes away.
    """
    from pipeline.settings import SettingsError

    settings = arguments.settings()
    if only is not None and from_stage != "prepare":
        raise SettingsError([f"run: --from {from_stage} and --only {only}: exclude each other; give one of them"])
    if not dry_run:
        run_missing({"": settings}, from_stage, only)
        return 0
    from flows.state_table import dry_run_text
    from pipeline.dry_run.dry_run import dry_run as estimate
    from pipeline.stages import chosen_stages

    try:
        found = estimate(settings, chosen_stages(from_stage, only))
    except ValueError as error:
        raise SettingsError([str(error)]) from error
    sys.stdout.write(dry_run_text(found))
    return 0 if found.is_all_there else 2


def run_missing(
    variants: Mapping[str, "Settings"], from_stage: StageName = "prepare", only: StageName | None = None
) -> None:
    """Run the flow for those of several variants for which something is to be done, all on one server.

    Args:
        variants: Settings by a name that runs and log lines carry; they share their runs directory.
        from_stage: Begin with this stage.
        only: Run this stage alone.

    Raises:
        PipelineError: If a stage fails, or Prefect's server does not start or goes away.
    """
    from flows.prefect_server import prefect_home, prefect_server, set_prefect_environment
    from pipeline.dataflow import dataflow
    from pipeline.settings import writable_runs_dir
    from pipeline.stages import chosen_stages, is_complete

    stages, to_do = chosen_stages(from_stage, only), {}
    for variant, settings in variants.items():
        graph = dataflow(settings)
        if not all(is_complete(graph, stage) for stage in stages):
            to_do[variant] = settings
    if not to_do:
        named = [stage for stage in stages if graph.of_stage(stage)]
        state = "already complete" if named else "the settings name nothing for it"
        logger.info("%s: %s; nothing to do", ", ".join(named or stages), state)
        return
    first = next(iter(to_do.values()))
    home = prefect_home(writable_runs_dir(first.runs_dir))
    set_prefect_environment(home, server_start_limit_s=first.flow.server_start_limit_s)
    try:
        with prefect_server(home, runs=first.runs_dir, start_limit_s=first.flow.server_start_limit_s):
            from flows.ovseg_flow import run_flow

            for variant, settings in to_do.items():
                run_flow(settings, from_stage, only, variant)
    except KeyboardInterrupt as interrupt:
        if not getattr(interrupt, "__notes__", None):  # else a stage has logged what is saved
            logger.warning("interrupted; what is done is saved, run the same command to go on")
            interrupt.add_note("logged")
        raise


def ui(*, runs: Path = Path("runs"), port: int = 4200) -> None:
    """Run Prefect's server, whose pages show runs and results, until Ctrl-C.

    While it runs, 'ovseg run' with the same runs directory uses it, and 'ovseg serve' can offer runs on its pages. The
    reports that they link to are served, too, at /files/. It is reached from this machine alone, and nothing is
    reported to anybody.

    Args:
        runs: Runs directory.
        port: Port of 127.0.0.1.

    Raises:
        SettingsError: If the runs directory cannot be written to.
        PipelineError: If the port is taken.
    """
    from flows.prefect_server import (
        address_of,
        announced,
        listening,
        prefect_home,
        serve_prefect,
        set_prefect_environment,
    )
    from pipeline.settings import writable_runs_dir

    home = prefect_home(writable_runs_dir(runs))
    set_prefect_environment(home, server_start_limit_s=120)
    with listening(port) as listener, announced(home, f"{address_of(listener)}/api"):
        logger.info("Prefect UI: %s (Ctrl-C ends it)", address_of(listener))
        serve_prefect(listener, runs)


def serve(arguments: RunArguments) -> None:
    """Let runs be started, parametrised and scheduled from Prefect's pages, until Ctrl-C.

    The pages show a form with all settings, filled in from the file. It needs the server of 'ovseg ui' with the same
    runs directory, or the one that PREFECT_API_URL names. Runs take place on this machine, in this directory.

    Args:
        arguments: Where the settings come from that the form shows first.

    Raises:
        SettingsError: If the settings are wrong.
        PipelineError: If there is no server.
    """
    from flows.prefect_server import announced_server, prefect_home, set_prefect_environment
    from pipeline.errors import PipelineError
    from pipeline.settings import writable_runs_dir

    settings = arguments.settings()
    home = prefect_home(writable_runs_dir(settings.runs_dir))
    set_prefect_environment(home, server_start_limit_s=settings.flow.server_start_limit_s)
    url = os.environ.get("PREFECT_API_URL") or announced_server(home, wait_s=settings.flow.server_start_limit_s)
    if url is None:
        raise PipelineError(
            f"serve: no Prefect server runs for {settings.runs_dir}; start one in another terminal with "
            f"'ovseg ui --runs {settings.runs_dir}', or name one in PREFECT_API_URL"
        )
    os.environ["PREFECT_API_URL"] = url
    from flows.ovseg_flow import serve_flow

    logger.info("Prefect UI: %s/deployments (Ctrl-C ends this)", url.removesuffix("/api"))
    serve_flow(settings)


def demo(arguments: RunArguments, *, picture: Path | None = None) -> None:
    """Run all stages for the original CLIP, MPT, FT, and FT then MPT, as far as that is not done, and compare them.

    Where settings start from the shipped nets, these segment a few scenes first, which shows something after seconds.
    The four share all that they can: scenes, proposal net, pairs, and of trainings all but MPT's. The last lines are a
    table of mIoU with 95 % intervals over the images, and the paths of the page that compares the four by class and by
    picture, of the last row's report and of the picture.

    Args:
        arguments: Where the settings come from.
        picture: PNG file to draw a few images into; by default NAME.png in the runs directory.

    Raises:
        SettingsError: If the settings are wrong, or name nothing to evaluate on.
        PipelineError: If a stage fails, or Prefect's server does not start or goes away.
    """
    from pipeline.adaptations import (
        ADAPTATIONS,
        AFTER,
        adaptation_picture,
        adaptation_tables,
        report_of,
    )
    from pipeline.adaptations_page.page import adaptations_page
    from pipeline.first_picture import first_picture, shows_shipped_nets
    from pipeline.picture_sheets import write_picture
    from pipeline.settings import SettingsError, writable_runs_dir
    from storage_schemas.commit import Disk, write_file
    from storage_schemas.reports import html_path

    settings = arguments.settings()
    if not settings.evaluate.datasets:
        raise SettingsError(["evaluate.datasets: at least one data set is expected; name one (got [])"])
    first = settings.runs_dir / f"{settings.name}-first.png"
    if shows_shipped_nets(settings) and not first.exists():
        writable_runs_dir(settings.runs_dir)
        write_picture(first_picture(settings, images=SHOWN_IMAGES), first)
        logger.info("first picture, of the shipped nets before any training: %s", first)
    run_missing({row.title: row.settings_of(settings) for row in ADAPTATIONS})
    target = picture or settings.runs_dir / f"{settings.name}.png"
    write_picture(adaptation_picture(settings, images=SHOWN_IMAGES), target)
    tables = adaptation_tables(settings)
    page = settings.runs_dir / f"{settings.name}.html"
    write_file(page, adaptations_page(settings, tables).encode(), Disk())
    for table in tables:
        sys.stdout.write(f"{table.text()}\n")
    report = html_path(report_of(AFTER.settings_of(settings)))
    sys.stdout.write(f"page:    {page}\nreport:  {report}\npicture: {target}\n")
