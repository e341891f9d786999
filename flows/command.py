"""The ``ovseg`` command: finds the subcommand, sets up logging, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 a run failed; 2 wrong arguments, settings or files; 130 interrupted by Ctrl-C.
"""

import contextlib
import difflib
import functools
import importlib.metadata
import itertools
import os
import shutil
import sys
import textwrap
import traceback
from collections.abc import Sequence
from typing import Any, TextIO, cast

from flows.extras import missing_extra
from flows.help_text import description_of, with_readable_options
from flows.logging_setup import LEVELS, VisibleStream, configure_logging
from flows.subcommands import SUBCOMMANDS, Subcommand
from pipeline.visible_text import visible

FAILED, WRONG_INPUT, INTERRUPTED, BROKEN_PIPE = 1, 2, 130, 141

_INTRODUCTION = """\
usage: ovseg COMMAND [OPTIONS]
       ovseg COMMAND --help

Open-vocabulary segmentation with mask-adapted CLIP: name what you want to find in a photograph, in your own words.
What a command has finished is kept; the same command again does only the rest.
"""
HEADINGS = {  # of the groups of subcommands, in this order; a group that is not here has its own name
    "run": "whole runs",
    "stages": "one stage at a time, in their order",
    "segment": "segment pictures",
    "results": "look at results",
    "pairs": "mined pairs",
    "masks": "masks of others",
}
_FIRST_STEPS = (
    "ovseg demo",
    "ovseg bundle --out models/demo",
    "ovseg segment photo.png --classes sky house tree --model models/demo --out out",
    "ovseg app --model models/demo",
)
_GENERAL_OPTIONS = """\
options of every command:
  -h, --help           what the command does, its options, examples
  --log-level LEVEL    debug, info (default), warning or error; the log goes to stderr
  --debug              show the traceback of an error
  --version            show the version and leave
"""


