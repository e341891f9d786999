"""Which settings enter an artifact's digest: those that change the result."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from storage_schemas.digests import Json


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
