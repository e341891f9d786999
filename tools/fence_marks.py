"""An extension of Python-Markdown for the site: ```` ```sh run ```` is read as ```` ```sh ````.

The word after the language says what a test does with a block (CONTRIBUTING.md); the site's reader of fences knows
none.
"""

import re

from markdown import Extension, Markdown
from markdown.preprocessors import Preprocessor

_MARKED_FENCE = re.compile(r"^(\s*```\w+) run\s*$")
_BEFORE_FENCES = 100  # higher goes first; the fences of pymdownx are at 25


class _WithoutMarks(Preprocessor):
    """Take the mark off each opening fence."""

    def run(self, lines: list[str]) -> list[str]:
        """Return the lines of a page as the site reads them."""
        return [_MARKED_FENCE.sub(r"\1", line) for line in lines]


class FenceMarks(Extension):
    """Registers the preprocessor."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802 - Python-Markdown calls it so
        """Add to a reader of Markdown what this extension does."""
        md.preprocessors.register(_WithoutMarks(md), "fence_marks", _BEFORE_FENCES)


def makeExtension(**options: str) -> FenceMarks:  # noqa: N802 - Python-Markdown calls it so
    """Return the extension."""
    return FenceMarks(**options)
