"""Data cards: reports on a finished artifact, in its directory ``card/``, with their ``README.md`` at its root.

There the Hub and ``datasets.load_dataset`` look for it, and people do.

A card is made from the artifact's rows and belongs to its manifest, of which it is no part: a better layout
tomorrow must not change the digest on which later stages depend, and readers of units need not know of it.
``card.json`` is written last; it states the manifest's digest and those of the other files.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from storage_schemas.artifact import Artifact
from storage_schemas.commit import make_directories, remove_temporaries, write_file
from storage_schemas.digests import SEAL, Json, sealed_json, sha256_of_file
from storage_schemas.manifest import Manifest
from storage_schemas.status import CARD_DIRECTORY, README_FILE

FACTS_FILE = "card.json"


def write_card(artifact: Artifact, *, maker: str, facts: Mapping[str, Json], files: Mapping[str, bytes]) -> None:
    """Write the card of a finished artifact.

    Args:
        maker: Name and version of what makes the card; another one makes it anew.
        files: The other files by name: texts and pictures.

    Raises:
        ArtifactError: If the artifact is not finished.
        HeldError: If another process writes to it.
        WriteError: If the operating system refuses.
    """
    directory = artifact.directory / CARD_DIRECTORY
    stated: dict[str, Json] = {
        "maker": maker,
        "manifest": artifact.manifest().digest(),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        "facts": facts,
    }
    with artifact.writing():
        make_directories(directory, artifact.disk)
        remove_temporaries(directory, artifact.disk)
        for name, data in files.items():
            write_file(_path(artifact, name), data, artifact.disk)
        if README_FILE in files:
            (directory / README_FILE).unlink(missing_ok=True)  # where cards of before had it
        write_file(directory / FACTS_FILE, sealed_json(stated), artifact.disk)


def card_faults(artifact: Artifact) -> tuple[str, ...]:
    """Return how the files of a card differ from what it states; empty if they don't, or there is no card."""
    directory = artifact.directory / CARD_DIRECTORY
    if not directory.exists():
        return ()
    try:
        data = (directory / FACTS_FILE).read_bytes()
        stated = json.loads(data)
        if sealed_json({key: value for key, value in stated.items() if key != SEAL}) != data:
            return (f"{CARD_DIRECTORY}/{FACTS_FILE} is damaged",)
        names = [name for name, sha256 in stated["files"].items() if sha256_of_file(_path(artifact, name)) != sha256]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return (f"{CARD_DIRECTORY} cannot be read: {error}",)
    return tuple(
        f"{_path(artifact, name).relative_to(artifact.directory)} is not what its card states" for name in names
    )


def has_current_card(artifact: Artifact, *, maker: str, manifest: Manifest | None = None) -> bool:
    """Return whether a finished artifact has a whole card of this maker.

    Args:
        maker: Name and version of what makes the card.
        manifest: Of the artifact, if it is known; by default its files are checked now.

    Raises:
        ArtifactError: If the artifact is not finished.
    """
    try:
        stated = json.loads((artifact.directory / CARD_DIRECTORY / FACTS_FILE).read_bytes())
        same = (stated["maker"], stated["manifest"]) == (maker, (manifest or artifact.manifest()).digest())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    return same and not card_faults(artifact)


def _path(artifact: Artifact, name: str) -> Path:
    """Return where a file of a card lies."""
    return artifact.directory / (name if name == README_FILE else f"{CARD_DIRECTORY}/{name}")


def card_facts(artifact: Artifact) -> Mapping[str, Json]:
    """Read the numbers of an artifact's card.

    Raises:
        OSError: If it has none.
    """
    stated = json.loads((artifact.directory / CARD_DIRECTORY / FACTS_FILE).read_bytes())
    facts: Mapping[str, Json] = stated["facts"]
    return facts
