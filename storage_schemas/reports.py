"""Reports: the numbers of an evaluation, as a page and as JSON.

A unit is ``report.html`` (one file that needs no network), and ``report.md`` and ``report.numbers.json`` (its numbers).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.digests import Json, readable_json
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar

KIND = "reports"
SCHEMA_VERSION = 1
UNIT = "report"


def write_report(artifact: Artifact, *, html: str, markdown: str, numbers: Mapping[str, Json]) -> Sidecar:
    """Write a report as the finished unit.

    Raises:
        WriteError: If the operating system refuses.
    """
    with artifact.write_unit(UNIT) as writer:
        for suffix, data in (
            ("html", html.encode()),
            ("md", markdown.encode()),
            ("numbers.json", readable_json(numbers)),
        ):
            writer.file(suffix).write(data)
        return writer.commit(rows=1, counts={OK: 1})


def html_path(artifact: Artifact) -> Path:
    """Return the path of the page."""
    return artifact.directory / f"{UNIT}.html"


def read_numbers(artifact: Artifact) -> dict[str, Any]:
    """Read the numbers.

    Raises:
        SchemaError: If the file is absent or no JSON object.
    """
    path = artifact.directory / f"{UNIT}.numbers.json"
    try:
        numbers = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise SchemaError(f"{path}: cannot be read ({error}); run 'ovseg evaluate' again") from error
    if not isinstance(numbers, dict):
        raise SchemaError(
            f"{path}: holds a {type(numbers).__name__}, a JSON object is expected; run 'ovseg evaluate' again"
        )
    return numbers
