"""What is wrong with settings, in the lines that a user reads: ``file: key: what (got value)``."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import PipelineError
from pipeline.settings.model import ANY_ITEM, Setting, all_settings

FLAG = "--set"
"""Source of a fault where a flag gave the value."""

_SHOWN_CHARACTERS = 60

# Pydantic's messages about these types name types of Python, not of TOML.
_TOML_TYPES = {
    "model_type": "should be a table",
    "dict_type": "should be a table",
    "tuple_type": "should be a list",
    "path_type": "should be a path in quotes",
}

# A key is suggested from this likeness (difflib's ratio) on; keys of the same table are preferred by the bonus.
_LEAST_LIKENESS = 0.75
_BONUS_BESIDE = 0.15


class SettingsError(PipelineError):
    """The settings cannot be used; the message has one line per fault.

    Attributes:
        faults: Each as ``file: key: what (got value)``, or ``file: what`` where no single key is at fault.
    """

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type["SettingsError"], tuple[tuple[str, ...]]]:
        """Travel between processes with the faults, not with the message that is made of them."""
        return type(self), (self.faults,)


class Override(NamedTuple):
    """One ``--set`` flag.

    Attributes:
        key: Parts of the dotted key; a number is a place in a list.
        value: The value as TOML gives it.
    """

    key: tuple[str, ...]
    value: Any


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
        overrides: Flags that changed the document; a fault at the place of one is reported as the flag's.
    """
    known = list(all_settings(model))
    lines = []
    for details in error.errors(include_url=False):
        kind, message = details["type"], details["msg"].removeprefix("Value error, ")
        key = _key_of(details, document)
        if kind == "extra_forbidden":
            meant = _suggestion(key, known)
            what = f"unknown setting, did you mean '{meant}'?" if meant else "unknown setting"
        elif kind == "missing":
            what = "is missing"
        elif kind == "string_pattern_mismatch" and (described := [s for s in known if _matches(s.key, key)]):
            what = f"does not fit, it is: {described[0].field.description}"
        else:
            message = message.replace("Input should be", "should be", 1).replace("String should", "should", 1)
            what = _TOML_TYPES.get(kind, message)
        if kind not in {"missing", "value_error"}:  # there, no single value is at fault
            what += f" (got {_shown(details['input'])})"
        place = key[:-1] if kind == "missing" else key
        lines.append(_fault_line(key, what, source=_source_of(place, source, overrides)))
    return lines


def reference_faults(
    model: type[BaseModel], document: Mapping[str, Any], *, source: str, overrides: Sequence[Override] = ()
) -> list[str]:
    """List the names of data sets that are not under ``datasets``, one line each.

    Args:
        model: The model that says which settings are names of data sets.
        document: Settings as read, valid or not, so that these faults are reported together with all others.
        source: Name of the settings file.
        overrides: Flags that changed the document.
    """
    datasets = document.get("datasets")
    known = sorted(datasets) if isinstance(datasets, Mapping) else []
    lines = []
    for reference in (setting.key for setting in all_settings(model) if setting.names_dataset):
        for key, name in _values(document, reference):
            if isinstance(name, str) and name and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f", did you mean '{close[0]}'?" if close else f"; there are {', '.join(known) or 'none'}"
                what = f"is no name under 'datasets'{meant} (got {_shown(name)})"
                lines.append(_fault_line(key, what, source=_source_of(key, source, overrides)))
    return lines


def _fault_line(key: tuple[str, ...], what: str, *, source: str) -> str:
    """Write one fault; the key may be empty."""
    return ": ".join(part for part in (source, ".".join(key), what) if part)


def _source_of(key: tuple[str, ...], source: str, overrides: Sequence[Override]) -> str:
    """Return where the value at a key comes from: a flag, if one lies at, above or below the key, or the file."""
    by_flag = any(all(mine == theirs for mine, theirs in zip(key, flag.key, strict=False)) for flag in overrides)
    return FLAG if by_flag else source


def _shown(value: object) -> str:
    """Write a value as in a settings file, cut short if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 3]}..."


def _key_of(details: ErrorDetails, document: Any) -> tuple[str, ...]:
    """Return the key of a fault; names of union members, which pydantic puts into its place, are left out."""
    loc, key = details["loc"], []
    for index, part in enumerate(loc):
        is_place = isinstance(document, list) and isinstance(part, int) and part < len(document)
        if is_place or (isinstance(document, dict) and part in document):
            document = document[part]
            key.append(str(part))
        elif index == len(loc) - 1 and isinstance(document, dict) and part != "[key]":
            key.append(str(part))
    return tuple(key)


def _matches(known: Sequence[str], key: Sequence[str]) -> bool:
    """Return whether a key is one of those that a known key, which may hold ``ANY_ITEM``, represents."""
    return len(known) == len(key) and all(mine in {ANY_ITEM, theirs} for mine, theirs in zip(known, key, strict=True))


def _suggestion(key: Sequence[str], known: Sequence[Setting]) -> str:
    """Return the known key that an unknown one most likely means, beside it or elsewhere; empty if none is like it."""
    *parents, leaf = key
    best, best_likeness = "", _LEAST_LIKENESS
    for *above, name in (setting.key for setting in known):
        beside = _matches(above, parents)
        likeness = difflib.SequenceMatcher(None, leaf, name).ratio() + (_BONUS_BESIDE if beside else 0)
        if likeness > best_likeness:
            best = ".".join([*(parents if beside else above), name])
            best_likeness = likeness
    return best


def _values(
    document: object, key: Sequence[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the values at a key, each with its own key; none where the document has another form."""
    if not key:
        yield above, document
    elif key[0] == ANY_ITEM and isinstance(document, list):
        for place, item in enumerate(document):
            yield from _values(item, key[1:], (*above, str(place)))
    elif isinstance(document, Mapping) and key[0] in document:
        yield from _values(document[key[0]], key[1:], (*above, key[0]))
