"""Build the site of docs/ into build/site, strictly: a broken link, anchor, picture or name of an API ends it.

``make docs`` runs it. Zensical checks links between pages, anchors, and names of the Python API. What it passes over is
checked here: pages that the navigation lacks or names in vain, links to files that are no pages, and the links of
README and CONTRIBUTING. No network is used, and the pages ask none.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_INLINE_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"\]\((?P<target>[^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(?P<text>.*?) *$", re.MULTILINE)


def faults(root: Path = ROOT) -> list[str]:
    """Return what is wrong with the navigation, and with links and anchors of all pages, as ``page: fault``."""
    docs = root / "docs"
    nav = tomllib.loads((root / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    named = list(_pages_of(nav))
    pages = sorted(docs.rglob("*.md"))
    there = [str(page.relative_to(docs)) for page in pages]
    found = [f"zensical.toml: 'nav' names {page}, which is not in docs" for page in named if page not in there]
    found += [f"docs/{page}: not in 'nav' of zensical.toml; add it" for page in there if page not in named]
    found += [f"zensical.toml: 'nav' names {page} twice" for page in sorted(set(named)) if named.count(page) > 1]
    for page in [root / "README.md", root / "CONTRIBUTING.md", *pages]:
        found += [f"{page.relative_to(root)}: {fault}" for fault in _broken_links(page, docs)]
    return found


def _pages_of(entry: Any) -> Iterator[str]:
    """Yield the pages of an entry of the navigation, in order."""
    if isinstance(entry, str):
        yield entry
    else:
        for member in entry.values() if isinstance(entry, dict) else entry:
            yield from _pages_of(member)


def _broken_links(page: Path, docs: Path) -> Iterator[str]:
    """Yield what is wrong with a page's links to files and headings of this project."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for link in _LINK.finditer(_INLINE_CODE.sub("`code`", text)):
        path, _, anchor = link["target"].partition("#")
        if "://" in path or path.startswith("mailto:"):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            yield f"links to {link['target']}, and there is no such file"
        elif page.is_relative_to(docs) and not target.is_relative_to(docs.resolve()):
            yield f"links to {link['target']}, which the site does not hold; name the path as code instead"
        elif anchor and target.suffix == ".md" and anchor not in anchors_of(target):
            yield f"links to {link['target']}, and there is no such heading"


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    slugs = (re.sub(r"[^\w\- ]", "", found["text"].lower()) for found in _HEADING.finditer(text))
    return {re.sub(r"[ ]", "-", slug.strip()) for slug in slugs}


def main() -> int:
    """Check, then build."""
    if found := faults():
        print("\n".join(found), file=sys.stderr)
        return 1
    if importlib.util.find_spec("zensical") is None:
        print("the site is not built: Zensical is not installed; 'make install' does it", file=sys.stderr)
        return 1
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
