"""The project's pages and what in them a reader may copy: fenced blocks and commands within sentences.

The info string of a fence says what a test does with it: ```` ```sh run ```` and ```` ```python run ```` are executed,
```` ```sh ```` and ```` ```python ```` are checked without being executed (they need a download, hours, or a machine of
one's own), ```` ```toml ```` must parse, ```` ```text ```` is a picture or an output. Without an info string a block
whose lines are all commands of this project is taken for ``sh``, any other for ``text``.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
LANGUAGES = ("sh", "python", "toml", "sql", "json", "text")
COMMANDS = ("ovseg", "make", "python", "pip", "torchrun")
PAGES = tuple(
    sorted(
        path
        for pattern in ("*.md", "docs/**/*.md", "pipeline/**/*.md")
        for path in ROOT.glob(pattern)
        if path.name != "CHANGELOG.md"  # it tells of commands that may be gone
    )
)
_FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^`\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`((?:ovseg |make |python -m |python tools/)[^`]+)`")
_PROMPT = re.compile(r"^\$ ", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: Where it stands.
        line: Of the opening fence, from 1.
        language: First word of the info string.
        marks: The other words.
        text: Between the fences.
    """

    page: Path
    line: int
    language: str
    marks: tuple[str, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def is_run(self) -> bool:
        return "run" in self.marks

    def commands(self) -> list[str]:
        """Return the command lines, continued ones joined, comments away."""
        joined = _PROMPT.sub("", self.text).replace("\\\n", " ")
        lines = (re.sub(r"(^|\s+)#\s.*$", "", line).strip() for line in joined.splitlines())
        return [line for line in lines if line]


def blocks_of(page: Path) -> list[Block]:
    """Return a page's fenced blocks in order."""
    text = page.read_text(encoding="utf-8")
    blocks = []
    for found in _FENCE.finditer(text):
        language, *marks = found["info"].split() or [_guessed_language(found["text"])]
        line = text.count("\n", 0, found.start()) + 1
        blocks.append(Block(page, line, language, tuple(marks), found["text"]))
    return blocks


def _guessed_language(text: str) -> str:
    """Distinguish commands from pictures."""
    lines = [line for line in _PROMPT.sub("", text).replace("\\\n", " ").splitlines() if line.strip()]
    return "sh" if all(line.split()[0] in COMMANDS for line in lines) else "text"


def inline_commands(page: Path) -> list[str]:
    """Return the commands within a page's sentences, those of fenced blocks left out."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return list(dict.fromkeys(" ".join(command.split()) for command in _INLINE.findall(text)))


def words_of(command: str) -> list[str]:
    """Split a command line as a shell does."""
    return shlex.split(command, comments=True)
