"""The ``ovseg`` command: finds the subcommand, sets up logging, and turns errors into messages and exit codes.

Exit codes: 0 done; 1 a run failed; 2 wrong arguments, settings or files; 130 interrupted by Ctrl-C.
"""

import contextlib
import difflib
import functools
import importlib.metadata
import itertools
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO, cast

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
_GENERAL_OPTIONS = """\
options of every command:
  -h, --help           what the command does, its options, examples
  --log-level LEVEL    debug, info (default), warning or error; the log goes to stderr
  --debug              show the traceback of an error
  --version            show the version and leave
"""


@dataclass(frozen=True, slots=True)
class _General:
    """The options that every subcommand takes.

    Attributes:
        debug: Show tracebacks.
        log_level: One of ``LEVELS``.
        rest: The other arguments, in order.
    """

    debug: bool
    log_level: str
    rest: tuple[str, ...]


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
    for group in dict.fromkeys(subcommand.group for subcommand in SUBCOMMANDS):
        lines.append(f"{group}:")
        for subcommand in SUBCOMMANDS:
            if subcommand.group == group:
                lines.extend(
                    textwrap.wrap(
                        f"  {subcommand.name:<{width}}{subcommand.summary}", 110, subsequent_indent=" " * (width + 2)
                    )
                )
        lines.append("")
    lines.append(_GENERAL_OPTIONS)
    lines.append("examples:")
    lines.extend(f"  {subcommand.examples[0]}" for subcommand in SUBCOMMANDS)
    return "\n".join(lines) + "\n"


def _run(given: list[str]) -> int:
    """Do what the command line asks for."""
    if not given or given[0] in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
        return 0 if given else WRONG_INPUT
    general = _general_options(given)
    if "--version" in general.rest[:1]:
        sys.stdout.write(f"ovseg {_version()}\n")
        return 0
    if not general.rest:
        raise _UsageError("no command given; 'ovseg --help' lists them")
    configure_logging(general.log_level)
    return _call(_subcommand(general.rest[0]), general.rest[1:])


def _general_options(given: Sequence[str]) -> _General:
    """Take the options of every command out of a command line, wherever they stand before a ``--``.

    Raises:
        _UsageError: If the log level is none.
    """
    debug, log_level, rest = False, "info", []
    arguments = iter(given)
    for argument in arguments:
        if argument == "--":
            rest.extend([argument, *arguments])
        elif argument == "--debug":
            debug = True
        elif argument == "--log-level" or argument.startswith("--log-level="):
            log_level = argument.partition("=")[2] or next(arguments, "")
        else:
            rest.append(argument)
    if log_level not in LEVELS:
        message = f"--log-level: should be one of {', '.join(LEVELS)} (got {log_level!r})"
        raise _UsageError(message)
    return _General(debug, log_level, tuple(rest))


def _subcommand(name: str) -> Subcommand:
    """Find a subcommand by name.

    Raises:
        _UsageError: If there is none of that name.
    """
    by_name = {subcommand.name: subcommand for subcommand in SUBCOMMANDS}
    if name not in by_name:
        close = difflib.get_close_matches(name, by_name, n=1)
        meant = f", did you mean '{close[0]}'?" if close else ";"
        message = f"unknown command {name!r}{meant} 'ovseg --help' lists all"
        raise _UsageError(message)
    return by_name[name]


def _call(subcommand: Subcommand, arguments: Sequence[str]) -> int:
    """Read a subcommand's arguments and run it; its help ends with examples."""
    import tyro

    try:
        code = tyro.cli(
            _printing_visibly(subcommand.function),
            prog=f"ovseg {subcommand.name}",
            args=arguments,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    except SystemExit as leaving:
        if not leaving.code:
            sys.stdout.write("\n".join(["examples:", *(f"  {example}" for example in subcommand.examples), ""]))
        raise
    return code if isinstance(code, int) else 0


def _printing_visibly(command: Callable[..., int | None]) -> Callable[..., int | None]:
    """Keep control characters in names off the output of a command; its help has colours, which are such."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> int | None:
        with contextlib.redirect_stdout(cast("TextIO", VisibleStream(sys.stdout))):
            return command(*arguments, **options)

    return run


def _message_and_code(error: Exception) -> tuple[str, int]:
    """Say what an error means to the user, and which exit code it has."""
    from pipeline.errors import PipelineError, StageError
    from storage_schemas.errors import StorageError

    if isinstance(error, StageError):
        return str(error), FAILED
    if isinstance(error, PipelineError | StorageError | _UsageError):
        return str(error), WRONG_INPUT
    if isinstance(error, ValueError) and _is_raised_in(error, "ovseg_models"):
        return str(error), WRONG_INPUT  # that package has no errors of its own: its ValueErrors are for the user
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}" if error.filename else str(error), WRONG_INPUT
    return f"unexpected {type(error).__name__}: {error}; --debug shows where", FAILED


def _is_raised_in(error: Exception, package: str) -> bool:
    """Return whether the innermost frame of an error is in a package."""
    module = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
    return module.partition(".")[0] == package


def _reported(message: str, code: int, *, debug: bool) -> int:
    """Print an error on stderr, its traceback only if asked for, and return its exit code."""
    if debug:
        sys.stderr.write(visible(traceback.format_exc()))
    sys.stderr.write("".join(f"ovseg: {visible(line)}\n" for line in message.split("\n")))
    return code


def _version() -> str:
    """Return the version of the installed distribution."""
    try:
        return importlib.metadata.version("ovseg-pipeline")
    except importlib.metadata.PackageNotFoundError:
        return "of a source tree that is not installed"


if __name__ == "__main__":
    sys.exit(main())
