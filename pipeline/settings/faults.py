"""What is wrong with settings, in the lines that a user reads: ``file: key: what (got value)``."""

import difflib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import PipelineError
from pipeline.settings.model import ANY_ITEM, Setting, all_settings, matches

FLAG = "--set"
"""What a fault names as its source where a flag gave the value."""

_SHOWN_CHARACTERS = 60

# A suggestion is made from this likeness (difflib's ratio) on; keys of the same table are preferred by the bonus.
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
    """One flag.

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


_REFERENCES = (
    ("proposal_net", "dataset"),
    ("proposal_net", "validation_dataset"),
    ("mine", "dataset"),
    ("finetune", "validation_dataset"),
    ("evaluate", "datasets", ANY_ITEM, "dataset"),
    ("evaluate", "sweep", "validation_dataset"),
)


def reference_faults(document: Mapping[str, Any], *, source: str, overrides: Sequence[Override] = ()) -> list[str]:
    """List the names of data sets that are not under ``datasets``, one line each.

    Args:
        document: Settings as read, valid or not, so that these faults are told together with all others.
        source: Name of the settings file.
        overrides: Flags that were laid over the file.
    """
    datasets = document.get("datasets")
    known = sorted(datasets) if isinstance(datasets, Mapping) else []
    lines = []
    for reference in _REFERENCES:
        for key, name in _values(document, reference):
            if isinstance(name, str) and name and name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                meant = f", did you mean '{close[0]}'?" if close else f"; there are {', '.join(known) or 'none'}"
                what = f"is no name under 'datasets'{meant} (got {shown(name)})"
                lines.append(fault_line(key, what, source=teller(key, source, overrides)))
    return lines


def _values(
    document: object, key: Sequence[str], above: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield the values that lie at a key, each with its own key; none where the document has another form."""
    if not key:
        yield above, document
    elif key[0] == ANY_ITEM and isinstance(document, list):
        for place, item in enumerate(document):
            yield from _values(item, key[1:], (*above, str(place)))
    elif isinstance(document, Mapping) and key[0] in document:
        yield from _values(document[key[0]], key[1:], (*above, key[0]))


def suggestion(key: Sequence[str], known: Sequence[tuple[str, ...]]) -> str:
    """Name the known key that an unknown one most likely stands for, beside it or elsewhere; empty if none is like it.

    Args:
        key: The unknown key.
        known: All known keys.
    """
    *parents, leaf = key
    best, best_likeness = "", _LEAST_LIKENESS
    for name in known:
        beside = matches(name[:-1], parents)
        likeness = difflib.SequenceMatcher(None, leaf, name[-1]).ratio() + (_BONUS_BESIDE if beside else 0)
        if likeness > best_likeness:
            best = ".".join([*parents, name[-1]] if beside else name)
            best_likeness = likeness
    return best
