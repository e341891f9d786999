"""What is asked of the class names that a user gives, and vocabularies with synonyms; imports nothing heavy."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

CLASSES_IN_8_BIT, CLASSES_MAX = 255, 65_535
"""Most classes that a label map can number in 8 and in 16 bits; the value above them says that nothing was found."""
OTHERS = "others"
"""Name of what takes part in the scores and is none of the classes."""
_FILE_BYTES_MAX = 16 * 2**20
_SEPARATORS = re.compile(r"[,;\n]")


def split_class_names(typed: str) -> list[str]:
    """Split what was typed at commas, semicolons and new lines into names; blanks within a name become one."""
    return [name for part in _SEPARATORS.split(typed) if (name := " ".join(part.split()))]


def checked_class_names(class_names: Sequence[str]) -> list[str]:
    """Return class names as a list, none of them twice; blank ones are left to whoever embeds them.

    Names that differ only in the blanks around them are one name, and would share one class's probability.

    Raises:
        TypeError: If it is one string, which would be taken for a list of letters, or if a name is no string.
        ValueError: If a name is there twice, or holds a lone surrogate, as a name does that was read from bytes which
            are not UTF-8.
    """
    if isinstance(class_names, str):
        raise TypeError(f"class names: found one string {class_names!r}, a list is expected; write [{class_names!r}]")
    names = list(class_names)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"class names: found {name!r} of type {type(name).__name__}, strings are expected; name it")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise ValueError(f"class names: found {name!r}, which is not valid UTF-8; write it in UTF-8")
    repeated = [(name, times) for name, times in Counter(name.strip() for name in names).items() if times > 1]
    if repeated:
        name, times = repeated[0]
        raise ValueError(f"class names: found {name!r} {times} times, each name once is expected; leave out the others")
    return names


@dataclass(frozen=True)
class Vocabulary:
    """Classes, and the words by which each is known.

    As a file, one class a line; blank lines, and what follows a ``#`` that begins a line or a word, are passed over::

        sofa | couch                # a class of two words, called by the first
        furniture: table, chair|seat  # a group: one class of all words behind the colon, which its name is not
        other: wall, floor, ceiling   # compete for pixels; what they win has no label

    A class is as likely to a mask as the best of its words: both branches' logits are taken at their highest over the
    words, before any softmax. So words of one class do not take probability from each other, a word that fits nothing
    changes nothing, and a class gains nothing by the number of its words alone, as it would by a sum.

    Attributes:
        class_names: In index order; ``"others"`` last if there are such.
        words: Of each class, at least one; no word is one of two classes.
        has_others: Whether pixels of the last class have no label.

    Raises:
        ValueError: If a class has no word, or a name or a word is there twice.
        TypeError: As `checked_class_names`.
    """

    class_names: tuple[str, ...]
    words: tuple[tuple[str, ...], ...]
    has_others: bool = False

    def __post_init__(self) -> None:
        checked_class_names(self.class_names)
        checked_class_names(self.all_words)
        for name, words in zip(self.class_names, self.words, strict=True):
            if not words or not all(word.strip() for word in words):
                raise ValueError(f"class names: found no word or a blank one for {name!r}; name it")

    @property
    def all_words(self) -> tuple[str, ...]:
        """The words of all classes, those of the first class first."""
        return tuple(word for words in self.words for word in words)

    @property
    def word_counts(self) -> tuple[int, ...]:
        """Number of words of each class."""
        return tuple(len(words) for words in self.words)

    @classmethod
    def of(cls, class_names: "ClassNames") -> "Vocabulary":
        """Take names in index order, each a class; ``"sofa|couch"`` is one of two words.

        Raises:
            ValueError: As the class, or as `checked_class_names`.
            TypeError: As `checked_class_names`.
        """
        if isinstance(class_names, Vocabulary):
            return class_names
        words = tuple(_split_words(name) if "|" in name else (name,) for name in checked_class_names(class_names))
        blank = [name for name, of in zip(class_names, words, strict=True) if "|" in name and not all(of)]
        if blank:
            raise ValueError(f"class names: found {blank[0]!r} with a blank word, words between bars are expected")
        return cls(tuple(of[0] for of in words), words)

    @classmethod
    def read(cls, path: str | Path) -> "Vocabulary":
        """Read a file.

        Raises:
            OSError: If it cannot be read.
            ValueError: If it is no text in UTF-8, or a line is not as the class describes it; with its number.
        """
        path = Path(path)
        if path.stat().st_size > _FILE_BYTES_MAX:
            raise ValueError(f"{path}: has more than {_FILE_BYTES_MAX} bytes, a list of names is expected")
        try:
            text = path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not valid UTF-8 ({error}); write it in UTF-8") from error
        return cls.parse(text, where=str(path))

    @classmethod
    def parse(cls, text: str, *, where: str = "vocabulary") -> "Vocabulary":
        """Read the text of a file; errors as `read`.

        Args:
            text: The lines.
            where: Names the file in messages.
        """
        names: list[str] = []
        words: list[tuple[str, ...]] = []
        others: tuple[str, ...] = ()
        lines: dict[str, int] = {}  # where each name and each word is
        for number, line in enumerate(text.splitlines(), start=1):
            content = " ".join(line.split(" #")[0].split())
            if not content or content.startswith("#"):
                continue
            head, colon, rest = content.partition(":")
            found = tuple(word for part in rest.split(",") for word in _split_words(part))
            if not colon:  # a class may be called by what has commas, such as "road, route"
                found = _split_words(content)
                head = found[0]
            head = head.strip()
            if not head or not all(found):
                example = "'sofa | couch', 'furniture: table, chair' or 'other: wall, floor'"
                raise ValueError(f"{where}: line {number}: found {content!r:.80}, such as {example} is expected")
            for word in found:
                if word in lines:
                    raise ValueError(
                        f"{where}: line {number}: found {word!r}, which is in line {lines[word]}, too; a word of one "
                        "class is expected, leave out the other"
                    )
                lines[word] = number
            if colon and head.lower() in ("other", OTHERS):
                others += found
                continue
            if head in names or head == OTHERS:
                raise ValueError(
                    f"{where}: line {number}: found the class {head!r}, of which there is one already or may be none; "
                    "give it another name"
                )
            names.append(head)
            words.append(found)
        if not names:
            raise ValueError(f"{where}: holds no class; write one a line, such as 'sofa | couch'")
        if others:
            return cls((*names, OTHERS), (*words, others), has_others=True)
        return cls(tuple(names), tuple(words))


ClassNames: TypeAlias = Sequence[str] | Vocabulary


def _split_words(part: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in part.split("|"))
