"""Write docs/reference/commands.md, every command's help; ``--check`` only checks whether it is up to date."""

import argparse
import contextlib
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from flows.command import HEADINGS, main
from flows.help_text import description_of
from flows.subcommands import SUBCOMMANDS, Subcommand

TARGET = Path(__file__).parents[1] / "docs" / "reference" / "commands.md"

INTRODUCTION = """\
# Commands

Written by `make docs` from what `ovseg COMMAND --help` shows; edit the functions in `flows`, not this page.

Options of every command: `--log-level LEVEL` (debug, info, warning, error; the log goes to stderr), `--debug` (show the
traceback of an error). Exit codes: 0 done; 1 a run failed; 2 wrong arguments, settings or files; 130 interrupted by
Ctrl-C. What a command has finished is kept; the same command again does only the rest.
"""
_WIDE = "1000"  # columns, so that each option's text is one line
# Two spaces before an option; its text follows after two or more, or, after a long option, on the next line.
_OPTION = re.compile(r"^  (?P<option>\S.*?)(?: {2,}(?P<text>\S.*?))? *$")


def document() -> str:
    """Return the whole page."""
    parts = [INTRODUCTION]
    for group in dict.fromkeys([*HEADINGS, *(subcommand.group for subcommand in SUBCOMMANDS)]):
        heading = HEADINGS.get(group, group)
        parts.append(f"## {heading[0].upper()}{heading[1:]}\n")
        for subcommand in SUBCOMMANDS:
            if subcommand.group == group:
                parts += _section(subcommand)
    return "\n".join(parts)


def _section(subcommand: Subcommand) -> Iterator[str]:
    """Yield a command's heading, description, table of options, and examples."""
    yield f"### ovseg {subcommand.name}\n"
    for paragraph in description_of(subcommand.function):
        yield f"{textwrap.fill(_markdown(paragraph), 120, break_on_hyphens=False)}\n"
    options = list(options_of(subcommand.name))
    if options:
        yield "| option | what |"
        yield "|---|---|"
        yield from (f"| `{_cell(option)}` | {_markdown(_cell(text))} |" for option, text in options)
        yield ""
    yield "\n".join(["```sh", *subcommand.examples, "```\n"])


def options_of(name: str) -> Iterator[tuple[str, str]]:
    """Yield each option of a command and its text, as its help shows them, but ``--help`` itself."""
    shown = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS=_WIDE), contextlib.redirect_stdout(shown):
        main([name, "--help"])
    _, _, boxes = shown.getvalue().partition("\nusage: ")
    alone = ""
    for line in boxes.partition("\nexamples:\n")[0].splitlines():
        if alone:
            yield alone, line.strip()
            alone = ""
        elif (found := _OPTION.match(line)) and not found["option"].startswith("-h,"):
            if found["text"]:
                yield found["option"], found["text"]
            else:
                alone = found["option"]


def _cell(text: str) -> str:
    """Return a text that does not end its cell of a table."""
    return text.replace("|", "\\|")


def _markdown(text: str) -> str:
    """Return a text with commands, options, settings and paths as code."""
    text = re.sub(r"'(ovseg [^']+)'", r"`\1`", text)
    text = re.sub(r"(?<![\w`-])(--[a-z][a-z-]+)(?![^`]*`[^`]*$)", r"`\1`", text)
    return text.replace("<", "&lt;")


def run(arguments: list[str]) -> int:
    """Write the page, or check it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    text = document()
    if not parser.parse_args(arguments).check:
        TARGET.write_text(text, encoding="utf-8")
    elif TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET}: is out of date; run 'make docs'", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
