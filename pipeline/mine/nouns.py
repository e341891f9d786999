"""Find the nouns of captions: lower-case lemmas with the character spans where they stand (OVSeg, section 3.2).

The paper takes all nouns of a caption "with an off-the-shelf language parser" and says no more. Here a noun is a word
that a tagger (`pipeline.mine.tagger.sources`) calls a common or proper noun, in its dictionary form unless settings
want it as written.
"""

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from lemminflect import getInflection

from pipeline.mine.tagger.sources import TaggerName, load_tagger
from pipeline.mine.word_lists import word_list
from pipeline.mine.words import CutCaption, cut_caption, is_blank, singular, trimmed

_NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
_PLURAL_TAGS = frozenset({"NNS", "NNPS"})

# "Glasses" are worn unless a caption counts, fills or sets them: "two glasses of wine", "plates and glasses".
_BEFORE_VESSELS = frozenset(
    {
        *("two", "three", "four", "five", "six", "several", "many", "multiple", "few", "couple", "dozen", "both"),
        *("wine", "beer", "water", "champagne", "cocktail", "martini", "milk", "juice", "shot", "drink", "drinking"),
        *("empty", "full", "filled", "half-full", "clear", "tall", "stemmed", "crystal", "plastic", "pint", "pouring"),
    }
)
_TABLEWARE = frozenset(
    {
        *("bottle", "bottles", "bowl", "bowls", "cup", "cups", "dish", "dishes", "fork", "forks", "knife", "knives"),
        *("mug", "mugs", "napkins", "pitcher", "plate", "plates", "silverware", "spoons", "utensils", "wine"),
    }
)


class Noun(NamedTuple):
    """A noun of a caption.

    Attributes:
        lemma: What the noun is called: its lower-case dictionary form, or the word as written where settings want that;
            in Unicode's composed form (NFC) and without invisible characters. The words of a compound are parted by
            one blank each and only the last one is brought to the singular ("sports balls" gives "sports ball").
        text: The noun as the caption has it: ``caption[start:end]``.
        start: First character in the caption.
        end: One past the last character in the caption.
    """

    lemma: str
    text: str
    start: int
    end: int


class _Unit(NamedTuple):
    """A word that the tagger calls a noun, or a fixed expression: a range of the text, its lemma, its last word."""

    start: int
    end: int
    lemma: str
    last_word: int


class _Expression(NamedTuple):
    """A fixed expression: its words as captions may have them, and its lemma."""

    words: tuple[str, ...]
    lemma: str


class NounExtractor:
    """Finds the nouns of captions; the same caption gives the same nouns in any process and any batch.

    It pickles to its settings alone: a worker that receives one loads the tagger when it first needs it.

    Args:
        tagger: Which tagger finds nouns.
        compound_nouns: True joins nouns with only blanks between them into one: "a red traffic light" then holds
            "traffic light", neither "traffic" nor "light". False is the paper's way.
        fixed_expressions: True keeps the expressions of the shipped list together, whatever the tagger says of their
            words: "a hot dog" then holds "hot dog", not "dog".
        stop_words: Lemmas that are left out, such as photo, view, top, side. Compared with the finished lemma, also
            where nouns are given as written, so "top" does not touch the compound "table top". "picture of" leaves
            out "picture" where "of" follows. Empty in the paper's configuration.
        lemmas: False gives words as written: "dogs" and "dog" are two nouns.
        lower_case: False keeps capitals, too; only where ``lemmas`` is False.

    Raises:
        ValueError: If no tagger has this name, if a stop word is not written as a lemma is, or if lemmas should keep
            capitals.
        TaggerMissingError: If what the tagger needs is not installed.
    """

    def __init__(
        self,
        *,
        tagger: TaggerName = "embedded",
        compound_nouns: bool = False,
        fixed_expressions: bool = False,
        stop_words: Collection[str] = (),
        lemmas: bool = True,
        lower_case: bool = True,
    ) -> None:
        for word in sorted(stop_words):
            if word != _normal_form(word.lower()) or not word:
                raise ValueError(
                    f"nouns: stop word {word!r} can equal no lemma, {_normal_form(word.lower())!r} would; "
                    "write stop words in lower case with single blanks between words."
                )
        if lemmas and not lower_case:
            raise ValueError("nouns: lower_case is False, but lemmas are lower case; set lemmas to False, too.")
        load_tagger(tagger)
        self._tagger: TaggerName = tagger
        self._compound_nouns = compound_nouns
        self._fixed_expressions = fixed_expressions
        self._stop_words = frozenset(stop_words)
        self._stopped_before_of = frozenset(word[: -len(" of")] for word in stop_words if word.endswith(" of"))
        self._lemmas = lemmas
        self._lower_case = lower_case

    def extract(self, caption: str) -> list[Noun]:
        """Return the nouns of one caption; see `extract_many`."""
        return self.extract_many([caption])[0]

    def extract_many(self, captions: Sequence[str]) -> list[list[Noun]]:
        """Return the nouns of each caption.

        Args:
            captions: Any text. Empty, foreign or malformed text is no error, it just has few nouns or none.

        Returns:
            Per caption its nouns in the order of the text, each ``lemma`` once, at its first occurrence.
        """
        cut = [cut_caption(caption) for caption in captions]
        tags = load_tagger(self._tagger).tag([words_to_tag(of_one) for of_one in cut])
        return [self._nouns(*parts) for parts in zip(captions, cut, tags, strict=True)]

    def _nouns(self, caption: str, cut: CutCaption, tags: list[str]) -> list[Noun]:
        """Turn the tagged words of one caption into nouns, each once."""
        found: dict[str, Noun] = {}
        units = self._units_with_expressions(caption, cut, tags) if self._fixed_expressions else _units(cut, tags)
        for run in self._runs(caption, cut, units):
            lemma = run[-1].lemma
            if len(run) > 1:  # of a compound the last word alone is inflected: "sports balls" is a "sports ball"
                before = [_normal_form(cut.text[unit.start : unit.end].lower()) for unit in run[:-1]]
                lemma = " ".join([*before, lemma])
            if lemma in self._stop_words:
                continue
            if lemma in self._stopped_before_of and run[-1].last_word + 1 < len(cut.words):
                next_start, next_end = cut.words[run[-1].last_word + 1]
                if cut.text[next_start:next_end].lower() == "of":
                    continue
            name = lemma
            if not self._lemmas:
                written = cut.text[run[0].start : run[-1].end]
                name = _normal_form(written.lower() if self._lower_case else written)
            if name not in found:
                start, end = cut.span_in_caption(run[0].start, run[-1].end)
                found[name] = Noun(name, caption[start:end], start, end)
        return list(found.values())

    def _units_with_expressions(self, caption: str, cut: CutCaption, tags: list[str]) -> Iterator[_Unit]:
        """Yield the nouns of one caption, in the place of some the expressions that hold them."""
        expressions = _expressions_by_first_word()
        words = [cut.text[start:end].lower() for start, end in cut.words]
        nouns = {unit.last_word: unit for unit in _units(cut, tags)}
        place = 0
        while place < len(words):
            for expression in expressions.get(words[place].partition("-")[0], ()):
                if words[place] == "-".join(expression.words):  # "hot-dogs" is one word
                    last = place
                else:
                    last = place + len(expression.words) - 1
                    if tuple(words[place : last + 1]) != expression.words:
                        continue
                gaps = (
                    caption[cut.span_in_caption(*cut.words[left])[1] : cut.span_in_caption(*cut.words[left + 1])[0]]
                    for left in range(place, last)
                )
                if all(map(is_blank, gaps)):
                    yield _Unit(cut.words[place][0], cut.words[last][1], expression.lemma, last)
                    place = last + 1
                    break
            else:
                if place in nouns:
                    yield nouns[place]
                place += 1

    def _runs(self, caption: str, cut: CutCaption, units: Iterator[_Unit]) -> Iterator[list[_Unit]]:
        """Group what makes one noun: each unit alone, or those with only blanks between them."""
        if not self._compound_nouns:
            yield from ([unit] for unit in units)
            return
        run: list[_Unit] = []
        for unit in units:
            if run:
                gap_start, gap_end = (
                    cut.span_in_caption(run[-1].start, run[-1].end)[1],
                    cut.span_in_caption(unit.start, unit.end)[0],
                )
                if not is_blank(caption[gap_start:gap_end]):
                    yield run
                    run = []
            run.append(unit)
        if run:
            yield run


