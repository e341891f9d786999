"""How what is known of artifacts is shown: one table for status, dry run and pages, each with its columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from pipeline.states import NOT_BEGUN, UNFINISHED, ArtifactState, shown_bytes
from storage_schemas.status import UnitState
from storage_schemas.text_embeddings import KIND as TEXT_EMBEDDINGS

STATUS_COLUMNS = ("artifact", "state", *(state.value for state in UnitState))
DRY_RUN_COLUMNS = ("stage", "artifact", "to do", "done", "stale", "corrupt", "will write")
PAGE_COLUMNS = ("artifact", "state", "units", "done", "rows", "rows not ok", "reason")

_WORDS = frozenset({"stage", "artifact", "state", "reason"})


def _of_state(*states: UnitState) -> Callable[[ArtifactState], object]:
    """Return what counts units; '?' where they are estimated, '-' where none is known."""

    def count(state: ArtifactState) -> object:
        if not state.units:
            return "?" if state.is_estimate else "-"
        return sum(state.units[each] for each in states)

    return count


def _todo(state: ArtifactState) -> str:
    return "unknown" if state.todo is None else f"{'~' * state.is_estimate}{state.todo}"


def _new_bytes(state: ArtifactState) -> str:
    if state.todo == 0:
        return "-"
    return "unknown" if state.new_bytes is None else f"~{shown_bytes(state.new_bytes)}"


_CELLS: Mapping[str, Callable[[ArtifactState], object]] = {
    "stage": lambda state: state.stage,
    "artifact": lambda state: f"{state.artifact} ({state.dataset})" if state.dataset else state.artifact,
    "state": lambda state: state.state,
    "reason": lambda state: state.reason,
    **{state.value: _of_state(state) for state in UnitState},
    "units": lambda state: sum(state.units.values()) if state.units else "-",
    "rows": lambda state: state.rows,
    "rows not ok": lambda state: state.faulty_rows,
    "to do": _todo,
    "will write": _new_bytes,
}


def row(state: ArtifactState, columns: Sequence[str]) -> dict[str, object]:
    """Return the cells of one artifact by column."""
    return {column: _CELLS[column](state) for column in columns}


def as_text(states: Sequence[ArtifactState], columns: Sequence[str], *, details: bool = False) -> str:
    """Write a table for a terminal: words to the left, numbers to the right.

    Args:
        states: One row each.
        columns: Which, in order.
        details: Write below each row what is odd about the artifact.
    """
    cells = [tuple(columns), *(tuple(map(str, row(state, columns).values())) for state in states)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(columns))]
    lines = []
    for number, line in enumerate(cells):
        aligned = (
            cell.ljust(width) if column in _WORDS else cell.rjust(width)
            for column, cell, width in zip(columns, line, widths, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
        if details and number:
            lines.extend(f"    {detail}" for detail in _details(states[number - 1]))
    return "\n".join(lines) + "\n"


def _details(state: ArtifactState) -> Iterator[str]:
    """List what is odd about an artifact, and what has changed since another of its name."""
    if state.reason:
        yield state.reason
    if state.artifact.startswith(f"{TEXT_EMBEDDINGS}/") and state.state == UNFINISHED:
        yield "not needed by finished pairs; mining makes what it needs of it again"
    if state.state != NOT_BEGUN:
        yield from (f"{odd.label}: {odd.state}, {odd.reason}" for odd in state.odd_units)
    yield from state.document_faults
    yield from (f"{name}: foreign file, nobody reads it" for name in state.foreign_files)
    for directory, fields in state.changes.items():
        yield f"differs from {directory} in"
        yield from (f"    {change}" for change in fields)
