"""The ``ovseg`` command: help, quick start, exit codes, messages without tracebacks, logging."""

import inspect
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from flows import command
from flows.logging_setup import OneLineFormatter, configure_logging
from flows.subcommands import SUBCOMMANDS, Subcommand
from ovseg_models.prompt_templates import prompt_templates
from pipeline.errors import PipelineError, StageError
from pipeline.settings import SettingsError
from pipeline.stage_names import STAGE_NAMES
from storage_schemas.errors import ArtifactError
from tests.docs.commands import check_command

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / "flows" / "configs" / "demo.toml")
HEAVY = ("torch", "dask", "distributed", "prefect", "open_clip", "timm", "scipy", "pyarrow")


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    for package in ("storage_schemas", "ovseg_models", "pipeline", "flows"):
        logging.getLogger(package).setLevel(logging.NOTSET)


@pytest.fixture
def probe(monkeypatch):
    """Install a subcommand that does what the test says."""

    def install(function):
        subcommand = Subcommand(name="probe", group="test", summary="try", function=function, examples=("ovseg probe",))
        monkeypatch.setattr(command, "SUBCOMMANDS", (*SUBCOMMANDS, subcommand))

    return install


def raising(error: BaseException):
    def function() -> None:
        raise error

    return function


def process(*arguments: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flows.command", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


# Help


def test_help_lists_every_subcommand_with_its_summary(capsys):
    assert command.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for subcommand in SUBCOMMANDS:
        assert f"  {subcommand.name} " in shown
        assert " ".join(subcommand.summary.split()) in " ".join(shown.split())
    assert all(len(line) <= 120 for line in shown.splitlines())


def test_help_keeps_the_stages_together_and_ends_with_first_steps_that_can_be_typed(capsys, monkeypatch):
    lines = command.overview().splitlines()
    listed = [line.split()[0] for line in lines if re.match(r"  [a-z]", line) and not line.startswith("  ovseg")]
    first = listed.index(STAGE_NAMES[0])
    assert tuple(listed[first : first + len(STAGE_NAMES)]) == STAGE_NAMES
    steps = [line.strip() for line in lines[-4:]]
    assert [step.split()[1] for step in steps] == ["demo", "bundle", "segment", "app"]
    for step in steps:
        check_command(step, monkeypatch)


@pytest.mark.parametrize("subcommand", SUBCOMMANDS, ids=lambda subcommand: subcommand.name)
def test_help_shows_no_types_of_python(subcommand, capsys):
    assert command.main([subcommand.name, "--help"]) == 0
    shown = capsys.readouterr().out
    for leftover in ("None", "(default: )", "arguments options", "run options", "STR", "False"):
        assert leftover not in shown, f"{subcommand.name}: {leftover}"


@pytest.mark.parametrize("arguments", [["-h"], ["help"]])
def test_other_ways_to_ask_for_help(arguments, capsys):
    assert command.main(arguments) == 0
    assert capsys.readouterr().out == command.overview()


def test_no_command_shows_the_help_and_is_an_error(capsys):
    assert command.main([]) == 2
    assert capsys.readouterr().out == command.overview()


@pytest.mark.parametrize("subcommand", SUBCOMMANDS, ids=lambda subcommand: subcommand.name)
def test_help_of_each_subcommand(subcommand, capsys):
    assert command.main([subcommand.name, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"usage: ovseg {subcommand.name}" in shown
    assert shown.endswith("\n".join(f"  {example}" for example in subcommand.examples) + "\n")


@pytest.mark.parametrize("subcommand", SUBCOMMANDS, ids=lambda subcommand: subcommand.name)
def test_each_subcommand_is_there_and_explains_itself(subcommand):
    assert inspect.getdoc(subcommand.function)
    assert all(example.startswith(f"ovseg {subcommand.name} ") for example in subcommand.examples)


def test_the_stages_are_listed_in_the_order_of_the_dataflow():
    assert tuple(subcommand.name for subcommand in SUBCOMMANDS if subcommand.group == "stages") == STAGE_NAMES


def test_version(capsys):
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("ovseg ")


@pytest.mark.parametrize(
    "arguments", [["--help"], *([subcommand.name, "--help"] for subcommand in SUBCOMMANDS)], ids=" ".join
)
def test_help_imports_nothing_heavy(arguments):
    code = (
        "import sys; from flows.command import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr); sys.exit(code)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "[]\n")


def test_status_reads_settings_and_artifacts_without_a_model(tmp_path):
    code = (
        "import sys; from flows.command import main; main(sys.argv[1:]); "
        "print([name for name in ('torch', 'open_clip', 'prefect', 'matplotlib') if name in sys.modules])"
    )
    config = tmp_path / "run.toml"
    config.write_text(f"runs_dir = '{tmp_path}/runs'\n[datasets.drawn]\ndataset = 'drawn-world'\nsplit = 'val'\n")
    ended = subprocess.run(
        [sys.executable, "-c", code, "status", "--config", str(config)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "scenes/drawn-world-val" in ended.stdout
    assert ended.stdout.endswith("[]\n")


# Exit codes and messages


def test_unknown_command_names_the_likely_one(capsys):
    assert command.main(["statu"]) == 2
    assert (
        capsys.readouterr().err == "ovseg: unknown command 'statu', did you mean 'status'? 'ovseg --help' lists all\n"
    )


def test_unknown_command_like_no_other(capsys):
    assert command.main(["zzz"]) == 2
    assert capsys.readouterr().err == "ovseg: unknown command 'zzz'; 'ovseg --help' lists all\n"


def test_general_options_without_a_command(capsys):
    assert command.main(["--debug"]) == 2
    assert "ovseg: no command given; 'ovseg --help' lists them\n" in capsys.readouterr().err


def test_unknown_option_of_a_subcommand(capsys):
    assert command.main(["status", "--zzz"]) == 2
    shown = capsys.readouterr().err
    assert "Unrecognized options: --zzz" in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("arguments", [["--log-level", "loud"], ["--log-level=loud"], ["--log-level"]])
def test_unknown_log_level(arguments, capsys):
    assert command.main(["status", *arguments]) == 2
    assert "--log-level: should be one of debug, info, warning, error (got '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (
            SettingsError(["a.toml: name: is missing", "a.toml: x: is odd"]),
            2,
            "ovseg: a.toml: name: is missing\novseg: a.toml: x: is odd\n",
        ),
        (PipelineError("images: 0 found, 1 is expected; look"), 2, "ovseg: images: 0 found, 1 is expected; look\n"),
        (ArtifactError("scenes: gone"), 2, "ovseg: scenes: gone\n"),
        (FileNotFoundError(2, "No such file or directory", "a.jpg"), 2, "ovseg: a.jpg: No such file or directory\n"),
        (FileNotFoundError("weights.pth: there is no such file"), 2, "ovseg: weights.pth: there is no such file\n"),
        (StageError("prepare: 3 units failed"), 1, "ovseg: prepare: 3 units failed\n"),
        (KeyError("x"), 1, "ovseg: unexpected KeyError: 'x'; --debug shows where\n"),
        (KeyboardInterrupt(), 130, "ovseg: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_errors_become_messages_and_exit_codes(error, code, shown, probe, capsys):
    probe(raising(error))
    assert command.main(["probe"]) == code
    assert capsys.readouterr().err == shown


def test_a_value_that_the_models_refuse_is_wrong_input(probe, capsys):
    probe(lambda: prompt_templates("haiku"))
    assert command.main(["probe"]) == 2
    assert capsys.readouterr().err.startswith("ovseg: prompt_templates: 'haiku' is unknown, one of (")


def test_a_value_that_other_code_refuses_is_a_fault_of_the_program(probe, capsys):
    probe(lambda: int("x"))
    assert command.main(["probe"]) == 1
    assert capsys.readouterr().err.startswith("ovseg: unexpected ValueError: ")


@pytest.mark.parametrize("arguments", [["--debug", "probe"], ["probe", "--debug"]])
def test_debug_shows_the_traceback_too(arguments, probe, capsys):
    probe(raising(PipelineError("images: none")))
    assert command.main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback (most recent call last):")
    assert shown.endswith("ovseg: images: none\n")


def test_a_subcommand_may_return_its_exit_code(probe):
    def three() -> int:
        return 3

    probe(three)
    assert command.main(["probe"]) == 3


def test_what_follows_two_dashes_is_the_subcommands_own(probe):
    seen = []

    def take(words: tyro.conf.Positional[tuple[str, ...]]) -> None:
        seen.extend(words)

    probe(take)
    assert command.main(["probe", "--log-level=error", "--", "--debug"]) == 0
    assert seen == ["--debug"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "absent.toml"], "absent.toml: no such file"),
        (["--config", CONFIG, "--set", "nam=x"], "--set: nam: unknown setting, did you mean 'name'?"),
        (["--config", CONFIG, "--set", "name=3"], "--set: name: should be a valid string (got 3)"),
        (
            ["--config", CONFIG, "--set", "finetune.seed=-3"],
            "--set: finetune.seed: should be greater than or equal to 0",
        ),
        (["absent"], "absent: No such file or directory"),
        ([], "status: neither settings nor a directory is given"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(arguments, message):
    ended = process("status", *arguments)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith(f"ovseg: {message}")
    assert ended.stderr.count("\n") == 1


def test_several_faults_are_several_lines():
    ended = process("status", "--config", CONFIG, "--set", "nam=x", "--set", "finetune.seed=-1")
    assert ended.returncode == 2
    assert [line.split(":")[:3] for line in ended.stderr.splitlines()] == [
        ["ovseg", " --set", " finetune.seed"],
        ["ovseg", " --set", " nam"],
    ]


def test_ctrl_c_ends_with_one_line_and_130():
    code = (
        "import sys, time; from flows import command; from flows.subcommands import Subcommand\n"
        "def wait() -> None:\n    print('ready', flush=True)\n    time.sleep(60)\n"
        "command.SUBCOMMANDS = (Subcommand(name='status', group='', summary='', function=wait, examples=()),)\n"
        "sys.exit(command.main(['status']))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, shown = running.communicate(timeout=60)
    assert (running.returncode, shown) == (130, "ovseg: interrupted\n")


def test_a_reader_that_leaves_early_is_no_error():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with subprocess.Popen(
        [sys.executable, "-m", "flows.command", "--help"],
        cwd=ROOT,
        stdout=write_end,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        os.close(write_end)
        _, shown = running.communicate(timeout=60)
    assert (running.returncode, shown) == (141, "")


# Logging


def test_log_lines_of_this_project_go_to_stderr_from_the_level_on(probe, capsys):
    def log() -> None:
        for name in ("pipeline.some_stage", "some_library"):
            for level in (logging.DEBUG, logging.INFO, logging.WARNING):
                logging.getLogger(name).log(level, "%s of %s", logging.getLevelName(level), name)

    probe(log)
    assert command.main(["probe"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert [line.split(maxsplit=3)[3] for line in captured.err.splitlines()] == [
        "INFO of pipeline.some_stage",
        "WARNING of pipeline.some_stage",
        "WARNING of some_library",
    ]
    assert command.main(["probe", "--log-level", "debug"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_a_message_of_several_lines_is_one_line_of_the_log():
    record = logging.LogRecord("pipeline", logging.INFO, "", 0, "one\ntwo", None, None)
    assert OneLineFormatter("%(message)s").format(record) == "one | two"


def test_logging_can_be_set_up_again_without_doubling_lines(capsys):
    configure_logging("info")
    configure_logging("info")
    logging.getLogger("pipeline").info("once")
    assert capsys.readouterr().err.count("once") == 1
