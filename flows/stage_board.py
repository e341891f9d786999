"""What the Prefect UI shows of a stage beside its runs: progress with rate, a table of counts, pictures, links.

All of it is a Prefect artifact of the stage's flow run. Pictures travel inside the Markdown, so that they show without
any network.
"""

import base64
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.pages import Pages
from pipeline.exhibits import Exhibit, Page, Picture, UnitCounts, exhibits_of, state_table
from pipeline.settings import Settings
from pipeline.stages import Stage
from storage_schemas.artifact import Artifact

_SECONDS_BETWEEN_UPDATES = 2.0
_MAX_PICTURE_BYTES = 3_000_000


@dataclass(slots=True)
class _Bar:
    """The progress of one artifact.

    Attributes:
        shown: The Prefect artifact; None where it could not be made.
        total: Units of the artifact.
        todo: Units to do in this run.
        ended: Units of these that ended, well or not.
        begun_s: When the first began, on the monotonic clock [s].
        updated_s: When the UI was last told [s].
    """

    shown: UUID | None
    total: int
    todo: int
    ended: int = 0
    begun_s: float = 0.0
    updated_s: float = 0.0

    @property
    def percent(self) -> float:
        """Units that are done or failed, out of all."""
        return 100.0 * (self.total - self.todo + self.ended) / max(1, self.total)

    def told(self, label: str) -> str:
        """Say how far it is, how fast it goes and how long it will take."""
        seconds = time.monotonic() - self.begun_s
        skipped = self.total - self.todo
        text = f"{label}: {self.ended} of {self.todo} units, {skipped} were done before"
        if not self.ended:
            return text
        left_s = seconds / self.ended * (self.todo - self.ended)
        return f"{text}; {60 * self.ended / max(seconds, 1e-9):.1f} units a minute, {left_s:.0f} s left"


class StageBoard:
    """Shows one run of a stage."""

    def __init__(self, stage: Stage, settings: Settings) -> None:
        self._stage = stage
        self._settings = settings
        self._counts = UnitCounts()
        self._counts.look_before(stage.artifacts(settings))
        self._bars: dict[str, _Bar] = {}
        self._pages = Pages()

    def begun(self, artifact: Artifact, *, todo: int) -> None:
        """Show that the units of an artifact are begun."""
        total = len(artifact.description.units)
        self._counts.done_before[artifact.directory.absolute()] = total - todo
        bar = _Bar(shown=None, total=total, todo=todo, begun_s=time.monotonic())
        label = _label(artifact)
        shown = self._pages.show(
            lambda: create_progress_artifact(bar.percent, key=_key(label, "progress"), description=bar.told(label))
        )
        bar.shown = cast("UUID | None", shown)  # where no event loop runs it is no coroutine
        self._bars[label] = bar

    def ended(self, artifact: Artifact, *, failed: bool) -> None:
        """Show that a unit ended; the UI is told every few seconds, and of the last one."""
        if failed:
            place = artifact.directory.absolute()
            self._counts.failed[place] = self._counts.failed.get(place, 0) + 1
        label = _label(artifact)
        bar, now = self._bars[label], time.monotonic()
        bar.ended += 1
        shown = bar.shown
        if shown is not None and (bar.ended == bar.todo or now - bar.updated_s > _SECONDS_BETWEEN_UPDATES):
            bar.updated_s = now
            self._pages.show(lambda: update_progress_artifact(shown, progress=bar.percent, description=bar.told(label)))

    def close(self) -> None:
        """Show what the stage has done: the table of counts, and what its finished artifacts have to show."""
        planned = self._stage.artifacts(self._settings)
        table, title = self._counts.table(planned), f"{self._stage.name}: {self._stage.dataflow}"
        self._pages.show(lambda: create_table_artifact(table, key=_key(self._stage.name, "units"), description=title))
        finished = [plan.artifact for plan in planned if plan.artifact is not None]
        for artifact in finished:
            if artifact.status().finished:
                self._show(artifact)

    def _show(self, artifact: Artifact) -> None:
        """Show the pictures and texts of an artifact, and where it lies."""
        label = _label(artifact)
        pages = []
        for exhibit in exhibits_of(artifact):
            if isinstance(exhibit, Page):
                pages.append(exhibit)
                continue
            self._write(_markdown(exhibit), key=_key(label, exhibit.title), description=f"{label}: {exhibit.title}")
        folder = artifact.directory.absolute()
        lines = [f"* {page.title}: [{page.path}]({page.path.as_uri()})" for page in pages]
        text = "\n".join([*lines, f"* folder: [{folder}]({folder.as_uri()})"])
        hint = "Browsers open links to files only from a new tab: copy the address."
        self._write(f"{text}\n\n{hint}\n", key=_key(label, "links"), description=f"{label}: where it lies")

    def _write(self, markdown: str, *, key: str, description: str) -> None:
        """Show a text, with the pictures in it."""
        self._pages.show(lambda: create_markdown_artifact(markdown, key=key, description=description))


def show_run(stages: Iterable[Stage], settings: Settings) -> None:
    """Show how far the stages of a run have come, as one table."""
    rows = [row for stage in stages for row in state_table(stage.artifacts(settings))]
    description = f"{settings.name}: all artifacts"
    Pages().show(lambda: create_table_artifact(rows, key="run", description=description))


def _markdown(exhibit: Exhibit) -> str:
    """Write a picture or a text as Markdown that needs no other file."""
    if not isinstance(exhibit, Picture):
        return exhibit.markdown if not isinstance(exhibit, Page) else ""
    if len(exhibit.content) > _MAX_PICTURE_BYTES:
        size, limit = len(exhibit.content) / 1e6, _MAX_PICTURE_BYTES / 1e6
        return f"{exhibit.title}: {size:.1f} MB, more than the {limit:.0f} MB that are shown here; open the file itself"
    encoded = base64.b64encode(exhibit.content).decode()
    return f"![{exhibit.title}](data:{exhibit.media_type};base64,{encoded})"


def _label(artifact: Artifact) -> str:
    return f"{artifact.identity.kind} {artifact.identity.name}"


def _key(*words: str) -> str:
    """Make the key of a Prefect artifact: lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-")
