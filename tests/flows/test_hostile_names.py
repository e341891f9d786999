"""Class and file names with control characters on every way to a terminal or a report."""

import logging
import sys

import pytest

from flows import command
from flows.command import main
from flows.logging_setup import VisibleRecord, configure_logging
from flows.subcommands import Subcommand
from pipeline.prepare.prepare import prepare
from pipeline.settings import PrepareSettings
from storage_schemas.status import CARD_DIRECTORY
from tests.pipeline.prepare.layouts import make_folder, put

HOSTILE = "sky\x1b]0;owned\x07\u202e\x9b2J"


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root, factory = logging.getLogger(), logging.getLogRecordFactory()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.setLogRecordFactory(factory)
    logging.captureWarnings(False)


def install_probe(monkeypatch, function):
    """Make a function the only subcommand."""
    probe = Subcommand(name="probe", group="test", summary="try", function=function, examples=())
    monkeypatch.setattr(command, "SUBCOMMANDS", (probe,))


def steers(text: str) -> bool:
    return any(character in text for character in "\x1b\x07\u202e\x9b\r")


@pytest.mark.parametrize("options", [["--check"], [], ["--json"], ["--check", "--json"]])
def test_class_and_file_names_of_a_data_set(options, tmp_path, capsys):
    make_folder(tmp_path / "data")
    put(tmp_path / "data/classes.txt", f"sky\n{HOSTILE}\nroad\n".encode())
    put(tmp_path / "data/images/bad\x1b[2J.jpg", b"x")
    put(tmp_path / "data/images/notes\x1b[2J.txt", b"x")
    root = ["--root", str(tmp_path / "data"), "--runs", str(tmp_path / "runs"), "--max-failed-share", "1"]
    assert main(["prepare", "folder", *root, *options]) == 0
    printed = capsys.readouterr()
    assert "sky\\x1b]0" in printed.out + printed.err or "sky\\u001b]0" in printed.out
    assert not steers(printed.out + printed.err)


def test_the_report_in_the_artifact(tmp_path):
    make_folder(tmp_path / "data")
    put(tmp_path / "data/classes.txt", f"sky\n{HOSTILE}\nroad\n".encode())
    artifact = prepare(PrepareSettings(dataset="folder", root=tmp_path / "data"), tmp_path / "runs").artifact
    text = (artifact.directory / CARD_DIRECTORY / "prepared.md").read_text()
    assert "sky\\x1b]0;owned" in text
    assert not steers(text)


def test_errors_and_their_tracebacks(tmp_path, capsys, monkeypatch):
    assert main(["status", str(tmp_path / f"absent{HOSTILE}")]) == 2
    assert not steers(capsys.readouterr().err)

    def broken() -> None:
        raise RuntimeError(HOSTILE)

    install_probe(monkeypatch, broken)
    assert main(["probe", "--debug"]) == 1
    printed = capsys.readouterr().err
    assert "Traceback" in printed
    assert not steers(printed)


def test_every_handler_gets_messages_that_steer_nothing(capsys):
    configure_logging("info")
    logging.getLogger("pipeline.trial").warning("class %s", HOSTILE)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("pipeline.trial").exception("failed")
    assert not steers(capsys.readouterr().err)
    record = logging.getLogger("anything").makeRecord("x", logging.INFO, "f", 1, "of %s", (HOSTILE,), None)
    assert isinstance(record, VisibleRecord)
    assert not steers(record.getMessage())


def test_what_a_command_prints_and_not_its_help(capsys, monkeypatch):
    def printed() -> None:
        """Say it."""
        sys.stdout.write(f"{HOSTILE}\n")

    install_probe(monkeypatch, printed)
    assert main(["probe"]) == 0
    assert capsys.readouterr().out == "sky\\x1b]0;owned\\x07\\u202e\\x9b2J\n"
