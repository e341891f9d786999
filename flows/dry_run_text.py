"""What ``ovseg run --dry-run`` prints: units and disk per artifact, and what is missing."""

from collections.abc import Iterator

from flows.state_table import DRY_RUN_COLUMNS, as_text
from pipeline.dry_run.dry_run import DryRun
from pipeline.states import shown_bytes


def dry_run_text(found: DryRun) -> str:
    """Write a dry run as a table with the disk and the findings below; '~' marks estimates."""
    lines = [as_text(found.states, DRY_RUN_COLUMNS), *_disk(found), "", *_findings(found)]
    return "\n".join(lines) + "\n"


def _disk(found: DryRun) -> Iterator[str]:
    """Say what will be written, beside what is free."""
    yield f"disk: ~{shown_bytes(found.new_bytes)} to write, {shown_bytes(found.free_bytes)} free in {found.disk}"
    if found.unknown_sizes:
        yield f"      not counted, as their pictures cannot be: {', '.join(found.unknown_sizes)}"
    reasons = dict.fromkeys(state.reason for state in found.states if state.reason)
    if reasons:
        yield "'~' and '?' mark what can only be estimated, as an input is not made yet:"
        yield from (f"  {reason}" for reason in reasons)


def _findings(found: DryRun) -> Iterator[str]:
    """List what is missing, then what the run will help itself to."""
    missing = [finding for finding in found.findings if finding.is_missing]
    notes = [finding for finding in found.findings if not finding.is_missing]
    if missing:
        yield f"missing ({len(missing)}):"
        yield from (f"  {finding.where}: {finding.text}" for finding in missing)
    if notes:
        yield "to know:"
        yield from (f"  {finding.where}: {finding.text}" for finding in notes)
    yield "all is there" if not missing else "the run would stop for lack of these; nothing was done"
