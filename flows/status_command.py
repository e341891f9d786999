"""``ovseg status``: which units of which artifacts are done, stale, missing or corrupt, and why."""

import json as json_format
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from flows.arguments import Overrides

if TYPE_CHECKING:
    from flows.artifact_report import ArtifactReport


def status(
    paths: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DIR ...]", help_behavior_hint="")
    ] = (),
    *,
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="")] = None,
    overrides: Overrides = (),
    deep: bool = False,
    json: bool = False,
) -> None:
    """Tell which units of which artifacts are done, stale, missing or corrupt, and why.

    With --config: the artifacts that its settings imply, made or not, and the setting that changed where one of the
    same name was made with others. With directories: all artifacts found there.

    Args:
        paths: Runs directories, or artifacts in them.
        config: Settings file (TOML) whose artifacts are wanted.
        overrides: Setting that takes the place of the file's, such as runs_dir=/data/runs; may be given many times.
        deep: Hash every file, also those that nobody has touched since they were last hashed.
        json: Print JSON instead of a table.

    Raises:
        SettingsError: If neither a settings file nor a directory is given, or the settings are wrong.
        FileNotFoundError: If a directory is not there.
    """
    from flows.artifact_report import as_text
    from pipeline.settings import SettingsError

    if config is None and not paths:
        message = "status: neither settings nor a directory is given; add --config FILE, or a runs directory"
        raise SettingsError([message])
    reports = [*(_planned(config, overrides, deep=deep) if config else ()), *_found(paths, deep=deep)]
    if json:
        sys.stdout.write(json_format.dumps([report.to_json() for report in reports], indent=2) + "\n")
    else:
        sys.stdout.write(as_text(reports))


def _planned(config: Path, overrides: Iterable[str], *, deep: bool) -> "list[ArtifactReport]":
    """Report on the artifacts that settings imply."""
    from flows.artifact_report import reports_of_plans
    from pipeline.planning import planned_artifacts
    from pipeline.settings import load_settings

    return reports_of_plans(planned_artifacts(load_settings(config, tuple(overrides))), deep=deep)


def _found(paths: Iterable[Path], *, deep: bool) -> "list[ArtifactReport]":
    """Report on the artifacts that lie in directories."""
    from flows.artifact_report import reports_below
    from pipeline.settings import SettingsError

    reports = []
    for path in paths:
        found = reports_below(path, deep=deep)
        if not found:
            message = f"{path}: holds no artifact; give a runs directory, or an artifact in it"
            raise SettingsError([message])
        reports.extend(found)
    return reports
