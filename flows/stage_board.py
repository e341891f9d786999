"""What the Prefect UI shows of a stage beside its runs: progress with rate, a table of counts, pictures, links.

All of it is a Prefect artifact of the stage's flow run. Pictures travel inside the Markdown, so that they show without
any network. The pages are a courtesy: without a server the work goes on.
"""

import base64
import logging
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import quote
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL

from flows.local_server import FILES
from flows.prefect_server import answers, shows_files_of
from flows.state_table import PAGE_COLUMNS, row
from pipeline.graph import Graph, Node, summary
from pipeline.interrupts import held_back
from pipeline.stage_names import StageName
from pipeline.states import state_of_node
from storage_schemas.artifact import Artifact
from storage_schemas.report_files import PAGES, PICTURES, ReportFile, report_files

logger = logging.getLogger(__name__)

Shown = TypeVar("Shown")
_SECONDS_BETWEEN_UPDATES = 5.0
_MAX_PICTURE_BYTES = 3_000_000
_MEDIA_TYPES = {"png": "image/png", "jpg": "image/jpeg", "svg": "image/svg+xml"}


class Pages:
    """Takes what is to be shown, as long as the server does.

    Prefect's client tries for seconds to reach a server that has gone away; so once it did not take something, nothing
    more is sent until it is seen to answer.
    """

    def __init__(self) -> None:
        self._missed = False

    def show(self, send: Callable[[], Shown]) -> Shown | None:
        """Send something to the server; returns what that returned, or None if the server doesn't take it."""
        with held_back():
            if self._missed and not answers(PREFECT_API_URL.value() or ""):
                return None
            try:
                shown = send()
            except (httpx.HTTPError, PrefectException) as error:
                logger.warning("the Prefect server did not take what is to be shown (%s); the work goes on", error)
                self._missed = True
                return None
            self._missed = False
            return shown


@dataclass(slots=True)
class _Bar:
    """The progress of one artifact.

    Attributes:
        shown: The Prefect artifact; None where it could not be made.
        total: Units of the artifact.
        todo: Units to do in this run.
        ended: Units of these that ended, well or not.
        begun_s: When the first began, on the monotonic clock [s].
        updated_s: When it was last shown [s].
    """

    shown: UUID | None
    total: int
    todo: int
    ended: int = 0
    begun_s: float = 0.0
    updated_s: float = 0.0
    failed: int = 0

    @property
    def percent(self) -> float:
        """Units that are done or failed, out of all."""
        return 100.0 * (self.total - self.todo + self.ended) / max(1, self.total)

    def text(self, label: str) -> str:
        """Return progress, rate and time left in words."""
        seconds = time.monotonic() - self.begun_s
        skipped = self.total - self.todo
        text = f"{label}: {self.ended} of {self.todo} units, {skipped} were complete before"
        if not self.ended:
            return text
        left_s = seconds / self.ended * (self.todo - self.ended)
        return f"{text}; {60 * self.ended / max(seconds, 1e-9):.1f} units a minute, {left_s:.0f} s left"


