"""What ``ovseg run --dry-run`` prints: units and disk per artifact, and what is missing."""

from collections.abc import Iterator

from pipeline.outlook.outlook import ArtifactOutlook, Outlook
from pipeline.outlook.sizes import shown_bytes

_COLUMNS = ("stage", "artifact", "to do", "done", "stale", "will write")


def as_text(found: Outlook) -> str:
    """Write an outlook as a table with the disk and the findings below; '~' marks estimates."""
    rows = [_COLUMNS, *(_row(artifact) for artifact in found.artifacts)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    lines = [_aligned(row, widths) for row in rows]
    lines += ["", *_disk(found), "", *_findings(found)]
    return "\n".join(lines) + "\n"


def _row(artifact: ArtifactOutlook) -> tuple[str, ...]:
    """Return an artifact's row of the table."""
    todo = "unknown" if artifact.todo is None else f"{'~' * artifact.is_estimate}{artifact.todo}"
    size = "unknown" if artifact.new_bytes is None else f"~{shown_bytes(artifact.new_bytes)}"
    size = "-" if artifact.todo == 0 else size
    done = "?" if artifact.is_estimate else str(artifact.done)
    stale = "?" if artifact.is_estimate else str(artifact.spoilt)
    return artifact.stage, artifact.label, todo, done, stale, size


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    """Write a row with words to the left and numbers to the right."""
    words = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    numbers = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(words + numbers).rstrip()


def _disk(found: Outlook) -> Iterator[str]:
    """Tell what will be written, beside what is free."""
    yield f"disk: ~{shown_bytes(found.new_bytes)} to write, {shown_bytes(found.free_bytes)} free in {found.disk}"
    if found.unknown_sizes:
        yield f"      not counted, as their pictures cannot be: {', '.join(found.unknown_sizes)}"
    reasons = dict.fromkeys(artifact.reason for artifact in found.artifacts if artifact.reason)
    if reasons:
        yield "'~' and '?' stand where an input is not made yet, so that units can only be estimated:"
        yield from (f"  {reason}" for reason in reasons)


def _findings(found: Outlook) -> Iterator[str]:
    """List what is missing, then what the run will help itself to."""
    missing = [finding for finding in found.findings if finding.is_missing]
    notes = [finding for finding in found.findings if not finding.is_missing]
    if missing:
        yield f"missing ({len(missing)}):"
        yield from (f"  {finding.where}: {finding.text}" for finding in missing)
    if notes:
        yield "to know:"
        yield from (f"  {finding.where}: {finding.text}" for finding in notes)
    yield "all is there" if not missing else "the run would stop for want of these; nothing was done"