def words_to_tag(cut: CutCaption) -> list[str]:
    """Return the words of a caption; those of one in title case or capitals become lower case.

    Taggers read a capital as a sign of a name, which it is not where most words have one.
    """
    words = [cut.text[start:end] for start, end in cut.words]
    if ";" in cut.text:  # signs are read as semicolons; taggers have seen more commas
        words = ["," if word == ";" else word for word in words]
    lettered = [word for word in words if word[0].isalpha()]
    if 2 * sum(word[0].isupper() for word in lettered) > len(lettered):
        return [word.lower() for word in words]
    return words


def _units(cut: CutCaption, tags: list[str]) -> Iterator[_Unit]:
    """Yield the words with a noun's tag, without punctuation at their ends; single Latin letters are none."""
    no_nouns = _no_nouns()
    for place, tag in enumerate(tags):
        if tag not in _NOUN_TAGS:
            continue
        start, end = trimmed(cut.text, *cut.words[place])
        word = cut.text[start:end]
        lower = word.lower()
        if not any(map(str.isalpha, word)) or lower in no_nouns or (len(word) == 1 and word.isascii()):
            continue
        lemma = _normal_form(lower)
        if tag in _PLURAL_TAGS:
            lemma = "glass" if lower == "glasses" and _are_vessels(cut, place) else singular(lemma)
        yield _Unit(start, end, lemma, place)


@cache
def _no_nouns() -> frozenset[str]:
    return frozenset(word_list("no_nouns"))


def _are_vessels(cut: CutCaption, place: int) -> bool:
    """Return whether the words around "glasses" say that one drinks from them."""
    first = max(0, place - 2)
    around = [cut.text[start:end].lower() for start, end in cut.words[first : place + 3]]
    before, after = around[: place - first], around[place - first + 1 :]
    if after[:1] == ["of"] or (before and before[-1] in _BEFORE_VESSELS):
        return True
    joined = [*before[:1]] if before[1:] == ["and"] else []
    joined += after[1:] if after[:1] == ["and"] else []
    return not _TABLEWARE.isdisjoint(joined)


@cache
def _expressions_by_first_word() -> Mapping[str, Sequence[_Expression]]:
    """Return the shipped expressions, in the singular and in the plural, by their first word, the longest first."""
    found: dict[str, list[_Expression]] = {}
    for lemma in word_list("fixed_expressions"):
        *before, last = lemma.split()
        for form in {last, *getInflection(last, tag="NNS")}:
            found.setdefault((before or [form])[0], []).append(_Expression((*before, form), lemma))
    return {first: sorted(of_one, key=lambda one: (-len(one.words), one)) for first, of_one in found.items()}


def _normal_form(text: str) -> str:
    """Return a text in Unicode's composed form, with single blanks between its words."""
    return " ".join(unicodedata.normalize("NFC", text).split())
