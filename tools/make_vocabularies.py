"""Write ``pipeline/prepare/vocabularies/*.tsv`` from name lists and id tables, applying the rule for seen classes.

Usage: python tools/make_vocabularies.py DIRECTORY, where DIRECTORY holds the files that
``pipeline/prepare/vocabularies/README.md`` lists. Run it again after a change of the rule, the aliases or the reviewed
names; a test fails until then.
"""

import csv
import sys
from pathlib import Path

from pipeline.prepare.vocabulary import COLUMNS, SeenMark, mark_of

TARGET = Path(__file__).parents[1] / "pipeline" / "prepare" / "vocabularies"
ONE_BASED = ("ade20k-150", "pascal-context-59", "pascal-context-459", "pascal-voc-20")


def id_table(path: Path, column: str) -> tuple[list[str], list[int]]:
    """Read names and source ids, in index order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE), key=lambda row: int(row["index"]))
    return [row["name"] for row in rows], [int(row[column]) for row in rows]


def write_vocabulary(name: str, class_names: list[str], source_ids: list[int], marks: list[SeenMark]) -> None:
    """Write one vocabulary file."""
    rows = zip(range(len(class_names)), source_ids, class_names, marks, strict=True)
    lines = ["\t".join(COLUMNS), *("\t".join(str(field) for field in row) for row in rows)]
    (TARGET / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{name}: " + ", ".join(f"{marks.count(mark)} {mark}" for mark in SeenMark))


def main(source: Path) -> None:
    """Write all vocabularies."""
    stuff_names, pixel_ids = id_table(source / "coco_stuff_171_ids.tsv", "pixel_id")
    panoptic_names, category_ids = id_table(source / "coco_panoptic_133_ids.tsv", "category_id")
    for name, class_names, source_ids in (
        ("coco-stuff-171", stuff_names, pixel_ids),
        ("coco-panoptic-133", panoptic_names, category_ids),
        ("coco-things-80", panoptic_names[:80], category_ids[:80]),
    ):
        write_vocabulary(name, class_names, source_ids, [SeenMark.SEEN] * len(class_names))
    full_names, full_ids = id_table(source / "ade20k_847_ids.tsv", "id")
    lists = {"ade20k-847": (full_names, full_ids)}
    for name in ONE_BASED:
        class_names = (source / f"{name.replace('-', '_')}.txt").read_text(encoding="utf-8").splitlines()
        lists[name] = (class_names, list(range(1, len(class_names) + 1)))
    names_20, values_20 = lists["pascal-voc-20"]
    lists["pascal-voc-21"] = (["background", *names_20], [0, *values_20])
    for name, (class_names, source_ids) in lists.items():
        write_vocabulary(name, class_names, source_ids, [mark_of(text, stuff_names) for text in class_names])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
