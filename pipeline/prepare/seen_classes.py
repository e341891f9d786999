"""The rule that marks a class as seen, unseen or uncertain: does COCO-Stuff, the proposal net's teacher, name it too?

The paper splits the classes of its evaluation sets by their similarity to COCO-Stuff's names (OVSeg, section 4.2) but
gives no list. The rule here; the first that applies decides:

1. the whole class name is in ``vocabularies/reviewed.tsv``, a hand-made list of names whose spelling misleads: same
   word, other meaning (the dog of a fireplace), or near meaning, other word (lamp and light);
2. one of its comma-separated names equals a COCO-Stuff name after ``vocabularies/aliases.tsv`` and normalisation, which
   drops ``-other``, ``-stuff`` and ``-merged``, case, blanks, hyphens and a plural s: seen;
3. the last word of one of its names is a COCO-Stuff name (swivel chair), or one of its names is the last word of a
   COCO-Stuff name (ball, brick): uncertain;
4. otherwise: unseen.

COCO's own vocabularies are seen by definition.
"""

import csv
import re
from collections.abc import Sequence
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_ENDINGS_WITHOUT_MEANING = re.compile(r"(-other|-stuff|-merged)+$")


class SeenMark(StrEnum):
    """Whether COCO-Stuff, on which the proposal net is trained, names a class."""

    SEEN = "seen"
    UNSEEN = "unseen"
    UNCERTAIN = "uncertain"


def mark_of(class_name: str, stuff_names: Sequence[str]) -> SeenMark:
    """Mark one class.

    Args:
        class_name: May hold several names, separated by commas.
        stuff_names: COCO-Stuff's class names.
    """
    reviewed = _table("reviewed.tsv")
    if class_name in reviewed:
        return SeenMark(reviewed[class_name])
    aliases = _table("aliases.tsv")
    names = [name.strip() for name in class_name.split(",") if name.strip()]
    known = known_forms(tuple(stuff_names))
    if any(normalised(aliases.get(name, name)) in known.whole for name in names):
        return SeenMark.SEEN
    if any(normalised(_last_word(name)) in known.whole or normalised(name) in known.last_words for name in names):
        return SeenMark.UNCERTAIN
    return SeenMark.UNSEEN


def normalised(name: str) -> str:
    """Reduce a name to what its spellings share: ``"Window-other"`` and ``"windows"`` give ``"window"``."""
    stem = _ENDINGS_WITHOUT_MEANING.sub("", name.lower().strip())
    letters = re.sub(r"[^a-z0-9]", "", stem)
    plural = letters.endswith("s") and not letters.endswith(("ss", "us"))
    return letters[:-1] if plural else letters


class KnownForms(NamedTuple):
    """COCO-Stuff's names in normal form.

    Attributes:
        whole: Each name.
        last_words: The last word of each name of several words.
    """

    whole: frozenset[str]
    last_words: frozenset[str]


@cache
def known_forms(stuff_names: tuple[str, ...]) -> KnownForms:
    """Work out the normal forms of a list of names, once."""
    stems = [_ENDINGS_WITHOUT_MEANING.sub("", name) for name in stuff_names]
    return KnownForms(
        whole=frozenset(normalised(stem) for stem in stems),
        last_words=frozenset(normalised(_last_word(stem)) for stem in stems if _last_word(stem) != stem),
    )


def _last_word(name: str) -> str:
    """Return what follows the last blank or hyphen."""
    return re.split(r"[ -]", name)[-1]


@cache
def _table(file_name: str) -> dict[str, str]:
    """Read a two-column table of the package; further columns are remarks."""
    text = files("pipeline.prepare").joinpath("vocabularies", file_name).read_text(encoding="utf-8")
    rows = csv.reader(text.splitlines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE)
    return {row[0]: row[1] for row in rows}
