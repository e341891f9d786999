"""What a page says of its making: the clock, unless a date is given, and the commit of this code alone."""

import subprocess
import sys

import pytest

from pipeline.provenance import code_commit, provenance


def test_the_date_is_the_one_that_is_given(monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert provenance().made_at == "2023-11-14 22:13 UTC"
    monkeypatch.delenv("SOURCE_DATE_EPOCH")
    assert provenance().made_at > "2024"


@pytest.mark.parametrize(
    ("argv", "typed"),
    [(["/x/bin/ovseg", "run", "--set", "name=a b"], "ovseg run --set 'name=a b'"), (["/x/pytest", "-q"], "")],
)
def test_the_command_is_the_one_that_was_typed_where_it_is_ours(monkeypatch, argv, typed):
    monkeypatch.setattr(sys, "argv", argv)
    assert provenance().typed == typed


def test_the_commit_is_that_of_the_codes_own_checkout(tmp_path):
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "code.py").write_text("1")
    git("add", ".")
    git("commit", "-qm", "a")
    git("tag", "v1")
    assert code_commit.__wrapped__(tmp_path) == git("rev-parse", "--short=12", "HEAD")
    (tmp_path / "code.py").write_text("2")
    assert code_commit.__wrapped__(tmp_path).endswith("-dirty")
    inside = tmp_path / ".venv" / "site-packages"
    inside.mkdir(parents=True)
    assert code_commit.__wrapped__(inside) == ""  # the checkout around it is another project's
