"""Cut captions into words that keep their character spans, and bring plural nouns to their dictionary form."""

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from lemminflect import getLemma
from nltk.tokenize import NLTKWordTokenizer

# Markup reaches captions scraped from the web. It is blanked out, character by character so that spans stay true.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
# Quotation marks are never part of a noun, and NLTK would rewrite them, after which a span could not be found again.
_QUOTES = re.compile("[\"`]|''+")
_APOSTROPHES = "\u2019\u02bc\uff07"
# These are apostrophes where they stand between letters, and opening quotation marks elsewhere.
_APOSTROPHE_WITHIN = re.compile("(?<=[^\\W\\d_])[\u2018\u00b4`](?=[^\\W\\d_])")
_READ_AS_MARKS = "|\\=+"
_READ_AS_BLANKS = "~^*_\u00a9\u00ae\u2122\u00b0\u115f\u1160\u3164\uffa0"  # the last four: Hangul's fillers
_WORD_JOINER = "\u2060"
# NLTK wants one sentence at a time, captions may hold several: the full stop inside "river.A dog" and at the end of
# "plate." is cut off, as is the slash of "table/desk". Abbreviations such as "t.v." stay whole.
_GLUE = re.compile(r"(?<=[^\W\d_]{2})\.|/")
_TOKENIZER = NLTKWordTokenizer()

# Plurals without a singular for which the dictionary lists one of another meaning ("a short" is no pair of shorts, "a
# grocery" a shop), or which a regular rule would cut.
PLURAL_ONLY = frozenset(
    {
        *("bellbottoms", "briefs", "capris", "chinos", "eyeglasses", "fatigues", "glasses", "khakis", "knickers"),
        *("leggings", "long-johns", "overalls", "panties", "pants", "shorts", "slacks", "spectacles", "sunglasses"),
        *("sweatpants", "swimtrunks", "tights", "trousers", "underpants", "goggles", "jeans", "binoculars"),
        *("bleachers", "blinds", "groceries", "fries", "shears", "surroundings", "tongs"),
    }
)
# Nouns in -ie that the dictionary lacks; of other unknown plurals in -ies the singular ends in -y.
_IE_NOUNS = frozenset(
    {
        *("auntie", "barbie", "bestie", "birdie", "bowtie", "cabbie", "crappie", "cutie", "dearie", "doggie", "foodie"),
        *("freebie", "girlie", "goalie", "goodie", "hoagie", "homie", "hoodie", "hottie", "kiddie", "magpie", "meanie"),
        *("newbie", "nightie", "oldie", "onesie", "potpie", "quickie", "roadie", "rookie", "selfie", "smoothie"),
        *("stogie", "sweetie", "talkie", "townie", "undie", "veggie", "wheelie", "yuppie", "zombie", "bikie", "hogtie"),
    }
)
_SHORTEST_PART = 5
# "90s", "glass" and "cactus" are no regular plurals.
_REGULAR_PLURAL = re.compile(r".+[^\W\d_su]s")
_LEMMA_CACHE_ENTRIES = 65_536


class _ReadAs(dict[int, str | None]):
    """What each character is read as, for `str.translate`: itself, a blank, another one, or None for nothing."""

    def __missing__(self, code: int) -> str | None:
        read = self[code] = _read_as(chr(code))
        return read


def _read_as(character: str) -> str | None:
    category = unicodedata.category(character)
    # The zero width space ends a word. Other format characters (soft hyphens, joiners, marks of direction) and the
    # variation selectors of emoji lie within words and change nothing.
    if character == "\u200b":
        return " "
    if category == "Cf" or character == "\u034f" or "\ufe00" <= character <= "\ufe0f":
        return None
    if "\U000e0100" <= character <= "\U000e01ef":
        return None
    if character in _APOSTROPHES:
        return "'"
    if character in "\u2010\u2011":
        return "-"
    # Control characters part words as blanks do, and so do characters that this Python's Unicode does not know.
    if character in _READ_AS_BLANKS or category[0] == "C" or category == "Me":
        return " "
    # Emoji, bullets, dashes and signs part more than that: a semicolon, which NLTK always cuts off, keeps for the
    # tagger that "dog|cat|mat" is a list. Of ASCII's punctuation NLTK knows the rest; quotation marks are blanks.
    if character in _READ_AS_MARKS or (not character.isascii() and (category[0] == "S" or category in {"Pd", "Po"})):
        return ";"
    return character if character.isascii() or category[0] != "P" else " "


_READ_AS = _ReadAs()


class CutCaption(NamedTuple):
    """A caption as it is read.

    Attributes:
        text: The caption without invisible characters; emoji and signs that part words are ``;``,
            every apostrophe is ``'``.
        words: Half-open character ranges (start, end) of words and punctuation marks in ``text``, ascending, disjoint,
            none of them empty.
        places: Where each character of ``text`` stands in the caption; None if each stands at its own place.
    """

    text: str
    words: list[tuple[int, int]]
    places: Sequence[int] | None

    def span_in_caption(self, start: int, end: int) -> tuple[int, int]:
        """Return where a non-empty range of ``text`` stands in the caption."""
        return (start, end) if self.places is None else (self.places[start], self.places[end - 1] + 1)


