"""Checks of command lines without their work: the command, its options and its files exist."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import re
from pathlib import Path

import pytest

from flows import command
from flows.arguments import RunArguments
from flows.subcommands import SUBCOMMANDS, Subcommand
from pipeline.settings import load_settings
from tests.docs.pages import ROOT, words_of

SHELL_WORDS = frozenset(
    {
        *(
            "apt-get",
            "cd",
            "cp",
            "curl",
            "df",
            "docker",
            "export",
            "git",
            "grep",
            "ln",
            "ls",
            "md5sum",
            "mkdir",
            "mv",
            "nvidia-smi",
        ),
        *("pip", "printf", "rm", "sha256sum", "tar", "unzip"),
    }
)
TARGETS = frozenset(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
_PLACEHOLDER = re.compile(r"^[A-Z][A-Z_]*$|^\.\.\.$|^…$")


def check_command(line: str, monkeypatch: pytest.MonkeyPatch, *, is_whole: bool = True) -> None:
    """Fail the test if a command line could not be typed as it stands.

    A line of several commands (``a && b``, ``a | b``) is checked command by command. One that is not whole, as
    sentences quote them, need only name a command and options that exist.
    """
    for part in re.split(r"\s(?:&&|\|\||\||;)\s", line):
        words = words_of(part)
        while words and re.match(r"^[A-Z_]+=", words[0]):  # settings of the environment
            words.pop(0)
        name = Path(words[0]).name if words else ""
        if name == "ovseg":
            check_ovseg(words[1:], monkeypatch, is_whole=is_whole)
        elif name == "make":
            _check_make(words[1:])
        elif name.startswith("python"):
            _check_python(words[1:])
        elif name == "torchrun":
            start = words.index("flows.command") if "flows.command" in words else 0
            assert words[start - 1] == "-m", f"{part}: starts something else than flows.command"
            check_ovseg(words[start + 1 :], monkeypatch, is_whole=is_whole)
        else:
            assert name in SHELL_WORDS, f"{part}: is {name!r} a command? if so, add it to SHELL_WORDS"


def check_ovseg(arguments: list[str], monkeypatch: pytest.MonkeyPatch, *, is_whole: bool = True) -> None:
    """Let ``ovseg`` read its arguments, and load the settings that they name, but do nothing."""
    if arguments in (["--help"], ["--version"]):
        return
    if _PLACEHOLDER.match(arguments[0]):
        return
    if not is_whole or any(_PLACEHOLDER.match(word) for word in arguments):
        _check_names(arguments)
        return
    given: dict[str, object] = {}

    def without_work(subcommand: Subcommand) -> Subcommand:
        @functools.wraps(subcommand.function)
        def stub(*values, **named):
            given.update({str(place): value for place, value in enumerate(values)} | named)

        return dataclasses.replace(subcommand, function=stub)

    with monkeypatch.context() as patched:
        patched.setattr(command, "SUBCOMMANDS", tuple(map(without_work, SUBCOMMANDS)))
        patched.setattr(command, "configure_logging", lambda _: None)
        assert command.main(arguments) == 0, f"ovseg {' '.join(arguments)}"
    run = next((value for value in given.values() if isinstance(value, RunArguments)), None)
    config = run.config if run else given.get("config")
    if config:
        load_settings(ROOT / config, run.overrides if run else given.get("overrides", ()))


def _check_names(arguments: list[str]) -> None:
    """Check the names of subcommand and options, whatever the values."""
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        words = 2 if " ".join(arguments[:2]) in {subcommand.name for subcommand in SUBCOMMANDS} else 1
        assert command.main([*arguments[:words], "--help"]) == 0, f"ovseg {arguments[0]}: there is no such command"
    for option in (word for word in arguments if word.startswith("--")):
        assert option in shown.getvalue(), f"ovseg {' '.join(arguments)}: there is no {option}"


def _check_make(words: list[str]) -> None:
    """Check that targets and the CONFIG file exist."""
    for word in words:
        name, is_setting, value = word.partition("=")
        if not is_setting:
            assert word in TARGETS or word.startswith("-"), f"make {word}: there is no such target"
        elif name == "CONFIG" and not set(value) & set("<>*…") and "..." not in value:
            assert (ROOT / value).is_file(), f"make CONFIG={value}: there is no such file"


def _check_python(words: list[str]) -> None:
    """Check that the module or script exists."""
    if words[:1] == ["-m"]:
        module = words[1]
        assert module == "venv" or importlib.util.find_spec(module), f"python -m {module}: there is no such module"
    elif words and not words[0].startswith("-"):
        assert (ROOT / words[0]).is_file(), f"python {words[0]}: there is no such file"
