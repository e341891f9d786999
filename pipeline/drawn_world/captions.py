"""Captions that name what a scene shows, and things that no region shows: photo, picture, view, scene.

Every noun that a caption names is visible, its colour and size are true, and "on" is said only of a thing that stands
there. Whether a thing is old or nice is a matter of taste.
"""

from typing import NamedTuple

import numpy as np

from pipeline.drawn_world.words import (
    QUALITIES,
    TEMPLATES_FOR_ONE,
    TEMPLATES_FOR_THING_ON_STUFF,
    TEMPLATES_FOR_THREE,
    TEMPLATES_FOR_TWO,
)

MAX_CAPTIONS = 5
MIN_STUFF_SHARE = 0.08
"""Captions name a stuff noun only if it fills at least this share of the picture."""

_TEMPLATES = {1: TEMPLATES_FOR_ONE, 2: TEMPLATES_FOR_TWO, 3: TEMPLATES_FOR_THREE}
_SMALL_BELOW, _LARGE_ABOVE = 0.03, 0.10
_MASS_NOUNS = frozenset({"sky", "water", "grass", "sand", "snow"})
_NOTHING_STANDS_ON = frozenset({"sky", "wall", "brick"})


class NounSpan(NamedTuple):
    """Where a caption names a noun: ``text[start:end] == noun``."""

    noun: str
    start: int
    end: int


class DrawnCaption(NamedTuple):
    """A caption and the nouns of the scene that it names.

    Attributes:
        text: English, lower case, without a full stop.
        spans: One to three, in the order of the text; distractor nouns have none.
    """

    text: str
    spans: tuple[NounSpan, ...]


class Mention(NamedTuple):
    """What captions can say of something visible.

    Attributes:
        noun: Its noun.
        hue: Name of its colour, if it has one of its own.
        size: "small", "medium" or "large" for a thing, empty for stuff.
        stuff: For a thing the stuff that it stands on, empty for stuff.
    """

    noun: str
    hue: str | None
    size: str
    stuff: str


def size_name(share: float) -> str:
    """Name the size of a thing that fills a share of the picture."""
    if share < _SMALL_BELOW:
        return "small"
    return "large" if share > _LARGE_ABOVE else "medium"


def draw_captions(mentions: list[Mention], rng: np.random.Generator) -> tuple[DrawnCaption, ...]:
    """Draw five captions and keep those that differ.

    Args:
        mentions: All that may be named; of several with the same noun a caption names one.
        rng: Where chance comes from.
    """
    captions = [_draw_caption(mentions, rng) for _ in range(MAX_CAPTIONS)]
    return tuple({caption.text: caption for caption in captions}.values())


def _draw_caption(mentions: list[Mention], rng: np.random.Generator) -> DrawnCaption:
    """Choose one to three nouns, things before stuff, and a sentence that suits them."""
    shuffled = [mentions[place] for place in rng.permutation(len(mentions)).tolist()]
    distinct = list({mention.noun: mention for mention in shuffled}.values())
    chosen = sorted(distinct[: 1 + int(rng.integers(3))], key=lambda mention: not mention.stuff)
    templates = _TEMPLATES[len(chosen)]
    if len(chosen) == 2 and chosen[0].stuff == chosen[1].noun and chosen[1].noun not in _NOTHING_STANDS_ON:
        templates = TEMPLATES_FOR_THING_ON_STUFF
    pieces = templates[rng.integers(len(templates))].split("{}")
    text, spans = pieces[0], []
    for mention, piece in zip(chosen, pieces[1:], strict=True):
        text += _phrase(mention, rng)
        spans.append(NounSpan(mention.noun, len(text) - len(mention.noun), len(text)))  # a phrase ends in its noun
        text += piece
    return DrawnCaption(text, tuple(spans))


def _phrase(mention: Mention, rng: np.random.Generator) -> str:
    """Put an article, and now and then an adjective, before a noun; the noun comes last."""
    chance = rng.random()
    adjective = ""
    if chance < 0.20:
        adjective = mention.hue or ""
    elif chance < 0.32:
        adjective = mention.size
    elif chance < 0.40:
        adjective = QUALITIES[rng.integers(len(QUALITIES))]
    words = f"{adjective} {mention.noun}".strip()
    if mention.noun in _MASS_NOUNS or rng.random() < 0.15:
        return f"the {words}"
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"
