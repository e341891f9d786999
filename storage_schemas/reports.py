"""Reports: the numbers of an evaluation, as a page and as JSON.

A unit is ``report.md`` and ``report.numbers.json``: equal inputs and settings give equal bytes. The page
``report.html`` (one file that needs no network) is made of them and lies beside them. Like a card it is no part of the
unit, as it says when and with which version and commit it was made.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage_schemas.artifact import Artifact
from storage_schemas.columns import OK
from storage_schemas.commit import write_file
from storage_schemas.digests import Json, readable_json
from storage_schemas.errors import SchemaError
from storage_schemas.manifest import Sidecar
from storage_schemas.status import PAGE_SUFFIX

KIND = "reports"
SCHEMA_VERSION = 1
UNIT = "report"


def write_report(artifact: Artifact, *, html: str, markdown: str, numbers: Mapping[str, Json]) -> Sidecar:
    """Write a report as the finished unit, and its page beside it.

    Raises:
        WriteError: If the operating system refuses.
    """
    with artifact.write_unit(UNIT) as writer:
        for suffix, data in (("md", markdown.encode()), ("numbers.json", readable_json(numbers))):
            writer.file(suffix).write(data)
        write_file(html_path(artifact), html.encode(), artifact.disk)  # before: a finished unit has its page
        return writer.commit(rows=1, counts={OK: 1})


def html_path(artifact: Artifact) -> Path:
    """Return the path of the page."""
    return artifact.directory / f"{UNIT}.{PAGE_SUFFIX}"


def take_back_without_page(artifact: Artifact) -> None:
    """Make a report whose page is gone one that is to be written again.

    Raises:
        HeldError: If another process writes to it.
    """
    sidecar = artifact.directory / f"{UNIT}.json"
    if sidecar.exists() and not html_path(artifact).exists():
        with artifact.writing():
            sidecar.unlink(missing_ok=True)


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
