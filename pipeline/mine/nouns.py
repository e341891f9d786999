"""Find the nouns of captions: lower-case lemmas with the character spans where they stand (OVSeg, section 3.2).

The paper takes all nouns of a caption "with an off-the-shelf language parser" and says no more. Here a noun is a word
that a tagger (`pipeline.mine.tagger.sources`) calls a common or proper noun, in its dictionary form.
"""

import unicodedata
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

from pipeline.mine.tagger.sources import TaggerName, load_tagger
from pipeline.mine.words import singular, trimmed, word_spans

INDEFINITE_PRONOUNS = frozenset(
    {
        *("anybody", "everybody", "nobody", "somebody"),
        *("anyone", "everyone", "none", "someone"),
        *("anything", "everything", "nothing", "something"),
    }
)
"""The Penn Treebank tags these pronouns as nouns; they name nothing that could be seen."""

_NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
_PLURAL_TAGS = frozenset({"NNS", "NNPS"})


class Noun(NamedTuple):
    """A noun of a caption.

    Attributes:
        lemma: Lower-case dictionary form, in Unicode's composed form (NFC); the words of a compound are parted by one
            blank each and only the last one is brought to the singular ("sports balls" gives "sports ball").
        text: The noun as written: ``caption[start:end]``.
        start: First character in the caption.
        end: One past the last character in the caption.
    """

    lemma: str
    text: str
    start: int
    end: int


class _TaggedNoun(NamedTuple):
    """A single word that the tagger calls a noun."""

    start: int
    end: int
    is_plural: bool


class NounExtractor:
    """Finds the nouns of captions; the same caption gives the same nouns in any process and any batch.

    It pickles to its settings alone: a worker that receives one loads the tagger when it first needs it.

    Args:
        tagger: Which tagger tells nouns from other words.
        compound_nouns: True joins nouns with only blanks between them into one: "a red traffic light" then holds
            "traffic light", neither "traffic" nor "light". False is the paper's way.
        stop_words: Lemmas that are left out, such as photo, picture, view, top, side. Compared with the finished
            lemma, so "top" does not touch the compound "table top". Empty in the paper's configuration.

    Raises:
        ValueError: If no tagger has this name, or if a stop word is not written as a lemma is.
        TaggerMissingError: If what the tagger needs is not installed.
    """

    def __init__(
        self, *, tagger: TaggerName = "embedded", compound_nouns: bool = False, stop_words: Collection[str] = ()
    ) -> None:
        for word in sorted(stop_words):
            if word != _normal_form(word) or not word:
                raise ValueError(
                    f"nouns: stop word {word!r} can equal no lemma, {_normal_form(word)!r} would; "
                    "write stop words in lower case with single blanks between words."
                )
        load_tagger(tagger)
        self._tagger: TaggerName = tagger
        self._compound_nouns = compound_nouns
        self._stop_words = frozenset(stop_words)

    def extract(self, caption: str) -> list[Noun]:
        """Return the nouns of one caption; see `extract_many`."""
        return self.extract_many([caption])[0]

    def extract_many(self, captions: Sequence[str]) -> list[list[Noun]]:
        """Return the nouns of each caption.

        Args:
            captions: Any text. Empty, foreign or malformed text is no error, it just has few nouns or none.

        Returns:
            Per caption its nouns in the order of the text, each lemma once, at its first occurrence.
        """
        spans = [word_spans(caption) for caption in captions]
        sentences = [words_to_tag(caption, words) for caption, words in zip(captions, spans, strict=True)]
        tags = load_tagger(self._tagger).tag(sentences)
        return [self._nouns(*parts) for parts in zip(captions, spans, tags, strict=True)]

    def _nouns(self, caption: str, spans: list[tuple[int, int]], tags: list[str]) -> list[Noun]:
        """Turn the tagged words of one caption into nouns, each lemma once."""
        found: dict[str, Noun] = {}
        for run in self._runs(caption, list(_tagged_nouns(caption, spans, tags))):
            start, end = run[0].start, run[-1].end
            lemma = _lemma(caption, run)
            if lemma not in found and lemma not in self._stop_words:
                found[lemma] = Noun(lemma, caption[start:end], start, end)
        return list(found.values())

    def _runs(self, caption: str, nouns: list[_TaggedNoun]) -> Iterator[list[_TaggedNoun]]:
        """Group the words that make one noun: each alone, or those with only blanks between them."""
        run: list[_TaggedNoun] = []
        for noun in nouns:
            if run and not (self._compound_nouns and caption[run[-1].end : noun.start].isspace()):
                yield run
                run = []
            run.append(noun)
        if run:
            yield run


def words_to_tag(caption: str, spans: list[tuple[int, int]]) -> list[str]:
    """Cut out the words; those of a caption in title case or capitals become lower case.

    Taggers read a capital as a sign of a name, which it is not where most words have one.
    """
    words = [caption[start:end] for start, end in spans]
    lettered = [word for word in words if word[0].isalpha()]
    if 2 * sum(word[0].isupper() for word in lettered) > len(lettered):
        return [word.lower() for word in words]
    return words


def _tagged_nouns(caption: str, spans: list[tuple[int, int]], tags: list[str]) -> Iterator[_TaggedNoun]:
    """Pick the words with a noun's tag that hold a letter and are no pronoun, without punctuation at their ends."""
    for (word_start, word_end), tag in zip(spans, tags, strict=True):
        if tag not in _NOUN_TAGS:
            continue
        start, end = trimmed(caption, word_start, word_end)
        word = caption[start:end]
        if any(map(str.isalpha, word)) and word.lower() not in INDEFINITE_PRONOUNS:
            yield _TaggedNoun(start, end, tag in _PLURAL_TAGS)


def _lemma(caption: str, run: list[_TaggedNoun]) -> str:
    """Return the lemma of one noun of one or several words."""
    words = [_normal_form(caption[noun.start : noun.end]) for noun in run]
    if run[-1].is_plural:
        words[-1] = singular(words[-1])
    return " ".join(words)


def _normal_form(text: str) -> str:
    """Return a text in lower case and Unicode's composed form, with single blanks between its words."""
    return " ".join(unicodedata.normalize("NFC", text.lower()).split())
