"""The site of docs/: navigation and links hold, it builds strictly, its pages ask no other host for anything."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ovseg_models
from tests.docs.pages import ROOT
from tools.build_site import anchors_of, faults
from tools.write_commands_docs import TARGET as COMMANDS
from tools.write_commands_docs import document, options_of

# What a browser fetches by itself; links that a reader follows are `<a href>`.
FETCHED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"'\s>]+)")


def project(path: Path, nav: str, **pages: str) -> Path:
    """Write a project of a few pages, and return its directory."""
    (path / "docs" / "images").mkdir(parents=True)
    (path / "docs" / "images" / "a.png").write_bytes(b"")
    (path / "zensical.toml").write_text(f"[project]\nnav = {nav}\n")
    for name in ("README", "CONTRIBUTING"):
        (path / f"{name}.md").write_text(pages.pop(name, "# Project\n"))
    for name, text in pages.items():
        (path / "docs" / f"{name}.md").write_text(text)
    return path


def test_navigation_and_links_hold():
    assert faults() == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[x](gone.md)", "docs/a.md: links to gone.md, and there is no such file"),
        ("![x](images/gone.png)", "docs/a.md: links to images/gone.png, and there is no such file"),
        ("[x](#gone)", "docs/a.md: links to #gone, and there is no such heading"),
        ("[x](b.md#gone)", "docs/a.md: links to b.md#gone, and there is no such heading"),
        ("[x](../README.md)", "docs/a.md: links to ../README.md, which the site does not hold; name the path as code"),
    ],
)
def test_a_broken_link_is_a_fault(text, fault, tmp_path):
    root = project(tmp_path, '["a.md", {"B" = "b.md"}]', a=f"# A\n\n{text}\n", b="# B, `code` (and more)\n")
    [found] = faults(root)
    assert found.startswith(fault)


def test_links_that_hold_and_what_only_looks_like_one_are_no_faults(tmp_path):
    links = "[x](b.md#b-code-and-more) ![x](images/a.png) [x](https://example.org/x)"
    text = f"# A\n{links} `[x](no.md)`\n```\n[x](no.md)\n```\n"
    root = project(tmp_path, '[{"S" = ["a.md", "b.md"]}]', a=text, b="# B, `code` (and more)\n")
    assert faults(root) == []


def test_pages_and_navigation_name_each_other(tmp_path):
    root = project(tmp_path, '["a.md", "a.md", "gone.md"]', a="# A\n", b="# B\n", README="[x](docs/c.md)\n")
    assert [fault.partition(":")[2].strip() for fault in faults(root)] == [
        "'nav' names gone.md, which is not in docs",
        "not in 'nav' of zensical.toml; add it",
        "'nav' names a.md twice",
        "links to docs/c.md, and there is no such file",
    ]


def test_anchors_are_those_of_github(tmp_path):
    (tmp_path / "page.md").write_text("# `[a.b]` and *c*, d\n```\n# no heading\n```\n## Spaced  out\n")
    assert anchors_of(tmp_path / "page.md") == {"ab-and-c-d", "spaced--out"}


def test_the_commands_page_is_what_help_says():
    assert COMMANDS.read_text(encoding="utf-8") == document(), "run 'make docs'"


def test_options_are_read_off_the_help():
    options = dict(options_of("segment"))
    assert options["--out DIR"].startswith("Folder for the results")
    assert any(option.startswith("--classes") and "traffic light" in text for option, text in options.items())
    assert not any(option.startswith("-h") for option in options)


def test_the_python_page_names_every_public_class():
    page = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
    public = {name for name in ovseg_models.__all__ if not name.startswith("_")}
    assert set(re.findall(r"^::: ovseg_models\.(\w+)$", page, re.MULTILINE)) == public


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    pytest.importorskip("zensical", reason="builds the site; 'make install' installs it")
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    settings = (ROOT / "zensical.toml").read_text(encoding="utf-8").replace('"build/site"', '"site"')
    (tmp_path / "zensical.toml").write_text(settings.replace('paths = ["."]', f'paths = ["{ROOT}"]'))
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", str(tmp_path / "zensical.toml")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 20
    assert {page: FETCHED.findall(page.read_text(encoding="utf-8")) for page in pages} == {page: [] for page in pages}
    assert "one pass" in (tmp_path / "site" / "search.json").read_text(encoding="utf-8")