class StageBoard:
    """Shows one run of a stage.

    Args:
        stage: Whose artifacts are made.
        variant: Of the run, such as ``"FT"``; keys carry it, so that variants don't overwrite each other's pages.
    """

    def __init__(self, graph: Graph, stage: StageName, variant: str = "") -> None:
        self._nodes = graph.of_stage(stage)
        self._stage = stage
        self._variant = variant
        self._bars: dict[Path, _Bar] = {}
        self._pages = Pages()

    def begun(self, artifact: Artifact, *, todo: int) -> None:
        """Show that the units of an artifact are begun."""
        now = time.monotonic()
        bar = _Bar(shown=None, total=len(artifact.description.units), todo=todo, begun_s=now, updated_s=now)
        label = _label(artifact)
        key, text = _key(self._variant, label, "progress"), bar.text(self._titled(label))
        shown = self._pages.show(lambda: create_progress_artifact(bar.percent, key=key, description=text))
        bar.shown = cast("UUID | None", shown)  # where no event loop runs it is no coroutine
        self._bars[artifact.directory.absolute()] = bar

    def ended(self, artifact: Artifact, *, failed: bool) -> None:
        """Show that a unit ended; the page is updated every few seconds, and with the last one."""
        bar, now = self._bars[artifact.directory.absolute()], time.monotonic()
        bar.ended += 1
        bar.failed += failed
        shown, text = bar.shown, bar.text(self._titled(_label(artifact)))
        if shown is not None and (bar.ended == bar.todo or now - bar.updated_s > _SECONDS_BETWEEN_UPDATES):
            self._pages.show(lambda: update_progress_artifact(shown, progress=bar.percent, description=text))
            bar.updated_s = time.monotonic()  # a busy server takes a second for it

    def close(self) -> None:
        """Show what the stage has done: the table of counts, and the pictures and texts of its finished artifacts."""
        rows = []
        for node in self._nodes:
            state = state_of_node(node)
            bar = None if state.reason else self._bars.get(node.artifact.directory.absolute())
            cells = row(state, PAGE_COLUMNS)
            if bar is not None:  # units of this run, too
                skipped, failed, done = bar.total - bar.todo, bar.failed, state.units["done"]
                todo = bar.total - done - failed
                cells |= {"skipped": skipped, "made": done - skipped, "failed": failed, "to do": todo}
            rows.append(cells)
        key, description = _key(self._variant, self._stage, "units"), self._titled(self._stage)
        description = f"{description}: {summary(self._nodes)}"
        self._pages.show(lambda: create_table_artifact(rows, key=key, description=description))
        is_shown = shows_files_of(PREFECT_API_URL.value() or "", self._nodes[0].runs) if self._nodes else False
        for node in self._nodes:
            if not node.is_complete():
                continue
            label = _label(node.artifact)
            for file in report_files(node.artifact):
                if file.suffix not in PAGES:
                    self._write(_markdown(file), label, file.title)
            self._write(_links(node, is_shown=is_shown), label, "links")

    def _write(self, markdown: str, label: str, title: str) -> None:
        """Show a text, with the pictures in it."""
        key, description = _key(self._variant, label, title), f"{self._titled(label)}: {title}"
        self._pages.show(lambda: create_markdown_artifact(markdown, key=key, description=description))

    def _titled(self, label: str) -> str:
        return f"{label} ({self._variant})" if self._variant else label


def show_run(nodes: Sequence[Node], name: str, variant: str = "") -> None:
    """Show how far the artifacts of a run have come, as one table, and where their reports are, as one list."""
    pages = Pages()
    rows = [row(state_of_node(node), ("stage", *PAGE_COLUMNS)) for node in nodes]
    title = f"{name} ({variant})" if variant else name
    table = _key("run", variant), f"{title}: all artifacts"
    pages.show(lambda: create_table_artifact(rows, key=table[0], description=table[1]))
    complete = [node for node in reversed(nodes) if node.is_complete()]  # scores and their reports first
    if not complete:
        return
    is_shown = shows_files_of(PREFECT_API_URL.value() or "", complete[0].runs)
    texts = [f"### {_label(node.artifact)}\n\n{_links(node, is_shown=is_shown)}" for node in complete]
    reports = _key("run", variant, "reports"), f"{title}: reports of all artifacts"
    pages.show(lambda: create_markdown_artifact("\n\n".join(texts), key=reports[0], description=reports[1]))


def _links(node: Node, *, is_shown: bool) -> str:
    """List an artifact's reports and its folder in Markdown: links that can be followed, or their paths.

    Args:
        is_shown: Whether the server shows the files of the runs directory. Links to ``file://`` would do nothing.
    """
    entries = [(file.title, file.path.absolute(), "") for file in report_files(node.artifact)]
    lines = []
    for title, path, end in [*entries, ("folder", node.artifact.directory.absolute(), "/")]:
        inside = quote(path.relative_to(node.runs.absolute()).as_posix()) + end
        lines.append(f"* {title}: [{path.name}]({FILES}{inside})" if is_shown else f"* {title}: `{path}`")
    return "\n".join(lines)


def _markdown(file: ReportFile) -> str:
    """Write a picture or a text as Markdown that needs no other file."""
    content = file.read()
    if file.suffix not in PICTURES:
        return content.decode("utf-8", errors="replace")
    if len(content) > _MAX_PICTURE_BYTES:
        size, limit = len(content) / 1e6, _MAX_PICTURE_BYTES / 1e6
        return f"{file.title}: {size:.1f} MB, more than the {limit:.0f} MB that are shown here; open the file itself"
    return f"![{file.title}](data:{_MEDIA_TYPES[file.suffix]};base64,{base64.b64encode(content).decode()})"


def _label(artifact: Artifact) -> str:
    return f"{artifact.identity.kind} {artifact.identity.name}"


def _key(*words: str) -> str:
    """Make the key of a Prefect artifact: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
