"""Whether a caption speaks of several things: a noun in the plural, or one that is counted."""

import re
import unicodedata

from pipeline.mine.words import PLURAL_ONLY, singular

_COUNTED = frozenset(
    {
        *("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "dozen"),
        *("dozens", "hundreds", "thousands", "several", "many", "multiple", "numerous", "various", "few", "couple"),
        *("pair", "trio", "group", "bunch", "herd", "flock", "crowd", "pile", "row", "rows", "stack", "set", "lots"),
        *("both", "all", "assorted"),
    }
)
_ALWAYS_SEVERAL = frozenset({"people", "cattle", "livestock", "children", "men", "women", "folks"})
# A word before the noun at which the words end that belong to it: "two dogs near a cat" counts no cat.
_ENDS = frozenset(
    {
        *("a", "an", "the", "his", "her", "their", "its", "this", "that", "and", "or", "with", "near", "on", "in"),
        *("at", "by", "beside", "behind", "under", "over", "from", "to", "next", "for", "is", "are", "has", "have"),
    }
)
_WORDS_BEFORE = 4
_WORD = re.compile(r"[^\W_]+|[^\w\s]")


def is_plural_or_counted(caption: str, start: int | None, text: str, lemma: str | None = None) -> bool:
    """Return whether a noun is in the plural, or a number or a word such as "several" or "group of" goes before it.

    A thing that has no singular ("glasses", "jeans") counts as one, unless it is counted otherwise than by "pair".

    Args:
        start: First character of the noun in the caption; None if that is unknown.
        text: The noun as the caption has it.
        lemma: The same in the singular, where a tagger has said so; None to look it up.
    """
    written = unicodedata.normalize("NFC", text.lower()).split() or [""]
    last = written[-1]
    one = singular(last) if lemma is None else (lemma.split() or [""])[-1]
    if last in _ALWAYS_SEVERAL or one != last:
        return True
    before = _WORD.findall(caption[: start or 0].lower())[-_WORDS_BEFORE:]
    while before:
        word = before.pop()
        # "a pile of red apples" counts apples, "two plates of food" no food
        if word in _ENDS or not word[0].isalnum() or (word == "of" and before and before[-1] not in _COUNTED):
            return False
        if word in _COUNTED:
            return not (word == "pair" and last in PLURAL_ONLY)
        if word.isdecimal():
            return int(word) > 1
    return False
