"""Cut captions into words that keep their character spans, and bring plural nouns to their dictionary form."""

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from lemminflect import getLemma
from nltk.tokenize import NLTKWordTokenizer

# Both are blanked out, character by character so that spans stay true. Markup reaches captions scraped from the web;
# quotation marks are never part of a noun, and NLTK would rewrite them, after which a span could not be found again.
_MARKUP = re.compile(r"</?[A-Za-z][^<>]*>|&(?:#\d{1,7}|#x[0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_QUOTES = re.compile("[\"`“”„‟«»]|''+")
# NLTK wants one sentence at a time, captions may hold several: the full stop inside "river.A dog" and at the end of
# "plate." is cut off, as is the slash of "table/desk". Abbreviations such as "t.v." stay whole.
_GLUE = re.compile(r"(?<=[^\W\d_]{2})\.|/")
_TOKENIZER = NLTKWordTokenizer()

# Plurals without a singular for which the dictionary lists one of another meaning ("a short" is no pair of shorts).
PLURAL_ONLY = frozenset({"pants", "shears", "shorts", "sunglasses", "sweatpants", "tongs", "trousers", "underpants"})
# "90s", "glass" and "cactus" are no regular plurals.
_REGULAR_PLURAL = re.compile(r".+[^\W\d_su]s")
_LEMMA_CACHE_ENTRIES = 65_536


def word_spans(caption: str) -> list[tuple[int, int]]:
    """Cut a caption into words and punctuation marks with NLTK's word tokenizer.

    Args:
        caption: Any text: several sentences, markup and foreign scripts are fine. Quotation marks, HTML tags and HTML
            entities belong to no word.

    Returns:
        Half-open character ranges (start, end) in ``caption``, ascending, disjoint, none of them empty; an empty list
        for a caption without words.
    """
    plain = _QUOTES.sub(_blanks, _MARKUP.sub(_blanks, caption))
    spans: list[tuple[int, int]] = []
    for start, end in _TOKENIZER.span_tokenize(plain):
        token = plain[start:end]
        if end - start > 1 and ("." in token or "/" in token):
            spans.extend((start + left, start + right) for left, right in _unglued(token))
        else:
            spans.append((start, end))
    return spans


def trimmed(caption: str, start: int, end: int) -> tuple[int, int]:
    """Move the ends of a word's span inwards past punctuation, signs and blanks; an empty span may be left."""
    while start < end and _is_edge(caption[start]):
        start += 1
    while start < end and _is_edge(caption[end - 1]):
        end -= 1
    return start, end


@lru_cache(maxsize=_LEMMA_CACHE_ENTRIES)
def singular(plural: str) -> str:
    """Return the dictionary form of a plural noun.

    The form comes from the dictionary that lemminflect carries, looked up as a noun: "leaves" gives "leaf", "men"
    gives "man"; "people", "clothes" and "scissors" are dictionary forms themselves. A word that the dictionary lacks
    ("selfies", "frisbees") loses its plural s: coinages are regular, and those in -ies come from -ie.

    Args:
        plural: Lower-case word.
    """
    if plural in PLURAL_ONLY:
        return plural
    forms: tuple[str, ...] = getLemma(plural, upos="NOUN", lemmatize_oov=False)
    if not forms:
        return plural[:-1] if _REGULAR_PLURAL.fullmatch(plural) else plural
    if plural.endswith("ves"):
        # The dictionary lists the rare "a leave" before "a leaf".
        return next((form for form in forms if form.endswith(("f", "fe"))), forms[0])
    return forms[0]


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
    """Tell whether a character is punctuation, a sign, a blank or a control character; accents are none of these."""
    return unicodedata.category(character)[0] in "PSZC"
