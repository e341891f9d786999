"""Vocabularies: class names in index order, each marked as seen, unseen or uncertain with respect to COCO-Stuff.

The built-in ones lie in ``vocabularies/`` as tab-separated files with the columns ``index``, ``source_id``, ``name``
and ``seen``; ``tools/make_vocabularies.py`` writes them.
"""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from pipeline.prepare.seen_classes import SeenMark, mark_of

VOCABULARY_NAMES = (
    "ade20k-150",
    "ade20k-847",
    "coco-panoptic-133",
    "coco-stuff-171",
    "coco-things-80",
    "pascal-context-459",
    "pascal-context-59",
    "pascal-voc-20",
)
COLUMNS = ("index", "source_id", "name", "seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """Class names in index order, and what is known of them.

    Attributes:
        name: ``"ade20k-150"``; ``"folder"`` for a user's own list.
        class_names: One per class, without repeats; the place in the list is the index in label maps. A name may hold
            synonyms, separated by commas, which the method uses whole ("road, route").
        marks: One per class: whether COCO-Stuff names it too.
        source_ids: The value that stands for each class in the data set's official label files; the index itself
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
        """True where the rule cannot tell; such a class counts neither as seen nor as unseen."""
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
        class_names: In index order; each name stands for its own index in the label files.

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
