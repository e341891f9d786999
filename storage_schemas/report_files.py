"""The reports among an artifact's files: pictures, Markdown, HTML."""

import re
from dataclasses import dataclass
from pathlib import Path

from storage_schemas.artifact import Artifact
from storage_schemas.errors import CorruptUnitError
from storage_schemas.status import CARD_DIRECTORY, PAGE_SUFFIX, README_FILE

PICTURES = ("png", "jpg", "svg")
TEXTS = ("md",)
PAGES = (PAGE_SUFFIX,)
_METADATA = re.compile(rb"\A---\n.*?^---\n\s*", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ReportFile:
    """One such file.

    Attributes:
        path: In the artifact's directory, or in its card's.
        suffix: One of ``PICTURES``, ``TEXTS`` or ``PAGES``.
    """

    path: Path
    suffix: str

    @property
    def title(self) -> str:
        """Its name in words."""
        return self.path.name.removesuffix(f".{self.suffix}").replace(".", " ").replace("_", " ").replace("-", " ")

    def read(self) -> bytes:
        """Read it; Markdown without the YAML between lines of dashes at its head, which is for programs.

        Raises:
            CorruptUnitError: If it is gone or cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except OSError as error:
            raise CorruptUnitError(f"{self.path}: cannot be read ({error}); run the stage again") from error
        return _METADATA.sub(b"", data) if self.suffix in TEXTS else data


def report_files(artifact: Artifact) -> list[ReportFile]:
    """List them: of complete units in order of units and names, their pages, then of the card."""
    sidecars = [unit.sidecar for unit in artifact.status().units if unit.sidecar is not None]
    paths = [artifact.directory / record.name for sidecar in sidecars for record in sidecar.files]
    pages = [artifact.directory / f"{sidecar.unit}.{PAGE_SUFFIX}" for sidecar in sidecars]
    paths += [page for page in pages if page not in paths and page.exists()]
    paths += [*artifact.directory.glob(README_FILE), *sorted((artifact.directory / CARD_DIRECTORY).glob("*"))]
    suffixes = (*PICTURES, *TEXTS, *PAGES)
    return [ReportFile(path, suffix) for path in paths if (suffix := path.name.rpartition(".")[2]) in suffixes]
