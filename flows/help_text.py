"""How a subcommand's options are shown: tyro's own spellings of Python's types are replaced by words for a reader."""

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from flows.arguments import RunArguments

_METAVARS = {Path: "PATH", int: "INT", float: "FLOAT"}
_CONTINUED = re.compile(r"\n {8,}(?=\S)")  # the lines of an entry below "Args:" but its first


def with_readable_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of the same arguments whose help has no `None`, no `STR` and no empty default.

    An option that may be left out is shown by the type that it has when it is given (``--picture PATH`` in place of
    ``--picture {None}|PATH``), a text by its name. Where the settings come from is a part of the options, not a group
    of its own. What a command says of an option itself, by `tyro.conf.arg`, goes first.
    """

    @functools.wraps(function)
    def same(*given: Any, **options: Any) -> Any:
        return function(*given, **options)

    hints = typing.get_type_hints(function, include_extras=True)
    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        annotation = hints[parameter.name]
        kind, *own = typing.get_args(annotation) if hasattr(annotation, "__metadata__") else (annotation,)
        shown: dict[str, Any] = {}
        if kind is RunArguments:
            shown["name"] = ""
        else:
            is_list = typing.get_origin(kind) is tuple and typing.get_args(kind)[-1] is Ellipsis
            if is_list or parameter.default in (None, "") or parameter.default is False:
                shown["help_behavior_hint"] = ""
            if metavar := _metavar(kind, parameter.name):
                shown["metavar"] = metavar
        if shown:
            annotation = Annotated[(kind, tyro.conf.arg(**shown), *own)]  # of two words tyro takes the later
        parameters.append(parameter.replace(annotation=annotation))
    same.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    same.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del same.__wrapped__  # tyro would read the types of what is wrapped
    # tyro keeps the line breaks within an entry, which then fall anywhere in a narrower column.
    same.__doc__ = _CONTINUED.sub(" ", inspect.getdoc(function) or "")
    return same


def _metavar(kind: Any, name: str) -> str:
    """Return how a value is shown, or nothing where tyro's own way is good."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        (member,) = [member for member in typing.get_args(kind) if member is not types.NoneType]
        if typing.get_origin(member) is Literal:
            return "{" + ",".join(typing.get_args(member)) + "}"
        return _metavar(member, name) or _METAVARS.get(member, "")
    if kind is str:
        return name.upper()
    if typing.get_origin(kind) is tuple and typing.get_args(kind) == (str, Ellipsis):
        return "NAME ..."
    return ""


def description_of(function: Callable[..., Any]) -> list[str]:
    """Return what a command's docstring says above its arguments, a paragraph a line."""
    text = inspect.getdoc(function) or ""
    paragraphs = text.partition("\nArgs:")[0].partition("\nRaises:")[0].strip().split("\n\n")
    return [" ".join(paragraph.split()) for paragraph in paragraphs]
