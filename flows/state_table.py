"""Tables of artifacts and their states, for ``ovseg status``, the dry run and Prefect's pages."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipeline.states import NOT_BEGUN, UNFINISHED, ArtifactState, shown_bytes
from pipeline.text_tables import text_table
from storage_schemas.status import UnitState
from storage_schemas.text_embeddings import KIND as TEXT_EMBEDDINGS

if TYPE_CHECKING:
    from pipeline.dry_run.crop_cost import CropCost, PassCost
    from pipeline.dry_run.dry_run import DryRun  # imports torch, which 'ovseg status' must not wait for

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
    "to do": lambda state: "unknown" if state.todo is None else f"{'~' * state.is_estimate}{state.todo}",
    "will write": _new_bytes,
}


def row(state: ArtifactState, columns: Sequence[str]) -> dict[str, object]:
    """Return the cells of one artifact by column."""
    return {column: _CELLS[column](state) for column in columns}


def as_text(states: Sequence[ArtifactState], columns: Sequence[str], *, details: bool = False) -> str:
    """Write a table for a terminal, see `text_table`.

    Args:
        states: One row each.
        columns: Which, in order.
        details: Write below each row what is odd about the artifact.
    """
    cells = (tuple(map(str, row(state, columns).values())) for state in states)
    heading, *rows = text_table(columns, cells, words=_WORDS).splitlines()
    lines = [heading]
    for state, line in zip(states, rows, strict=True):
        lines += [line, *(f"    {detail}" for detail in (_details(state) if details else ()))]
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


def dry_run_text(found: "DryRun") -> str:
    """Write a dry run as a table with the disk and the findings below; '~' marks estimates."""
    lines = [as_text(found.states, DRY_RUN_COLUMNS)]
    lines.append(
        f"disk: ~{shown_bytes(found.new_bytes)} to write, {shown_bytes(found.free_bytes)} free in {found.disk}"
    )
    if found.unknown_sizes:
        lines.append(f"      not counted, as their pictures cannot be: {', '.join(found.unknown_sizes)}")
    if (crop := found.crop) is not None:
        patches = f"in {crop.patches} x {crop.patches} patches" if crop.patches else "without patch tokens"
        lines.append(
            f"clip: {found.architecture}, an image tower of {crop.parameters / 1e6:.1f} M parameters; a crop of "
            f"{crop.side_px} px {patches} takes {_cost(crop)} on {found.device}"
        )
        lines += [
            f"      one pass of a picture of {each.side_px} px with {each.masks} masks takes {_cost(each)}, "
            f"{each.masks * crop.operations / each.operations:.3g} times less work than a crop of each"
            for each in found.passes
        ]
    if reasons := dict.fromkeys(state.reason for state in found.states if state.reason):
        lines.append("'~' and '?' mark what can only be estimated, as an input is not made yet:")
        lines += [f"  {reason}" for reason in reasons]
    lines.append("")
    missing = [f"  {finding.where}: {finding.text}" for finding in found.findings if finding.is_missing]
    notes = [f"  {finding.where}: {finding.text}" for finding in found.findings if not finding.is_missing]
    if missing:
        lines += [f"missing ({len(missing)}):", *missing]
    if notes:
        lines += ["to know:", *notes]
    lines.append("the run would stop for lack of these; nothing was done" if missing else "all is there")
    return "\n".join(lines) + "\n"


def _cost(of: "CropCost | PassCost") -> str:
    """Return operations, memory and time in words."""
    duration = f"{of.seconds:.3g} s" if of.seconds >= 1 else f"{1000 * of.seconds:.3g} ms"
    return f"{of.operations / 1e9:.3g} GFLOP, ~{shown_bytes(of.bytes)} and ~{duration}"
