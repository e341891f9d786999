"""``ovseg status``: which units of which artifacts are done, stale, missing or corrupt, and why."""

import json as json_format
import sys
from pathlib import Path
from typing import Annotated

import tyro

from flows.arguments import Overrides


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
    """Show which units of which artifacts are done, stale, missing or corrupt, and why.

    With --config: the artifacts that its settings imply, made or not, and the setting that changed where one of the
    same name was made with others. With directories: all artifacts found there.

    Args:
        paths: Runs directories, or artifacts in them.
        config: Settings file (TOML) whose artifacts are shown.
        overrides: Setting that takes the place of the file's, such as runs_dir=/data/runs; may be given many times.
        deep: Hash every file, also those that nobody has touched since they were last hashed.
        json: Print JSON instead of a table.

    Raises:
        SettingsError: If neither a settings file nor a directory is given, the settings are wrong, or a directory
            holds no artifact.
        FileNotFoundError: If a directory is not there.
    """
    from flows.state_table import STATUS_COLUMNS, as_text
    from pipeline.dataflow import dataflow
    from pipeline.settings import SettingsError, load_settings
    from pipeline.states import states_below, states_of

    if config is None and not paths:
        raise SettingsError(
            ["status: neither settings nor a directory is given; add --config FILE, or a runs directory"]
        )
    states = states_of(dataflow(load_settings(config, overrides)).nodes, deep=deep) if config else []
    for path in paths:
        found = states_below(path, deep=deep)
        if not found:
            raise SettingsError([f"{path}: holds no artifact; give a runs directory, or an artifact in it"])
        states += found
    if json:
        sys.stdout.write(json_format.dumps([state.to_json() for state in states], indent=2) + "\n")
    else:
        sys.stdout.write(as_text(states, STATUS_COLUMNS, details=True))
