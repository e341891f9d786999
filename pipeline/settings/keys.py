"""All settings by key, for suggestions and for the docs."""

import difflib
import typing
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo

ANY_ITEM = "*"
"""Stands in a key for the place in a list, or for a name that the user gives."""


_LEAST_LIKENESS = 0.75
_BONUS_BESIDE = 0.15


class Setting(NamedTuple):
    """One setting, or one section of settings.

    Attributes:
        key: Its place (``("evaluate", "datasets", "*", "dataset")``).
        field: What its model says of it.
        section: The models of which its value is made; empty for a plain value.
    """

    key: tuple[str, ...]
    field: FieldInfo
    section: tuple[type[BaseModel], ...]


def all_settings(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Walk all settings of a model in order, each section before what it holds."""
    for name, field in model.model_fields.items():
        key = (*above, name)
        sections, items = _models_in(field.annotation)
        yield Setting(key, field, sections)
        for section in sections:
            yield from all_settings(section, (*key, ANY_ITEM) if items else key)


def matches(known: Sequence[str], key: Sequence[str]) -> bool:
    """Tell whether a known key, which may hold ``ANY_ITEM``, stands for a key."""
    return len(known) == len(key) and all(mine in {ANY_ITEM, theirs} for mine, theirs in zip(known, key, strict=True))


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


def _models_in(annotation: object) -> tuple[tuple[type[BaseModel], ...], bool]:
    """Return the models of which an annotation is made, and whether they are items of a list or table."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,), False
    found: list[type[BaseModel]] = []
    items = typing.get_origin(annotation) in {list, tuple, dict}
    for argument in typing.get_args(annotation):
        models, inner_items = _models_in(argument)
        found.extend(models)
        items = items or inner_items
    return tuple(found), items