class _UsageError(Exception):
    """The command line itself is wrong."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: What follows ``ovseg``; by default what the process was started with.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in itertools.takewhile(lambda argument: argument != "--", given)
    try:
        code = _run(given)
        sys.stdout.flush()
    except SystemExit as leaving:  # tyro has printed what is wrong, or its help
        return leaving.code if isinstance(leaving.code, int) else WRONG_INPUT
    except KeyboardInterrupt as interrupt:
        if getattr(interrupt, "__notes__", None) and not debug:  # a stage has logged what is saved
            return INTERRUPTED
        return _reported("interrupted", INTERRUPTED, debug=debug)
    except BrokenPipeError:  # the reader of our output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except Exception as error:
        return _reported(*_message_and_code(error), debug=debug)
    return code


def overview() -> str:
    """Return what ``ovseg --help`` prints: every subcommand under its heading, general options, examples."""
    width = max(len(subcommand.name) for subcommand in SUBCOMMANDS) + 4
    lines = [_INTRODUCTION]
    for group in dict.fromkeys([*HEADINGS, *(subcommand.group for subcommand in SUBCOMMANDS)]):
        lines.append(f"{HEADINGS.get(group, group)}:")
        for subcommand in SUBCOMMANDS:
            if subcommand.group == group:
                lines.extend(
                    textwrap.wrap(
                        f"  {subcommand.name:<{width}}{subcommand.summary}", 110, subsequent_indent=" " * (width + 2)
                    )
                )
        lines.append("")
    lines.append(_GENERAL_OPTIONS)
    lines.append("first steps ('ovseg COMMAND --help' has examples of each command):")
    lines.extend(f"  {step}" for step in _FIRST_STEPS)
    return "\n".join(lines) + "\n"


def _run(given: list[str]) -> int:
    """Do what the command line asks for, and return the exit code."""
    if not given or given[0] in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
        return 0 if given else WRONG_INPUT
    # Options of every command are taken out wherever they are before a "--"; tyro reads the rest.
    log_level, rest = "info", list[str]()
    arguments = iter(given)
    for argument in arguments:
        if argument == "--":
            rest.extend([argument, *arguments])
        elif argument == "--log-level" or argument.startswith("--log-level="):
            log_level = argument.partition("=")[2] or next(arguments, "")
        elif argument != "--debug":
            rest.append(argument)
    if log_level not in LEVELS:
        raise _UsageError(f"--log-level: should be one of {', '.join(LEVELS)} (got {log_level!r})")
    if rest[:1] == ["--version"]:
        try:
            version = importlib.metadata.version("ovseg-pipeline")
        except importlib.metadata.PackageNotFoundError:
            version = "of a source tree that is not installed"
        sys.stdout.write(f"ovseg {version}\n")
        return 0
    if not rest:
        raise _UsageError("no command given; 'ovseg --help' lists them")
    configure_logging(log_level)
    by_name = {subcommand.name: subcommand for subcommand in SUBCOMMANDS}
    if " ".join(rest[:2]) in by_name:  # such as "pairs filter"
        rest[:2] = [" ".join(rest[:2])]
    if rest[0] not in by_name:
        seconds = [name.partition(" ")[2] for name in by_name if name.startswith(f"{rest[0]} ")]
        if seconds:
            raise _UsageError(f"{rest[0]}: should be followed by one of {', '.join(seconds)}; see 'ovseg --help'")
        close = difflib.get_close_matches(rest[0], by_name, n=1)
        meant = f", did you mean '{close[0]}'?" if close else ";"
        raise _UsageError(f"unknown command {rest[0]!r}{meant} 'ovseg --help' lists all")
    return _call(by_name[rest[0]], rest[1:])


def _call(subcommand: Subcommand, arguments: Sequence[str]) -> int:
    """Read a subcommand's arguments and run it; its help ends with examples."""
    import tyro

    @functools.wraps(subcommand.function)
    def run_visibly(*given: Any, **options: Any) -> int | None:
        # Control characters in names are kept off the output; around the function alone, as tyro's help has colours.
        with contextlib.redirect_stdout(cast("TextIO", VisibleStream(sys.stdout))):
            code: int | None = subcommand.function(*given, **options)
            return code

    if {"-h", "--help"} & set(itertools.takewhile(lambda argument: argument != "--", arguments)):
        # tyro would join the lines of a description into one that no terminal is wide enough for.
        width = min(shutil.get_terminal_size().columns, 110)
        for paragraph in description_of(subcommand.function):
            sys.stdout.write(f"{textwrap.fill(paragraph, width)}\n\n")
    try:
        code = tyro.cli(
            with_readable_options(run_visibly),
            prog=f"ovseg {subcommand.name}",
            description="",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    except SystemExit as leaving:
        if not leaving.code:
            sys.stdout.write("\n".join(["examples:", *(f"  {example}" for example in subcommand.examples), ""]))
        raise
    except ModuleNotFoundError as error:
        if missing := missing_extra(error):
            raise _UsageError(f"ovseg {subcommand.name}: {missing}") from error
        raise
    return code if isinstance(code, int) else 0


def _message_and_code(error: Exception) -> tuple[str, int]:
    """Return the message and the exit code of an error."""
    from pipeline.errors import PipelineError, StageError
    from storage_schemas.errors import StorageError

    if isinstance(error, StageError):
        return str(error), FAILED
    if isinstance(error, PipelineError | StorageError | _UsageError):
        return str(error), WRONG_INPUT
    *_, (innermost, _) = traceback.walk_tb(error.__traceback__)
    package = innermost.f_globals.get("__name__", "").partition(".")[0]
    if isinstance(error, ValueError) and package == "ovseg_models":
        return str(error), WRONG_INPUT  # that package has no errors of its own: its ValueErrors are for the user
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_INPUT
    return f"unexpected {type(error).__name__}: {error}; --debug shows where", FAILED


def _reported(message: str, code: int, *, debug: bool) -> int:
    """Print an error on stderr, its traceback only if asked for, and return its exit code."""
    if debug:
        sys.stderr.write(visible(traceback.format_exc()))
    sys.stderr.write("".join(f"ovseg: {visible(line)}\n" for line in message.split("\n")))
    return code


if __name__ == "__main__":
    sys.exit(main())
