"""What all sections of settings share: their base, types and marks, and which of them enter a digest."""

import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from storage_schemas.digests import Json

ANY_ITEM = "*"
"""Represents in a key the place in a list, or a name that the user gives."""

CHANGES_NO_RESULT: JsonDict = {"changes_result": False}
"""``json_schema_extra`` of a setting, or of a whole section, that says how the work is done, not what comes out."""

LATER_SETTING: JsonDict = {"in_digest_at_default": False}
"""``json_schema_extra`` of a setting that changes the result and came when artifacts existed: it enters a digest only
where it has another value than its default, so that theirs stay as they are."""

Item = TypeVar("Item")
Section = TypeVar("Section", bound="SettingsModel")

ListOf = Annotated[tuple[Item, ...], Field(strict=False)]
"""A list of a settings file; not strict, as TOML and JSON have lists and no tuples. The items are."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A part of a whole, 0 to 1."""

SideLength = Annotated[int, Field(ge=16, le=8192)]
"""Side of a picture [px]."""

MaskThreshold = Annotated[float, Field(ge=0, lt=1)]
"""A mask probability above which a pixel belongs to a mask; none is above 1, so that a segmenter refuses it too."""

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
"""Arithmetic of a model on CUDA; a CPU always computes in fp32, in full.

``"tf32"`` keeps numbers of 32 bits and multiplies them with 10 bits of mantissa, about 3 digits, from Ampere cards on.
"""

BlankPatches = Literal["kept", "dropped"]
"""What becomes of the tokens of a crop's patches without a mask pixel in CLIP's image tower."""

Namer = Literal["crops", "one-pass", "pooled"]
"""How CLIP sees masks: a crop of each, or the picture once (`ovseg_models.one_pass`), where each mask has a token, or
pools the last tokens of its patches."""

ONE_PASS_SIZES = frozenset({"picture_side_px", "window_stride_px"})
"""Settings of a stage, which have no say where crops are named."""

PromptTemplates = Literal["bare", "single", "vild", "imagenet"]
"""Sentences that a noun or class name is put into: the name alone, one sentence, ViLD's 14, CLIP's 80 for ImageNet."""

DatasetReference = Annotated[str, Field(json_schema_extra={"names": "datasets"})]
"""Name of one of the data sets that the settings describe, or empty; ``check_references`` finds it by this type."""


class SettingsModel(BaseModel):
    """Base of all sections: frozen, no unknown keys, finite numbers, and no text where a number is expected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, strict=True)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Leave out the defaults of inherited settings.

        A form fills in the defaults of its schema and sends them; an inherited setting would never inherit then.
        """
        json_schema = handler(schema)
        for values in handler.resolve_ref_schema(json_schema).get("properties", {}).values():
            if "inherits" in values:
                values.pop("default", None)
        return json_schema


def section(model: type[SettingsModel], mark: JsonDict | None = None) -> Any:
    """Declare a section, which the docstring of its model describes; with a mark such as ``LATER_SETTING``.

    Its default is a factory, which no JSON schema shows: a form would fill in and send all that the section holds, and
    nothing would be inherited.
    """
    return Field(default_factory=model, description=model.__doc__, json_schema_extra=mark)


def check_sides(given: Section) -> Section:
    """Refuse an upper limit of the long side that is below the short side: no picture could be resized so.

    A validator of sections with ``short_side_px`` and ``max_side_px``, also with ``validation_`` before the names.

    Raises:
        ValueError: If the limit is too low.
    """
    prefix = "" if "short_side_px" in type(given).model_fields else "validation_"
    short_side_px, max_side_px = getattr(given, f"{prefix}short_side_px"), getattr(given, f"{prefix}max_side_px")
    if max_side_px < short_side_px:
        raise ValueError(f"{prefix}max_side_px {max_side_px} should be at least {prefix}short_side_px {short_side_px}")
    return given


