"""Reading settings: defaults, then a TOML file, then flags; and writing the outcome beside a result."""

import json
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from pipeline.settings.errors import SettingsError
from pipeline.settings.faults import fault_lines
from pipeline.settings.overrides import FLAG, overlaid, parse_overrides
from pipeline.settings.references import reference_faults
from pipeline.settings.root import Settings

_PLACE_IN_TOML = re.compile(r"^(?P<what>.*) \((?:at )?(?P<place>line \d+, column \d+|end of document)\)$")


def load_settings(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read the settings of a run: defaults, over them a TOML file, over that flags.

    Relative paths in the settings are relative to the current directory, wherever the file lies.

    Args:
        path: The TOML file; without one, defaults and flags make the settings.
        overrides: Flags as ``key=value`` with dotted keys; a value is read as TOML, else as a plain string.

    Raises:
        SettingsError: If anything is wrong, with one line per fault.
    """
    document = {} if path is None else _read_toml(path)
    flags, faults = parse_overrides(overrides)
    document = overlaid(document, flags)
    source = FLAG if path is None else str(path)
    faults += reference_faults(document, source=source, overrides=flags)
    try:
        # JSON is pydantic's strict mode in which lists may become tuples and strings paths, yet "3" is no number.
        settings = Settings.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        faults += fault_lines(error, Settings, document, source=source, overrides=flags)
        raise SettingsError(faults) from error
    if faults:
        raise SettingsError(faults)
    return settings


def check_references(settings: Settings) -> None:
    """Check settings that did not come through ``load_settings``, such as those of a form.

    Raises:
        SettingsError: If they name a data set that they don't describe.
    """
    faults = reference_faults(settings.model_dump(mode="json"), source="settings")
    if faults:
        raise SettingsError(faults)


def settings_toml(settings: Settings) -> str:
    """Write all settings, defaults included, as TOML that ``load_settings`` reads back."""
    return tomli_w.dumps(settings.model_dump(mode="json", exclude_none=True))


def settings_json(settings: Settings) -> str:
    """Write all settings, defaults included, as JSON."""
    return settings.model_dump_json(indent=2) + "\n"


def _read_toml(path: Path) -> dict[str, Any]:
    """Read a settings file.

    Raises:
        SettingsError: If it is absent, cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        message = f"{path}: no such file; give a settings file, such as flows/configs/demo.toml"
        raise SettingsError([message]) from error
    except UnicodeDecodeError as error:
        raise SettingsError([f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8 text"]) from error
    except OSError as error:
        raise SettingsError([f"{path}: cannot be read ({error.strerror}); give a settings file"]) from error
    except tomllib.TOMLDecodeError as error:
        found = _PLACE_IN_TOML.match(str(error))
        what = f"{found['place']}: {found['what']}" if found else str(error)
        raise SettingsError([f"{path}: {what}; mend the TOML there"]) from error
