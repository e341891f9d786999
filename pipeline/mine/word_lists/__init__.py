"""The word lists that the project ships, each a text file: a word or an expression a line, comments after ``#``."""

from functools import cache
from importlib.resources import files
from typing import Literal

ListName = Literal["stop_words", "fixed_expressions", "no_nouns"]


@cache
def word_list(name: ListName) -> tuple[str, ...]:
    """Return the entries of a shipped list in the order of its file: lower case, single blanks between words."""
    text = files(__package__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return tuple(line for line in text.splitlines() if line and not line.startswith("#"))
