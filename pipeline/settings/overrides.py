"""The ``--set key=value`` flags: how they are read, and how they are laid over a settings file."""

import re
import tomllib
from collections.abc import Sequence
from typing import Any, NamedTuple

FLAG = "--set"

_KEY = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class Override(NamedTuple):
    """One flag.

    Attributes:
        key: Parts of the dotted key; a number is a place in a list.
        value: The value as TOML gives it.
    """

    key: tuple[str, ...]
    value: Any


def parse_overrides(flags: Sequence[str]) -> tuple[list[Override], list[str]]:
    """Read the flags; return the good ones, and a line for each of the others."""
    overrides, faults = [], []
    for flag in flags:
        key, equals, text = flag.partition("=")
        key = key.strip()
        if not equals or not _KEY.fullmatch(key):
            faults.append(f"{FLAG}: key=value is wanted, such as mine.pair.min_score=0.2 (got {flag!r})")
        else:
            overrides.append(Override(tuple(key.split(".")), parse_value(text)))
    return overrides, faults


def parse_value(text: str) -> Any:
    """Read a value as TOML, or as a plain string if it isn't any (``runs_dir=/tmp/runs`` needs no quotes)."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return document["value"] if document.keys() == {"value"} else text


def overlaid(document: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """Return a settings document with the flags laid over it, later ones over earlier ones."""
    for override in overrides:
        document = _replaced(document, override.key, override.value)
    return document


def _replaced(current: Any, key: tuple[str, ...], value: Any) -> Any:
    """Return a copy of a value in which one place below it has another value."""
    if not key:
        return value
    first, rest = key[0], key[1:]
    if isinstance(current, list) and first.isdigit() and int(first) < len(current):
        place = int(first)
        return [*current[:place], _replaced(current[place], rest, value), *current[place + 1 :]]
    table = current if isinstance(current, dict) else {}
    return {**table, first: _replaced(table.get(first), rest, value)}
