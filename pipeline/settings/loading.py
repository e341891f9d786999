"""Settings from a TOML file and flags, and back to TOML; and the runs directory that they name."""

import re
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import ValidationError

from pipeline.settings.faults import FLAG, Override, SettingsError, fault_lines, reference_faults
from pipeline.settings.model import SettingsModel, all_settings
from pipeline.settings.sections import Settings

Section = TypeVar("Section", bound=SettingsModel)

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PLACE_IN_TOML = re.compile(r"^(?P<what>.*) \((?:at )?(?P<place>line \d+, column \d+|end of document)\)$")


def load_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a run: flags override the TOML file, the file overrides the defaults.

    Relative paths in the settings are relative to the current directory, wherever the file is.

    Args:
        path: The TOML file; without one, defaults and flags make the settings.
        overrides: Flags as ``key=value`` with dotted keys; a value is read as TOML, else as a plain string.

    Raises:
        SettingsError: If anything is wrong, with one line per fault.
    """
    if path is None:
        return load_section(Settings, {}, overrides, source=FLAG)
    return load_section(Settings, _read_toml(path), overrides, source=str(path))


def load_section(section: type[Section], values: Mapping[str, Any], overrides: Sequence[str], source: str) -> Section:
    """Make one section of settings of a command's own values and ``key=value`` flags, which override them.

    Args:
        values: By their names.
        overrides: As of `load_settings`, with keys within the section.
        source: Name of the command or file, for messages.

    Raises:
        SettingsError: If anything is wrong, with one line per fault.
    """
    flags, faults = parse_overrides(overrides)
    document = with_overrides(dict(values), flags)
    faults += reference_faults(section, document, source=source, overrides=flags)
    try:
        made = section.model_validate(document)
    except ValidationError as error:
        faults += fault_lines(error, section, document, source=source, overrides=flags)
        raise SettingsError(faults) from error
    if faults:
        raise SettingsError(faults)
    return made


def check_references(settings: Settings) -> None:
    """Check settings that did not come through ``load_settings``, such as those of a form.

    Raises:
        SettingsError: If they name a data set that they don't describe.
    """
    faults = reference_faults(Settings, settings.model_dump(mode="json"), source="settings")
    if faults:
        raise SettingsError(faults)


def settings_document(settings: Settings) -> dict[str, Any]:
    """Return all settings, defaults included, as JSON values, to be changed by somebody and read again.

    A setting with the value that it inherits is left out, so that it follows when that value is changed. So is one that
    is None, of which TOML has none.
    """
    document = settings.model_dump(mode="json", exclude_none=True)
    for setting in (each for each in all_settings(Settings) if each.inherits):
        *above, name = setting.key
        table = reduce(dict[str, Any].__getitem__, above, document)
        if table[name] == reduce(getattr, setting.inherits, settings):
            del table[name]
    return document


def settings_toml(settings: Settings) -> str:
    """Write ``settings_document`` as TOML that ``load_settings`` reads back."""
    return tomli_w.dumps(settings_document(settings))


def parse_overrides(flags: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Read the ``--set`` flags; return the good ones, and a line for each of the others."""
    overrides, faults = [], []
    for flag in flags:
        key, equals, text = flag.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            faults.append(f"{FLAG}: should be key=value, such as mine.pair.min_score=0.2 (got {flag!r})")
        else:
            overrides.append(Override(tuple(key.split(".")), parse_value(text)))
    return overrides, faults


def parse_value(text: str) -> Any:
    """Read a value as TOML, or as a plain string if it isn't any (``runs_dir=/tmp/runs`` needs no quotes)."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # "1\nother = 2" is TOML of two keys, so no value.
    return document["value"] if document.keys() == {"value"} else text


def with_overrides(document: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """Return a copy of a settings document in which the flags have set their values, the later ones last."""

    def replaced(current: Any, key: tuple[str, ...], value: Any) -> Any:
        if not key:
            return value
        first, rest = key[0], key[1:]
        if isinstance(current, list) and first.isdigit() and int(first) < len(current):
            place = int(first)
            return [*current[:place], replaced(current[place], rest, value), *current[place + 1 :]]
        table = current if isinstance(current, dict) else {}
        return {**table, first: replaced(table.get(first), rest, value)}

    return reduce(lambda changed, override: replaced(changed, *override), overrides, document)


def writable_runs_dir(path: Path) -> Path:
    """Make the runs directory if it is not there, and try it by writing a file that vanishes at once.

    Hours of work may come before the first artifact is written.

    Returns:
        The path as it was given.

    Raises:
        SettingsError: If it cannot be made, is no directory, or cannot be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except (FileExistsError, NotADirectoryError) as error:
        raise SettingsError(
            [f"runs_dir: should be a directory, a file is in its place; choose another (got {path})"]
        ) from error
    except OSError as error:
        raise SettingsError(
            [f"runs_dir: cannot be written to ({error.strerror}); make it writable or choose another (got {path})"]
        ) from error


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        SettingsError: If it is absent, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError([f"{path}: no such file; give a settings file, such as flows/configs/demo.toml"]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8 text"]) from error
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read ({error.strerror}); give a settings file"]) from error
    except tomllib.TOMLDecodeError as error:
        found = _PLACE_IN_TOML.match(str(error))
        what = f"{found['place']}: {found['what']}" if found else str(error)
        raise SettingsError([f"{path}: {what}; correct the TOML there"]) from error