def cut_caption(caption: str) -> CutCaption:
    """Cut a caption into words and punctuation marks with NLTK's word tokenizer.

    Args:
        caption: Any text: several sentences, markup, emoji and foreign scripts are fine. Quotation marks, HTML tags and
            HTML entities belong to no word, but for the entities of apostrophes and of format characters.
    """
    plain = _MARKUP.sub(_unmarked, caption)
    if "`" in plain or not plain.isascii():
        plain = _APOSTROPHE_WITHIN.sub("'", plain)
    text = plain.translate(_READ_AS)
    places = None
    if len(text) < len(plain):
        places = [place for place, character in enumerate(plain) if _READ_AS[ord(character)] is not None]
    text = _QUOTES.sub(_blanks, text)
    words: list[tuple[int, int]] = []
    for start, end in _TOKENIZER.span_tokenize(text):
        token = text[start:end]
        if end - start > 1 and ("." in token or "/" in token):
            words.extend((start + left, start + right) for left, right in _unglued(token))
        else:
            words.append((start, end))
    return CutCaption(text, words, places)


def is_blank(gap: str) -> bool:
    """Return whether nothing but blanks and invisible characters stands between two words of a caption.

    Args:
        gap: As the caption has it.
    """
    if gap in {" ", ""}:
        return gap == " "
    return all(character.isspace() or unicodedata.category(character) == "Cf" for character in gap)


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Move the ends of a word's span inwards past punctuation, signs and blanks; an empty span may be left."""
    while start < end and _is_edge(text[start]):
        start += 1
    while start < end and _is_edge(text[end - 1]):
        end -= 1
    return start, end


@lru_cache(maxsize=_LEMMA_CACHE_ENTRIES)
def singular(plural: str) -> str:
    """Return the dictionary form of a plural noun.

    The form comes from the dictionary that lemminflect carries, looked up as a noun: "leaves" gives "leaf", "men"
    gives "man"; "people", "clothes" and "scissors" are dictionary forms themselves. A word that the dictionary lacks
    is judged by a known plural that it ends in ("sandshoes"), else by its ending: "accessories" gives "accessory",
    "danishes" gives "danish", "frisbees" gives "frisbee".

    Args:
        plural: Lower-case word.
    """
    if plural in PLURAL_ONLY:
        return plural
    known = _known_singular(plural)
    if known:
        return known
    # Of a word with hyphens the last part is inflected, of a compound its second half.
    for start in (plural.rfind("-") + 1, *range(1, len(plural) - _SHORTEST_PART + 1)):
        if start > 0 and (part := plural[start:]) in PLURAL_ONLY:
            return plural
        if start > 0 and (known := _known_singular(part)):
            return plural[:start] + known
    if plural.endswith("ies") and len(plural) > 4:
        return plural[:-1] if plural[plural.rfind("-") + 1 : -1] in _IE_NOUNS else f"{plural[:-3]}y"
    if plural.endswith(("shes", "ches", "xes", "sses", "zzes", "tzes")):
        return plural[:-2]
    return plural[:-1] if _REGULAR_PLURAL.fullmatch(plural) else plural


def _known_singular(plural: str) -> str | None:
    """Look a plural up in lemminflect's dictionary; None if it is not there."""
    forms: tuple[str, ...] = getLemma(plural, upos="NOUN", lemmatize_oov=False)
    if plural.endswith("ves"):
        # The dictionary lists the rare "a leave" before "a leaf".
        return next((form for form in forms if form.endswith(("f", "fe"))), forms[0] if forms else None)
    return forms[0] if forms else None


def _unmarked(match: re.Match[str]) -> str:
    """Replace markup by as many characters: blanks, or an apostrophe and characters that are read as nothing."""
    markup = match.group()
    character = html.unescape(markup) if markup[0] == "&" else " "
    if len(character) != 1:
        return " " * len(markup)
    read = "'" if character == "\u2018" else _READ_AS[ord(character)]
    if read is None or read == "'":
        return (read or "").ljust(len(markup), _WORD_JOINER)
    return " " * len(markup)


def _blanks(match: re.Match[str]) -> str:
    """Replace a match by as many blanks."""
    return " " * len(match.group())


def _unglued(token: str) -> Iterator[tuple[int, int]]:
    """Cut a token at inner full stops and slashes, which become words of their own."""
    done = 0
    for mark in _GLUE.finditer(token):
        if mark.start() > done:
            yield done, mark.start()
        yield mark.span()
        done = mark.end()
    if done < len(token):
        yield done, len(token)


def _is_edge(character: str) -> bool:
    """Return whether a character is punctuation, a sign, a blank or a control character; accents are none of these."""
    return unicodedata.category(character)[0] in "PSZC"
