"""The words of the drawn world: its 54 nouns in label order, which are unseen, and all words of its captions."""

import re

from pipeline.drawn_world.colours import HUES
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS

NOUNS = (*STUFF_NOUNS, *THING_NOUNS)
"""Stuff, then things: a noun's place is its label."""

LABELS = {noun: label for label, noun in enumerate(NOUNS)}

UNSEEN_NOUNS = frozenset({*THING_NOUNS[1::2], "field", "carpet", "rock"})
"""Captions name them, but no label of theirs may train the proposal net."""

IGNORE_LABEL = 255
"""Never drawn: every pixel of the drawn world has a class."""

DISTRACTOR_NOUNS = ("photo", "picture", "view", "scene")
"""Nouns of captions that name no region; "picture" is also a thing."""

SIZES = ("small", "medium", "large")
QUALITIES = ("old", "nice")

# {} takes a noun with its article.
TEMPLATES_FOR_ONE = (
    "{}",
    "a photo of {}",
    "a picture of {}",
    "a nice view of {}",
    "this is a photo of {}",
    "there is {} in the scene",
    "a photo of {} in the scene",
)
TEMPLATES_FOR_TWO = (
    "{} and {}",
    "{} near {}",
    "{} with {}",
    "a photo of {} and {}",
    "a view of {} with {}",
    "there is {} and {}",
)
TEMPLATES_FOR_THREE = (
    "{}, {} and {}",
    "{} and {} near {}",
    "a photo of {}, {} and {}",
    "there is {} and {} near {}",
)
TEMPLATES_FOR_THING_ON_STUFF = ("{} on {}", "a photo of {} on {}", "there is {} on {}", "a view of {} on {}")

PROMPT_TEMPLATES = (
    "a photo of a {}",
    "this is a photo of a {}",
    "there is a {} in the scene",
    "there is the {} in the scene",
    "a photo of a small {}",
    "a photo of a medium {}",
    "a photo of a large {}",
)
"""For class names in zero-shot classification; {} takes a bare noun."""

MAX_CAPTION_WORDS = 14
"""Commas counted; with a start and an end token a caption fits 16 tokens."""

_WORD = re.compile(r"[a-z]+|,")


def split_words(text: str) -> list[str]:
    """Split a text as a word tokenizer does: lower case, commas are words, other punctuation is dropped."""
    return _WORD.findall(text.lower())


_TEMPLATES = (
    *TEMPLATES_FOR_ONE,
    *TEMPLATES_FOR_TWO,
    *TEMPLATES_FOR_THREE,
    *TEMPLATES_FOR_THING_ON_STUFF,
    *PROMPT_TEMPLATES,
)

WORDS = tuple(
    sorted({*split_words(" ".join(_TEMPLATES)), "a", "an", "the", *SIZES, *QUALITIES, *HUES, *NOUNS, *DISTRACTOR_NOUNS})
)
"""Every word that a caption or a prompt can hold, sorted: the word list of the small CLIP's tokenizer."""
