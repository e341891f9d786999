"""What every settings model shares: frozen, no unknown keys, finite numbers; and the mark of what changes no result."""

import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo

from storage_schemas.digests import Json

ANY_ITEM = "*"
"""Represents in a key the place in a list, or a name that the user gives."""

CHANGES_NO_RESULT: JsonDict = {"changes_result": False}
"""``json_schema_extra`` of a setting, or of a whole model, that says how the work is done, not what comes out."""

ADDED_LATER: JsonDict = {"added_later": True}
"""``json_schema_extra`` of a setting whose default is what was done before it, and must stay so."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

MaskThreshold = Annotated[float, Field(ge=0, lt=1)]
"""A mask probability above which a pixel belongs to a mask; none is above 1, so that a segmenter refuses it too."""

Precision = Literal["fp32", "bf16", "fp16"]
"""Arithmetic of a model on CUDA; a CPU always computes in fp32."""

PromptTemplates = Literal["bare", "single", "vild", "imagenet"]
"""Sentences that a noun or class name is put into: the name alone, one sentence, ViLD's 14, CLIP's 80 for ImageNet."""


class SettingsModel(BaseModel):
    """Base of all settings models."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def check_sides(*, short_side_px: int, max_side_px: int, prefix: str = "") -> None:
    """Refuse an upper limit of the long side that is below the short side: no picture could be resized so.

    Args:
        short_side_px: Wanted short side.
        max_side_px: Upper limit of the long side.
        prefix: Of both settings' names.

    Raises:
        ValueError: If the limit is too low.
    """
    if max_side_px < short_side_px:
        message = f"{prefix}max_side_px {max_side_px} should be at least {prefix}short_side_px {short_side_px}"
        raise ValueError(message)


def result_settings(model: BaseModel) -> dict[str, Json]:
    """Return the settings that change the result, as JSON values; a stage puts them into its artifact's digest.

    Left out is what is marked with ``CHANGES_NO_RESULT``: a field, or a model as a whole; and a field marked with
    ``ADDED_LATER`` that has its default, so that artifacts of before keep their digests.
    """
    if not model_changes_result(type(model)):
        return {}
    pruned: dict[str, Json] = _pruned(model, model.model_dump(mode="json"))
    return pruned


def changes_result(field: FieldInfo) -> bool:
    """Tell whether a setting changes the result, as far as its own mark says."""
    return not _is_marked(field.json_schema_extra)


def model_changes_result(model: type[BaseModel]) -> bool:
    """Tell whether a section of settings changes the result, as far as its own mark says."""
    return not _is_marked(model.model_config.get("json_schema_extra"))


def _is_marked(extra: object) -> bool:
    return isinstance(extra, Mapping) and extra.get("changes_result") is False


def _pruned(value: object, dumped: Any) -> Any:
    """Walk a value beside its JSON form and leave out what changes no result."""
    if isinstance(value, BaseModel):
        return {
            name: _pruned(getattr(value, name), dumped[name])
            for name, field in type(value).model_fields.items()
            if changes_result(field) and not _is_left_out(field, getattr(value, name))
        }
    if isinstance(value, Mapping):
        return {key: _pruned(item, dumped[str(key)]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pruned(item, dumped_item) for item, dumped_item in zip(value, dumped, strict=True)]
    return dumped


def _is_left_out(field: FieldInfo, value: object) -> bool:
    if isinstance(value, BaseModel):
        return not model_changes_result(type(value))
    extra = field.json_schema_extra
    return isinstance(extra, Mapping) and extra.get("added_later") is True and value == field.default


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
