"""Write docs/reference/settings.md from the settings models; ``--check`` only checks whether it is up to date."""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from pipeline.settings import Settings
from pipeline.settings.model import ANY_ITEM, all_settings, changes_result

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "settings.md"

INTRODUCTION = """\
# Settings

Written by `make docs` from the models in `pipeline/settings`; edit those, not this page.

A run has one settings file in TOML; `flows/configs` holds examples. What the file leaves out has the default below, and
`--set key=value` on the command line overrules both, for instance `--set mine.pair.min_score=0.2`. Relative paths
are relative to the directory in which the command is given. All faults of a file are reported at once.

A stage's setting whose default is "as `net_input.…`", or "as `precision`" at the top of the file, takes that
setting's value unless its own section gives another: `--set net_input.short_side_px=640` holds for validation,
mining and evaluation.

**R** marks settings that change the result. They are part of the artifact's digest: with another value, another
artifact is made beside the first. The others say how the work is done (how many workers, on which device), and can
change from one call to the next.
"""


def document() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION, *_section("", Settings, is_list=False)]
    for setting in all_settings(Settings):
        for model in setting.sections:
            container = getattr(setting.field.annotation, "__origin__", None)
            names = ["NAME" if part == ANY_ITEM else part for part in setting.key]
            if container is dict:  # tables with names that the user gives
                names.append("NAME")
            parts += _section(".".join(names), model, is_list=container in {list, tuple})
    return "\n".join(parts)


def _section(name: str, model: type[BaseModel], *, is_list: bool) -> Iterator[str]:
    """Yield heading, description and table of one model; nothing for a model that only holds others."""
    heading = f"[[{name}]]" if is_list else f"[{name}]"
    yield f"## {f'`{heading}`' if name else 'At the top of the file'}\n"
    yield f"{(model.__doc__ or '').strip().replace('``', '`')}\n"
    schema = model.model_json_schema()
    plain = {setting.key[0] for setting in all_settings(model) if len(setting.key) == 1 and not setting.sections}
    if not plain:
        return
    yield "| setting | | default | values | what |"
    yield "|---|---|---|---|---|"
    for key, field in model.model_fields.items():
        if key in plain:
            values = schema["properties"][key]
            mark = "**R**" if changes_result(field) and changes_result(model) else ""
            default = _toml(values["default"]) if "default" in values else "(needed)"
            if "inherits" in values:
                default = f"as `{values['inherits']}`"
            what = (field.description or "").replace("|", "\\|").replace("*", "\\*").replace("\n", " ")
            yield f"| `{key}` | {mark} | {default} | {_values(values)} | {what} |"
    yield ""


def _values(schema: dict[str, Any]) -> str:
    """Return in words which values a JSON schema allows."""
    for kind in schema.get("anyOf", ()):  # of "integer | None"
        if kind.get("type") != "null":
            return _values(kind)
    if "enum" in schema:
        return ", ".join(_toml(value) for value in schema["enum"])
    if schema.get("type") == "array":
        items = schema.get("items", {})
        return f"list: {_values(items)}" if items else "list"
    kinds = {"integer": "integer", "number": "number", "boolean": "true, false", "object": "table", "string": "text"}
    if schema.get("format") == "path":
        return "path"
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    limits = [f"{sign} {schema[name]:g}" for name, sign in bounds.items() if name in schema]
    return ", ".join([kinds.get(schema.get("type", ""), "any"), *limits])


def _toml(value: object) -> str:
    """Write a value as in a settings file."""
    return f"`{json.dumps(value)}`"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page, or check it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is out of date")
    options = parser.parse_args(arguments)
    page = document()
    if not options.check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(page, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == page:
        return 0
    print(f"{TARGET}: is out of date; run 'make docs'", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
