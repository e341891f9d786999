"""Captions per second of the noun extractor, and where the time goes: ``python -m tests.benchmarks.bench_nouns``.

Uses COCO's captions where ``../shared`` has them, else captions of the drawn world (shorter, hence quicker).
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.drawn_world.captions import Mention, draw_captions
from pipeline.drawn_world.words import NOUNS
from pipeline.mine.nouns import NounExtractor, words_to_tag
from pipeline.mine.tagger.sources import load_tagger
from pipeline.mine.words import cut_caption

COCO = Path(__file__).parents[2] / ".." / "shared" / "data" / "captions" / "captions_val2017_subset.tsv"
CAPTIONS, REPEATS = 4_000, 3


def drawn_captions() -> list[str]:
    rng = np.random.default_rng(0)
    captions: list[str] = []
    while len(captions) < CAPTIONS:
        mentions = [Mention(noun, "red", "small", "") for noun in rng.choice(NOUNS, size=4, replace=False).tolist()]
        captions.extend(caption.text for caption in draw_captions(mentions, rng))
    return captions[:CAPTIONS]


def load_captions() -> list[str]:
    if not COCO.exists():
        return drawn_captions()
    with COCO.open(encoding="utf-8") as lines:
        return [line.rstrip("\n").split("\t")[2] for line in itertools.islice(lines, 1, 1 + CAPTIONS)]


def main() -> None:
    captions = load_captions()
    extractor = NounExtractor()
    sentences = [words_to_tag(cut_caption(caption)) for caption in captions]
    parts: dict[str, Callable[[], object]] = {
        "tokenize": lambda: [cut_caption(caption) for caption in captions],
        "tag": lambda: load_tagger("embedded").tag(sentences),
        "extract_many": lambda: extractor.extract_many(captions),
        "extract, one by one": lambda: [extractor.extract(caption) for caption in captions],
    }
    best = dict.fromkeys(parts, float("inf"))
    for _, (name, work) in itertools.product(range(REPEATS), parts.items()):
        begun = time.perf_counter()
        work()
        best[name] = min(best[name], time.perf_counter() - begun)
    for name, seconds in best.items():
        print(
            f"{name:20} {len(captions) / seconds:8.0f} captions/s {seconds / best['extract_many']:6.2f} of extract_many"
        )
    nouns = sum(map(len, extractor.extract_many(captions)))
    print(f"{len(captions)} captions, {nouns / len(captions):.3f} nouns each (the paper: 3.74 pairs per image)")


if __name__ == "__main__":
    main()
