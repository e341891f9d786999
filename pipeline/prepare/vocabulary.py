"""Vocabularies: class names in index order, each marked as seen, unseen or uncertain with respect to COCO-Stuff.

The built-in ones are in ``vocabularies/`` as tab-separated files with the columns ``index``, ``source_id``, ``name``
and ``seen``; ``tools/make_vocabularies.py`` writes them.

The paper splits the classes of its evaluation sets by their similarity to the names of COCO-Stuff, the proposal net's
teacher (OVSeg, section 4.2), but gives no list. The rule here; the first that applies decides:

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
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_ENDINGS_WITHOUT_MEANING = re.compile(r"(-other|-stuff|-merged)+$")

VOCABULARY_NAMES = (
    "ade20k-150",
    "ade20k-847",
    "coco-panoptic-133",
    "coco-stuff-171",
    "coco-things-80",
    "pascal-context-459",
    "pascal-context-59",
    "pascal-voc-20",
    "pascal-voc-21",
)
COLUMNS = ("index", "source_id", "name", "seen")


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


def name_aliases() -> dict[str, tuple[str, ...]]:
    """Return other names of a name, from ``vocabularies/aliases.tsv``."""
    return {name: (other,) for name, other in _table("aliases.tsv").items()}


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Class names in index order, and what is known of them.

    Attributes:
        name: ``"ade20k-150"``; ``"folder"`` for a user's own list.
        class_names: One per class, without repeats; the place in the list is the index in label maps. A name may hold
            synonyms, separated by commas, which the method uses whole ("road, route").
        marks: One per class: whether COCO-Stuff names it too.
        source_ids: The value of each class in the data set's official label files; the index itself
            where the label files hold indices.

    Raises:
        ValueError: If the three lists differ in length.
    """

    name: str
    class_names: tuple[str, ...]
    marks: tuple[SeenMark, ...]
    source_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.class_names), len(self.marks), len(self.source_ids)}
        if len(lengths) > 1:
            raise ValueError(f"vocabulary {self.name}: lists of {sorted(lengths)} entries; give one entry per class.")

    @property
    def seen(self) -> tuple[bool, ...]:
        """True where COCO-Stuff names the class too: the paper's seen classes."""
        return tuple(mark is SeenMark.SEEN for mark in self.marks)

    @property
    def uncertain(self) -> tuple[bool, ...]:
        """True where the rule cannot decide; such a class counts neither as seen nor as unseen."""
        return tuple(mark is SeenMark.UNCERTAIN for mark in self.marks)

    @property
    def ignore_label(self) -> int:
        """Value of pixels without a class: 255 in 8-bit label maps, 65535 in the 16-bit ones of long vocabularies."""
        return 255 if len(self.class_names) <= 255 else 65535


@cache
def load_vocabulary(name: str) -> Vocabulary:
    """Load a built-in vocabulary.

    Args:
        name: One of ``VOCABULARY_NAMES``.

    Raises:
        ValueError: If there is no vocabulary of that name.
    """
    if name not in VOCABULARY_NAMES:
        raise ValueError(f"vocabulary: got '{name}', expected one of {', '.join(VOCABULARY_NAMES)}; correct the name.")
    text = files("pipeline.prepare").joinpath("vocabularies", f"{name}.tsv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    return Vocabulary(
        name=name,
        class_names=tuple(row["name"] for row in rows),
        marks=tuple(SeenMark(row["seen"]) for row in rows),
        source_ids=tuple(int(row["source_id"]) for row in rows),
    )


def vocabulary_of_names(name: str, class_names: Sequence[str]) -> Vocabulary:
    """Make a vocabulary of a user's own class names, marked by the same rule as the built-in ones.

    Args:
        name: What the vocabulary is called.
        class_names: In index order; the index is also the value in the label files.

    Raises:
        ValueError: If a name is empty or occurs twice, or if there are more than 65,535 names.
    """
    for index, class_name in enumerate(class_names):
        if not class_name.strip():
            raise ValueError(f"vocabulary {name}: class {index} has an empty name; name it or remove the line.")
    repeated = [class_name for class_name, count in Counter(class_names).items() if count > 1]
    if repeated:
        raise ValueError(f"vocabulary {name}: '{repeated[0]}' occurs more than once; make the names differ.")
    if len(class_names) > 65535:
        raise ValueError(
            f"vocabulary {name}: {len(class_names)} names, at most 65535 fit a 16-bit label map; drop some."
        )
    stuff_names = load_vocabulary("coco-stuff-171").class_names
    return Vocabulary(
        name=name,
        class_names=tuple(class_names),
        marks=tuple(mark_of(class_name, stuff_names) for class_name in class_names),
        source_ids=tuple(range(len(class_names))),
    )
