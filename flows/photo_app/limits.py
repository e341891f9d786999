"""What a segmenter can and cannot name, in words for the page, before a question and beside its answer."""

from typing import NamedTuple

from ovseg_models.segmenter import Segmenter
from ovseg_models.word_tokenizer import split_words

_NOT_KNOWN_SHOWN = 8
_ANY_WORD = "It reads any word, but it names well only what its training named."
_TRAINED_WITH = {
    "ovseg": "These are published weights of OVSeg. The net that finds masks was trained with the 171 classes of "
    "COCO-Stuff; its CLIP learned from pictures and texts of the web, and was then adapted to masks with nouns of "
    "COCO's captions. Photographs of everyday scenes are what it knows; drawings, maps, microscope and X-ray pictures "
    "are not.",
    "maskformer": "The net that finds masks has published weights of MaskFormer, trained with the classes of one data "
    "set; its CLIP alone names the masks.",
}


class Limits(NamedTuple):
    """What is said of a segmenter.

    Attributes:
        summary: One sentence or two.
        words: All words that it knows; empty if it reads any word.
    """

    summary: str
    words: tuple[str, ...]


def limits_of(segmenter: Segmenter) -> Limits:
    """Return what a segmenter can name."""
    if segmenter.tokenizer is None:
        trained = _TRAINED_WITH.get(segmenter.published_layout, "Its folder does not say what it was trained with.")
        return Limits(f"{trained} {_ANY_WORD}", ())
    around = {word for template in segmenter.settings.prompt_templates for word in split_words(template)}
    words = tuple(sorted(set(segmenter.tokenizer.words) - around))
    return Limits(f"This model knows {len(words)} words and no others; a name without one of them is refused.", words)


def unread_words(segmenter: Segmenter, name: str) -> list[str]:
    """Return the words of a name that the segmenter does not know and leaves out; none if it reads any word."""
    if segmenter.tokenizer is None:
        return []
    return [word for word in split_words(name) if word not in segmenter.tokenizer.words]


def hint_of(segmenter: Segmenter, names: tuple[str, ...]) -> str:
    """Return what to know of names before they are asked for; empty if there is nothing."""
    not_known = [name for name in names if _is_refused(segmenter, name)]
    parts = [
        f"{name} (without {', '.join(unread)})"
        for name in names
        if name not in not_known and (unread := unread_words(segmenter, name))
    ]
    hints = []
    if not_known:
        hints.append(f"This model does not know: {_some(not_known)}.")
    if parts:
        hints.append(f"It reads in part: {_some(parts)}.")
    return " ".join(hints)


def _is_refused(segmenter: Segmenter, name: str) -> bool:
    """Return whether CLIP knows no word of a name."""
    try:
        segmenter.check_names([name])
    except ValueError:
        return True
    return False


def _some(texts: list[str]) -> str:
    """Return the first of many texts, and how many there are beside these."""
    more = len(texts) - _NOT_KNOWN_SHOWN
    return ", ".join(texts[:_NOT_KNOWN_SHOWN]) + (f" and {more} more" if more > 0 else "")
