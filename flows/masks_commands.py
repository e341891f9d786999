"""``ovseg import-masks``, ``export-masks``, ``proposals-report``: masks of others, for others, how good they are."""

import sys
from pathlib import Path
from typing import Annotated

import tyro

from flows.arguments import Overrides
from pipeline.data_set_options import RegionKind


def import_masks(
    path: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PATH]", help_behavior_hint="")] = None,
    *,
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    overrides: Overrides = (),
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs"),
    short_side_px: int = 512,
    max_side_px: int = 2048,
    for_mining: bool = False,
    workers: int = 0,
    max_failed_share: float = 0.01,
) -> None:
    """Turn masks of others into proposals, which take the place of the proposal net's.

    With PATH and --scenes: the masks there, for these scenes. With --config: all masks that its settings use, of
    sections such as [masks.coco-train]. Masks that don't fit their picture are rows with a reason; rules say which of
    the others are kept. docs/guides/own_masks.md lists the formats and rules.

    Args:
        path: JSON file, or folder, of the masks.
        scenes: Directory of the scenes, such as runs/scenes/coco-val2017-0123456789ab.
        config: Settings file (TOML) that names masks.
        overrides: With --config a setting; else one of a section of masks, such as rules.max_masks=100 or format=sam.
        runs: Directory of all artifacts; with --config its settings say it.
        short_side_px: Short side at which regions are expected, as the proposal net's input, in pixels.
        max_side_px: Upper limit of the long side there.
        for_mining: Pass over scenes without a caption, as mining does.
        workers: Processes that share the work; 0 = this process alone.
        max_failed_share: Share of rows that may have been refused.

    Raises:
        SettingsError: If options are missing or wrong.
        PipelineError: If there are no masks or scenes, or they don't fit each other.
    """
    from pipeline.settings import SettingsError

    if config is not None and path is None and scenes is None:
        from pipeline.settings import load_settings
        from pipeline.stages import run_imports
        from storage_schemas.proposals import KIND

        for report in run_imports(load_settings(config, overrides)).of_kind(KIND):
            sys.stdout.write(f"{report.artifact.directory}\n")
        return
    if config is not None or path is None or scenes is None:
        raise SettingsError(
            ["import-masks: --config alone, or the path of masks and --scenes, is expected; give these"]
        )
    from pipeline.import_masks.import_masks import import_masks as import_of
    from pipeline.mine.regions import NetSize
    from pipeline.settings import ComputeSettings, MasksSettings, NetInputSettings, load_section

    masks = load_section(MasksSettings, {"path": path}, overrides, "import-masks")
    sides = {"short_side_px": short_side_px, "max_side_px": max_side_px}
    size = NetSize(**load_section(NetInputSettings, sides, (), "import-masks").model_dump(include=set(sides)))
    limits = {"workers": workers, "max_failed_share": max_failed_share}
    compute = load_section(ComputeSettings, limits, (), "import-masks")
    made = import_of(masks, scenes, runs, size=size, captioned=for_mining, compute=compute)
    sys.stdout.write(f"{made.artifact.directory}\n")


def export_masks(
    proposals: Annotated[Path, tyro.conf.Positional],
    *,
    scenes: Annotated[Path, tyro.conf.arg(metavar="DIR")],
    out: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    at_net_size: bool = False,
) -> None:
    """Write proposals as a JSON file of COCO results, which pycocotools, detectron2 and many others read.

    Args:
        proposals: Directory of the proposals, such as runs/proposals/demo-0123456789ab.
        scenes: Directory of the scenes that they are of.
        out: File to be written.
        at_net_size: Leave masks at the size at which the net sees pictures. Imported again they give the same
            embeddings and pairs; other tools expect masks of the pictures' own size.

    Raises:
        PipelineError: If they are of other scenes.
    """
    from pipeline.import_masks.export_masks import export_masks as export
    from storage_schemas.artifact import Artifact

    count = export(Artifact.open(proposals), Artifact.open(scenes), out, at_net_size=at_net_size)
    sys.stdout.write(f"{out}: {count} masks\n")


def proposals_report(
    proposals: Annotated[
        Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[PROPOSALS]", help_behavior_hint="")
    ] = None,
    *,
    scenes: Annotated[Path | None, tyro.conf.arg(metavar="DIR", help_behavior_hint="")] = None,
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    overrides: Overrides = (),
    runs: Annotated[Path, tyro.conf.arg(metavar="DIR")] = Path("runs"),
    regions: RegionKind = "classes",
) -> None:
    """Report how good proposals are, whoever made them: are masks or names what holds a result back?

    With --config: the proposals of each data set that its settings evaluate on, of the net or imported; what the
    evaluation reached is set beside them if it is complete. With PROPOSALS and --scenes: an artifact of proposals, and
    the labelled scenes that it is of. The report is one HTML file, with the same numbers as Markdown and JSON.

    Args:
        proposals: Directory of proposals, such as runs/proposals/coco-val2017-imported-0123456789ab.
        scenes: Directory of the scenes that they are of.
        config: Settings file (TOML).
        overrides: With --config a setting, such as evaluate.proposals=imported.
        runs: Directory of all artifacts; with --config its settings say it.
        regions: Whether masks are to meet all places of a class together, as the paper's net gives them, or single
            things where the labels have instances.

    Raises:
        SettingsError: If options are missing or wrong, or there are no labels.
        PipelineError: If proposals or scenes are not there, or don't fit each other.
    """
    from pipeline.settings import SettingsError
    from storage_schemas.reports import KIND, html_path

    if config is not None and proposals is None and scenes is None:
        from pipeline.settings import load_settings
        from pipeline.stages import run_proposals_reports

        for report in run_proposals_reports(load_settings(config, overrides), regions=regions).of_kind(KIND):
            sys.stdout.write(f"{html_path(report.artifact)}\n")
        return
    if config is not None or proposals is None or scenes is None:
        message = "proposals-report: --config alone, or proposals and --scenes, is expected; give these"
        raise SettingsError([message])
    from pipeline.proposals_report.report import report_on

    sys.stdout.write(f"{html_path(report_on(proposals, scenes, runs, regions=regions).artifact)}\n")
