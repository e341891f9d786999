"""From pydantic's errors to the lines that a user reads: ``file: key: what (got value)``."""

import json
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.settings.keys import Setting, all_settings, matches, suggestion
from pipeline.settings.overrides import FLAG, Override

_SHOWN_CHARACTERS = 60


def fault_lines(
    error: ValidationError,
    model: type[BaseModel],
    document: dict[str, Any],
    *,
    source: str,
    overrides: Sequence[Override] = (),
) -> list[str]:
    """Turn every error of a validation into one line.

    Args:
        error: What pydantic found.
        model: The model that was validated against.
        document: What was validated.
        source: Name of the settings file.
        overrides: Flags that were laid over the file; a fault at the place of one is told as the flag's.
    """
    known = list(all_settings(model))
    lines = []
    for details in error.errors(include_url=False):
        key = _key_of(details["loc"], document)
        what = _what(details, key, known) + _got(details)
        place = key[:-1] if details["type"] == "missing" else key
        lines.append(fault_line(key, what, source=teller(place, source, overrides)))
    return lines


def fault_line(key: tuple[str, ...], what: str, *, source: str) -> str:
    """Write one fault as ``file: key: what``; the key may be empty."""
    return ": ".join(part for part in (source, ".".join(key), what) if part)


def teller(key: tuple[str, ...], source: str, overrides: Sequence[Override]) -> str:
    """Return what a fault at a key is to be laid to: the file, or the flag if one lies at, above or below the key."""
    laid_over = any(
        all(mine == theirs for mine, theirs in zip(key, override.key, strict=False)) for override in overrides
    )
    return FLAG if laid_over else source


def shown(value: object) -> str:
    """Write a value as in a settings file, cut short if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _key_of(loc: tuple[int | str, ...], document: Any) -> tuple[str, ...]:
    """Return the key of a fault; names of union members, which pydantic puts into its place, are left out."""
    key = []
    for index, part in enumerate(loc):
        if _holds(document, part):
            document = document[part]
            key.append(str(part))
        elif index == len(loc) - 1 and isinstance(document, dict) and part != "[key]":
            key.append(str(part))
    return tuple(key)


def _holds(document: object, part: int | str) -> bool:
    """Tell whether a table has a key, or a list a place."""
    if isinstance(document, list):
        return isinstance(part, int) and part < len(document)
    return isinstance(document, dict) and part in document


def _what(details: ErrorDetails, key: tuple[str, ...], known: Sequence[Setting]) -> str:
    """Say what is wrong."""
    if details["type"] == "extra_forbidden":
        meant = suggestion(key, [setting.key for setting in known])
        return f"unknown setting, did you mean '{meant}'?" if meant else "unknown setting"
    if details["type"] == "missing":
        return "is missing"
    if details["type"] == "string_pattern_mismatch":
        described = [setting.field.description for setting in known if matches(setting.key, key)]
        if described:
            return f"does not fit, it is: {described[0]}"
    message = details["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "should be", 1).replace("String should", "should", 1)


def _got(details: ErrorDetails) -> str:
    """Tell the value that was found, where one value and not a section as a whole is at fault."""
    return "" if details["type"] in {"missing", "value_error"} else f" (got {shown(details['input'])})"
