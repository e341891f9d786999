"""Measure the noun extractor on captions of COCO val2017: the figures of `pipeline/mine/tagger/README.md`.

python tools/measure_nouns.py --captions ../shared/data/captions/captions_val2017_subset.tsv \
    --reference ../shared/data/captions/noun_reference_300.tsv --tagger embedded
"""

import argparse
import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from pipeline.mine.nouns import NounExtractor
from pipeline.mine.tagger.sources import TaggerName

PAPER_PAIRS_PER_IMAGE = 3.74
"""OVSeg, table 2: 442,117 pairs of 118,287 images with one caption each."""

IMAGES = (12, 1000, 4000)
"""For how many images the different nouns are counted."""


def main() -> None:
    """Print how well the nouns agree with the reference, and how many there are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="its column caption is read")
    parser.add_argument("--reference", type=Path, required=True, help="columns caption and nouns")
    parser.add_argument("--tagger", choices=get_args(TaggerName), default="embedded")
    parser.add_argument("--form", choices=("lemmas", "lower-case", "as-written"), default="lemmas")
    options = parser.parse_args()

    extractor = NounExtractor(
        tagger=options.tagger, lemmas=options.form == "lemmas", lower_case=options.form != "as-written"
    )
    if options.form == "lemmas":
        reference = rows_of(options.reference)
        expected = [set(row["nouns"].split()) for row in reference]
        print_agreement(lemmas_of(extractor, [row["caption"] for row in reference]), expected)
    captions = rows_of(options.captions)
    lemmas = lemmas_of(extractor, [row["caption"] for row in captions])
    print_counts(lemmas)
    print_vocabularies([row["image_id"] for row in captions], lemmas)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read a tab-separated file with a header line and no quoting."""
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def lemmas_of(extractor: NounExtractor, captions: Sequence[str]) -> list[set[str]]:
    """Return the noun lemmas of each caption."""
    return [{noun.lemma for noun in nouns} for nouns in extractor.extract_many(captions)]


def print_agreement(found: Sequence[set[str]], expected: Sequence[set[str]]) -> None:
    """Print micro precision and recall over the lemmas of all captions, and the share of captions without a fault."""
    pairs = list(zip(found, expected, strict=True))
    right = sum(len(mine & theirs) for mine, theirs in pairs)
    exact = sum(mine == theirs for mine, theirs in pairs) / len(pairs)
    precision, recall = right / sum(map(len, found)), right / sum(map(len, expected))
    print(
        f"{len(pairs)} reference captions: precision {precision:.4f}, recall {recall:.4f}, exact captions {exact:.4f}"
    )


def print_counts(found: Sequence[set[str]]) -> None:
    """Print how many nouns captions have."""
    counts = Counter(lemma for lemmas in found for lemma in lemmas)
    mean = counts.total() / len(found)
    print(f"{len(found)} captions: {mean:.3f} nouns each (the paper: {PAPER_PAIRS_PER_IMAGE} pairs per image)")
    print(f"{sum(not lemmas for lemmas in found)} captions without a noun, {len(counts)} distinct lemmas")


def print_vocabularies(image_ids: Sequence[str], found: Sequence[set[str]]) -> None:
    """Print how many different nouns the first images have, with one caption of each and with five."""
    of_image: dict[str, list[set[str]]] = {}
    for image_id, lemmas in zip(image_ids, found, strict=True):
        of_image.setdefault(image_id, []).append(lemmas)
    for count in IMAGES:
        captions = list(of_image.values())[:count]
        one, five = ({lemma for some in captions for lemmas in some[:most] for lemma in lemmas} for most in (1, 5))
        print(f"{len(captions)} images: {len(one)} different nouns of one caption each, {len(five)} of five")


if __name__ == "__main__":
    main()
