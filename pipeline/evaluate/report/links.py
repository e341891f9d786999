"""Links of a report to what its models were made of: relative, so that they hold when the runs directory is moved."""

import os
from dataclasses import dataclass
from pathlib import Path

from pipeline.graph import Node
from storage_schemas.report_files import report_files

_TITLES = {
    "pairs": "Card of the pairs",
    "adapted_clip": "Adapted CLIP: card and training curves",
    "proposal_net": "Proposal net: training curves and proposals",
    "scenes": "Data set as prepared",
}


@dataclass(frozen=True, slots=True)
class Link:
    """A file beside the report.

    Attributes:
        group: What it is about.
        text: What is written.
        href: Path from the report's folder, with ``/``; of a file that was there when the page was made.
    """

    group: str
    text: str
    href: str


def links_of(node: Node) -> list[Link]:
    """Return links to cards and training curves of what a report's scores were made of, each once.

    Artifacts outside the runs directory are left out: a relative path to them would break when the folder is moved.
    """
    found: dict[str, Link] = {}
    here, runs = node.artifact.directory.absolute(), node.runs.absolute()
    for source in node.upstream():
        if source.step.kind not in _TITLES or not source.is_complete():
            continue
        directory = source.artifact.directory.absolute()
        if not directory.is_relative_to(runs):
            continue
        for file in report_files(source.artifact):
            href = Path(os.path.relpath(file.path.absolute(), here)).as_posix()
            group = f"{_TITLES[source.step.kind]} ({source.artifact.identity.name})"
            found[href] = Link(group, file.path.name, href)
    return list(found.values())
