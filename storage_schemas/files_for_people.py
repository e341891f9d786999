"""The files of an artifact that are made to be looked at: pictures, Markdown, HTML."""

from dataclasses import dataclass
from pathlib import Path

from storage_schemas.artifact import Artifact
from storage_schemas.errors import CorruptUnitError

PICTURES = ("png", "jpg", "svg")
TEXTS = ("md",)
PAGES = ("html",)


@dataclass(frozen=True, slots=True)
class FileForPeople:
    """One such file.

    Attributes:
        path: Where it lies.
        suffix: What it is: one of ``PICTURES``, ``TEXTS`` or ``PAGES``.
    """

    path: Path
    suffix: str

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.path.name.removesuffix(f".{self.suffix}").replace(".", " ").replace("_", " ").replace("-", " ")

    def read(self) -> bytes:
        """Read it.

        Raises:
            CorruptUnitError: If it is gone or cannot be read.
        """
        try:
            return self.path.read_bytes()
        except OSError as error:
            message = f"{self.path}: cannot be read ({error}); run the stage again"
            raise CorruptUnitError(message) from error


def files_for_people(artifact: Artifact) -> list[FileForPeople]:
    """List the files of an artifact's finished units that are made to be looked at, in order of units and names."""
    sidecars = [unit.sidecar for unit in artifact.status().units if unit.sidecar is not None]
    names = [record.name for sidecar in sidecars for record in sidecar.files]
    suffixes = (*PICTURES, *TEXTS, *PAGES)
    return [
        FileForPeople(artifact.directory / name, suffix)
        for name in names
        if (suffix := name.rpartition(".")[2]) in suffixes
    ]
