"""What a reader may copy from README and docs works: each block is run, or read by what it is meant for."""

import ast
import importlib
import logging
import shlex
import subprocess
import tomllib

import pytest
from PIL import Image

from flows.command import main
from pipeline.settings import SettingsError
from tests.docs.commands import check_command, check_ovseg
from tests.docs.pages import LANGUAGES, PAGES, ROOT, Block, blocks_of, inline_commands
from tests.pipeline.prepare.layouts import (
    make_ade20k_150,
    make_ade20k_847,
    make_coco,
    make_export,
    make_folder,
    make_pascal_context,
    make_pascal_voc,
)
from tests.tiny_segmenter import picture, tiny_segmenter

BLOCKS = [block for page in PAGES for block in blocks_of(page)]
INLINE = [(page, command) for page in PAGES for command in inline_commands(page)]
INLINE_IS_RUN = ("docs/guides/data_preparation.md",)


def of(*languages: str, is_run: bool | None = None):
    """Parametrize a test by the blocks of some languages."""
    chosen = [block for block in BLOCKS if block.language in languages and (is_run is None or block.is_run is is_run)]
    return pytest.mark.parametrize("block", chosen, ids=str)


@pytest.fixture(scope="module")
def reader_directory(tmp_path_factory):
    """A reader's directory: the configurations, a segmenter, photographs, and small data sets in their layouts."""
    tmp_path = tmp_path_factory.mktemp("reader")
    (tmp_path / "flows").symlink_to(ROOT / "flows")
    tiny_segmenter(more_words=("oculus", "ukulele", "traffic", "light")).save(tmp_path / "models" / "ovseg-swin-b")
    for name in ("photo.jpg", "photos/one.jpg", "more_photos/two.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture()).save(tmp_path / name)
    make_coco(tmp_path / "data" / "coco", split="train2017")
    make_ade20k_150(tmp_path / "data" / "ADEChallengeData2016")
    make_ade20k_847(tmp_path / "data" / "ADE20K_2021_17_01")
    make_pascal_context(tmp_path / "data" / "VOCdevkit" / "VOC2010")
    make_pascal_voc(tmp_path / "data" / "VOCdevkit" / "VOC2012")
    make_folder(tmp_path / "my_pictures")
    make_export(tmp_path / "my_export")
    return tmp_path


@pytest.fixture
def reader(reader_directory, monkeypatch):
    """Stand in the reader's directory."""
    monkeypatch.chdir(reader_directory)


@pytest.fixture(autouse=True)
def _logging_as_it_was():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_says_what_it_is(block):
    assert block.language in LANGUAGES, f"{block}: {block.language!r} is none of {LANGUAGES}"
    assert set(block.marks) <= {"run"}, f"{block}: unknown marks {block.marks}"


@of("sh")
def test_commands_can_be_typed(block, monkeypatch):
    assert block.commands()
    for line in block.commands():
        check_command(line, monkeypatch)


@pytest.mark.parametrize(("page", "line"), INLINE, ids=[f"{page.name}: {line}" for page, line in INLINE])
def test_commands_within_sentences_can_be_typed(page, line, monkeypatch):
    check_command(line, monkeypatch, is_whole=False)


@of("sh", is_run=True)
def test_commands_do_their_work(block, reader):
    for line in block.commands():
        run(line)


@pytest.mark.parametrize(
    "line",
    [
        line
        for page, line in INLINE
        if str(page.relative_to(ROOT)) in INLINE_IS_RUN
        and line.startswith("ovseg ")
        and not any(map(str.isupper, line.split()))
    ],
)
def test_commands_within_sentences_do_their_work(line, reader):
    run(line)


def run(line: str) -> None:
    """Run a command line in the reader's directory; ``ovseg`` in this process, so that torch is loaded once."""
    words = shlex.split(line)
    if words[0] == "ovseg":
        assert main([*words[1:], "--log-level=warning"]) == 0, line
    else:
        subprocess.run(["/bin/bash", "-ec", line], check=True, timeout=120)


@of("python")
def test_snippets_compile_and_what_they_import_exists(block):
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"{block}: {node.module} has no {alias.name}"


@of("python", is_run=True)
def test_snippets_do_their_work(block, reader):
    exec(compile(block.text, str(block), "exec"), {"__name__": "__main__"})


@of("toml")
def test_settings_of_pages_parse(block):
    assert tomllib.loads(block.text)


# The checks themselves


def test_pages_are_found_and_something_of_each_kind_is_run():
    names = {str(page.relative_to(ROOT)) for page in PAGES}
    cards = {"pipeline/drawn_world/small_clip/README.md"}
    assert {"README.md", "CONTRIBUTING.md", "docs/internals/architecture.md"} | cards <= names
    assert {block.language for block in BLOCKS if block.is_run} >= {"sh", "python"}
    assert any(block.page.name == "README.md" for block in BLOCKS if block.is_run)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("ovseg prepair coco", "ovseg prepair coco"),
        ("ovseg segment photo.jpg --clases sky --model m --out out", "ovseg segment photo.jpg --clases"),
        ("ovseg prepare NAME --rot DIR", "there is no --rot"),
        ("make cofee", "make cofee: there is no such target"),
        ("make run CONFIG=flows/configs/absent.toml", "there is no such file"),
        ("python -m tests.absent", "there is no such module"),
        ("python tools/absent.py", "there is no such file"),
        ("cd build && ovsg status", "is 'ovsg' a command"),
        ("torchrun --nproc-per-node 8 -m flows.absent", "something else than flows.command"),
        ("torchrun -m flows.command stats --config flows/configs/demo.toml", "ovseg stats"),
    ],
)
def test_what_cannot_be_typed_is_found(line, message, monkeypatch, capsys):
    with pytest.raises((AssertionError, SystemExit), match=message):
        check_command(line, monkeypatch)


def test_settings_named_on_a_command_line_are_loaded(monkeypatch):
    check_ovseg(["status", "--config", "flows/configs/demo.toml", "--set", "finetune.seed=3"], monkeypatch)
    with pytest.raises(SettingsError, match=r"finetune\.sed: unknown setting"):
        check_ovseg(["status", "--config", "flows/configs/demo.toml", "--set", "finetune.sed=3"], monkeypatch)


def test_blocks_and_their_commands_are_read(tmp_path):
    page = ROOT / "README.md"
    text = "x\n```sh run\n$ ovseg a \\\n  --b 'c d'  # why\n\n# alone\nmake x\n```\n  ```toml\n  a = 1\n  ```\n"
    (tmp_path / "page.md").write_text(text + "`ovseg status\nruns` `make` `other`")
    first, second = blocks_of(tmp_path / "page.md")
    assert (first.line, first.language, first.is_run) == (2, "sh", True)
    assert first.commands() == ["ovseg a    --b 'c d'", "make x"]
    assert (second.language, second.is_run) == ("toml", False)
    assert inline_commands(tmp_path / "page.md") == ["ovseg status runs"]
    (tmp_path / "page.md").write_text("```\nmake x\novseg y\n```\n```\na -> b\n```\n")
    assert [block.language for block in blocks_of(tmp_path / "page.md")] == ["sh", "text"]
    assert str(Block(page, 3, "sh", (), "")) == "README.md:3"