class Setting(NamedTuple):
    """One setting, or one section of settings.

    Attributes:
        key: Its place (``("evaluate", "datasets", "*", "dataset")``).
        field: What its model says of it.
        sections: The models of which its value is made; empty for a plain value.
    """

    key: tuple[str, ...]
    field: FieldInfo
    sections: tuple[type[BaseModel], ...]

    @property
    def inherits(self) -> tuple[str, ...]:
        """Key of the setting whose value it takes where it is not given; empty if it takes none."""
        return _inherited_key(self.field)

    @property
    def names_dataset(self) -> bool:
        """Whether its value is a ``DatasetReference``."""
        return _extra(self.field).get("names") == "datasets"


def all_settings(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield all settings of a model in order, each section before what it holds."""
    for name, field in model.model_fields.items():
        key = (*above, name)
        sections, items = _models_in(field.annotation)
        yield Setting(key, field, sections)
        for section in sections:
            yield from all_settings(section, (*key, ANY_ITEM) if items else key)


def result_settings(model: BaseModel) -> dict[str, Json]:
    """Return the settings that change the result, as JSON values; a stage puts them into its artifact's digest.

    Left out is what is marked with ``CHANGES_NO_RESULT``: a field, or a section as a whole; and what is marked with
    ``LATER_SETTING``, where it has its default.
    """
    pruned: dict[str, Json] = _pruned(model, model.model_dump(mode="json")) if changes_result(type(model)) else {}
    return pruned


def changes_result(marked: FieldInfo | type[BaseModel]) -> bool:
    """Return whether a setting, or a section of settings, changes the result, as far as its own mark says."""
    return _extra(marked).get("changes_result") is not False


def with_inherited(model: type[BaseModel], document: Any, shared: Mapping[tuple[str, ...], object]) -> Any:
    """Return a section as given, completed with the values that it inherits and does not give itself.

    Sections that are items of lists or tables inherit nothing.

    Args:
        document: What was given: a table, or an instance of the model; anything else is returned for validation to
            refuse.
        shared: Values by the keys that fields name with ``inherits``.
    """
    if isinstance(document, BaseModel):
        document = document.model_dump(exclude_unset=True)
    if not isinstance(document, Mapping):
        return document
    completed = dict(document)
    for name, field in model.model_fields.items():
        if name not in completed and (source := _inherited_key(field)) in shared:
            completed[name] = shared[source]
        sections, items = _models_in(field.annotation)
        for section in () if items else sections:
            # A section that is not given appears only where something in it is inherited.
            if (below := with_inherited(section, completed.get(name, {}), shared)) or name in completed:
                completed[name] = below
    return completed


def _pruned(value: object, dumped: Any) -> Any:
    """Walk a value beside its JSON form and leave out what changes no result."""
    if isinstance(value, BaseModel):
        return {
            name: _pruned(item, dumped[name])
            for name, field in type(value).model_fields.items()
            if changes_result(field)
            and (not isinstance(item := getattr(value, name), BaseModel) or changes_result(type(item)))
            and not (_extra(field).get("in_digest_at_default") is False and item == _default(field))
        }
    if isinstance(value, Mapping):
        return {key: _pruned(item, dumped[str(key)]) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_pruned(item, dumped_item) for item, dumped_item in zip(value, dumped, strict=True)]
    return dumped


def _default(field: FieldInfo) -> object:
    """Return the default of a setting or section."""
    return field.get_default(call_default_factory=True, validated_data={})


def _extra(marked: FieldInfo | type[BaseModel]) -> Mapping[str, Any]:
    """Return the marks of a field or model."""
    extra = marked.json_schema_extra if isinstance(marked, FieldInfo) else marked.model_config.get("json_schema_extra")
    return extra if isinstance(extra, Mapping) else {}


def _inherited_key(field: FieldInfo) -> tuple[str, ...]:
    source = _extra(field).get("inherits")
    return tuple(source.split(".")) if source else ()


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
