"""Results of measurements over several seeds: kept line by line, averaged, and written into a page."""

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import filelock
from scipy import stats

from pipeline.drawn_world.small_proposal_net import WEIGHTS_FILE
from storage_schemas.digests import sha256_of_file


def read_results(out: Path) -> list[dict[str, Any]]:
    """Read what was measured before; a line that a kill cut short is left out."""
    return read_lines(out / "results.jsonl")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the results of a file; none if there is no file."""
    return [json.loads(line) for line in _whole_lines(path)]


def append_result(out: Path, line: dict[str, Any], *, alike: Sequence[str] = ()) -> None:
    """Add one line, in the place of one that a kill cut short.

    Args:
        out: Directory of the results.
        line: To be added.
        alike: Names of fields; older lines that agree with this one in all of them make way for it.
    """
    path = out / "results.jsonl"
    with filelock.FileLock(path.with_suffix(".lock")):  # several processes may measure, each seeds of its own
        kept = [
            old
            for old in _whole_lines(path)
            if not (alike and all(json.loads(old).get(name) == line[name] for name in alike))
        ]
        new = path.with_suffix(".new")
        new.write_text("".join([*kept, json.dumps(line) + "\n"]), encoding="utf-8")
        new.replace(path)  # so that a kill costs no line that was there


FIRST_NET = "2ccfca1544f9"
"""Beginning of the sha256 of the small proposal net that made results which do not say by which net they are."""


def earlier_net(results: Sequence[dict[str, Any]]) -> str:
    """Return a paragraph on results of a small proposal net that the project no longer ships; empty if there are none.

    Args:
        results: Lines; ``proposal_net`` is the beginning of the sha256 of their net.
    """
    shipped = sha256_of_file(WEIGHTS_FILE)
    nets = sorted({line.get("proposal_net", FIRST_NET) for line in results})
    earlier = ", ".join(f"`{net}`" for net in nets if not shipped.startswith(net))
    if not earlier:
        return ""
    return (
        f"**Measured with a small proposal net that the project no longer ships** (sha256 {earlier}...; the present "
        f"one is `{shipped[:12]}`), whose masks of unseen classes are worse, and with two epochs of FT, where the "
        "demo's settings now have four. Rows of this section compare with one another, not with those of other "
        "sections.\n"
    )


def seed_options(description: str | None, seeds: Sequence[int]) -> argparse.ArgumentParser:
    """Return a parser of what such a measurement takes: where, which seeds, how much of it, or the page to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=seeds)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the scenes, for a trial")
    parser.add_argument("--write", type=Path, help="write this page, measure nothing")
    return parser


def measure_missing(out: Path, wanted: Iterable[tuple[dict[str, Any], Callable[[], dict[str, Any]]]]) -> None:
    """Measure what no line is of, one after the other on one core, and append its lines.

    Args:
        out: Directory of the results.
        wanted: What its line must hold, seed and row among it, and what measures it.
    """
    import torch  # pages are written without

    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    results = read_results(out)
    for held, measure in wanted:
        if any(all(line.get(name) == value for name, value in held.items()) for line in results):
            continue
        started = time.monotonic()
        line = measure()
        append_result(out, line, alike=("seed", "row"))
        print(f"{json.dumps(line)}: {time.monotonic() - started:.0f} s", flush=True)


def _whole_lines(path: Path) -> list[str]:
    """Return the lines that end; none if there is no file."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return [line for line in lines if line.endswith("\n")]


def half_width(values: list[float]) -> float:
    """Return half the width of the 95 % interval of the mean of two or more seeds, by Student's t."""
    return float(stats.t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def with_interval(values: list[float], *, sign: str = "") -> str:
    """Write mean and half width of the 95 % interval by Student's t over the seeds; ``sign`` is "+" for differences."""
    if len(values) < 2:
        return f"{statistics.fmean(values):{sign}z.1f}" if values else "-"
    return f"{statistics.fmean(values):{sign}z.1f} ± {half_width(values):.1f}"


def write_into(page: Path, text: str, *, name: str = "table") -> None:
    """Replace what stands in a page between ``<!-- NAME -->`` and ``<!-- end of NAME -->``.

    Raises:
        ValueError: If the page has no such marks.
    """
    start, end = marks(name)
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{page}: has no marks '{start}' and '{end}'; add them where the text is to stand")
    page.write_text(f"{before}{start}{text}{end}{after}", encoding="utf-8")


def between_marks(page: Path, *, name: str = "table") -> str:
    """Return what stands between the marks."""
    start, end = marks(name)
    return page.read_text(encoding="utf-8").partition(start)[2].partition(end)[0]


def marks(name: str) -> tuple[str, str]:
    """Return the marks of a part of a page."""
    return f"<!-- {name} -->", f"<!-- end of {name} -->"
