"""When, with which version and from which commit a page was made.

For pages and cards only: no artifact's bytes may depend on any of it.
"""

import importlib.metadata
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

_PACKAGE = "ovseg-pipeline"
_GIT_LIMIT_S = 5


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a page says of its making.

    Attributes:
        made_at: Date and time, UTC.
        version: Of this package.
        commit: Of its code, ``-dirty`` behind it where tracked files were changed; empty if it is not known.
        typed: The command line; empty where it was not ``ovseg``.
    """

    made_at: str
    version: str
    commit: str
    typed: str


def provenance() -> Provenance:
    """Return when this is, and what code runs.

    ``SOURCE_DATE_EPOCH`` [s since 1970], if it is set, takes the place of the clock, as in reproducible builds.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    now = datetime.fromtimestamp(int(given), UTC) if given.isdecimal() else datetime.now(UTC)
    try:
        version = importlib.metadata.version(_PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        version = "of a source tree that is not installed"
    program = Path(sys.argv[0]).name
    typed = shlex.join([program, *sys.argv[1:]]) if program == "ovseg" else ""
    return Provenance(f"{now:%Y-%m-%d %H:%M} UTC", version, code_commit(Path(__file__).parents[1]), typed)


@cache
def code_commit(root: Path) -> str:
    """Return the commit that code was installed or checked out from; empty if neither says.

    Args:
        root: Folder that holds the package ``pipeline``.
    """
    try:
        found = importlib.metadata.distribution(_PACKAGE).read_text("direct_url.json")
        from_url: str = json.loads(found or "{}").get("vcs_info", {}).get("commit_id", "")
    except (importlib.metadata.PackageNotFoundError, ValueError, AttributeError):
        from_url = ""
    # A checkout of something else around an installation, such as the user's own project, says nothing of this code.
    if from_url or not (root / ".git").exists():
        return from_url
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        described = subprocess.run(  # noqa: S603 - our own words alone
            command, capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or a checkout of another user
        return ""
    return described.stdout.strip()
