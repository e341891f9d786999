"""Train the tagger that the project ships, `pipeline/mine/tagger/caption_tagger.json.gz`, and state its accuracy.

Reads captions of COCO val2017, has them tagged by spaCy, adds captions of the drawn world with the tags that its
grammar gives, and trains NLTK's averaged perceptron. Needs the extra `spacy`::

    pip install -e .[spacy]
    python tools/train_tagger.py --captions ../shared/data/captions/captions_val2017_subset.tsv \
        --reference ../shared/data/captions/noun_reference_300.tsv

Every caption of an image that the reference touches is held out, and every other caption with the same text as one of
these is dropped, so the accuracy that is printed is that of the written file on captions that it never saw.
"""

import argparse
import csv
import gzip
import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from nltk.tag.perceptron import PerceptronTagger

from pipeline.drawn_world.captions import Mention, draw_captions
from pipeline.drawn_world.colours import HUES
from pipeline.drawn_world.words import DISTRACTOR_NOUNS, NOUNS, QUALITIES, SIZES
from pipeline.mine.nouns import words_to_tag
from pipeline.mine.tagger.sources import EMBEDDED_MODEL_FILE, WordTagger, load_tagger, unpacked
from pipeline.mine.words import cut_caption

MODEL_PATH = Path(__file__).parents[1] / "pipeline" / "mine" / "tagger" / EMBEDDED_MODEL_FILE
EPOCHS = 5
SEED = 0
DRAWN_CAPTIONS = 2_000
WEIGHT_STEP = 0.05
"""Weights are stored as whole multiples of this; smaller ones vanish. Only ratios of weights decide a tag."""

DRAWN_TAGS = {
    **dict.fromkeys(("a", "an", "the", "this"), "DT"),
    **dict.fromkeys(("of", "in", "on", "near", "with"), "IN"),
    "there": "EX",
    "is": "VBZ",
    "and": "CC",
    ",": ",",
    **dict.fromkeys((*HUES, *SIZES, *QUALITIES), "JJ"),
    **dict.fromkeys((*NOUNS, *DISTRACTOR_NOUNS), "NN"),
}
"""What each word of the drawn world's captions is, always."""

TaggedWords = list[tuple[str, str]]


class Caption(NamedTuple):
    """A row of the captions file."""

    image_id: str
    caption_id: str
    text: str


class Split(NamedTuple):
    """Captions to learn from and captions to measure on; no image and no text is on both sides."""

    training: list[Caption]
    held_out: list[Caption]


def main() -> None:
    """Train, write and measure the tagger."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="columns image_id, caption_id, caption")
    parser.add_argument("--reference", type=Path, required=True, help="captions of its column caption_id are held out")
    parser.add_argument("--out", type=Path, default=MODEL_PATH)
    options = parser.parse_args()

    split = split_captions(
        [Caption(row["image_id"], row["caption_id"], row["caption"]) for row in rows_of(options.captions)],
        {row["caption_id"] for row in rows_of(options.reference)},
    )
    teacher = load_tagger("spacy")
    print(f"tagging {len(split.training)} captions to train on and {len(split.held_out)} held out")
    sentences = tagged_by(teacher, split.training) + drawn_sentences(DRAWN_CAPTIONS)
    options.out.write_bytes(packed(train(sentences)))
    report(options.out, tagged_by(teacher, split.held_out))


def rows_of(path: Path) -> Iterable[dict[str, str]]:
    """Read a tab-separated file with a header line and no quoting."""
    with path.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def split_captions(captions: Sequence[Caption], reference_ids: set[str]) -> Split:
    """Hold out each caption of the images that the reference touches; drop others of the same words."""
    held_images = {caption.image_id for caption in captions if caption.caption_id in reference_ids}
    held_out = [caption for caption in captions if caption.image_id in held_images]
    held_texts = {comparable(caption.text) for caption in held_out}
    rest = (caption for caption in captions if caption.image_id not in held_images)
    return Split([caption for caption in rest if comparable(caption.text) not in held_texts], held_out)


def comparable(text: str) -> str:
    """Reduce a caption to what makes two of them equal: its letters and digits, regardless of case."""
    return "".join(filter(str.isalnum, text.casefold()))


def tagged_by(teacher: WordTagger, captions: Sequence[Caption]) -> list[TaggedWords]:
    """Cut captions into words as the noun extractor does and tag them."""
    sentences = [words_to_tag(cut_caption(caption.text)) for caption in captions]
    return [list(zip(words, tags, strict=True)) for words, tags in zip(sentences, teacher.tag(sentences), strict=True)]


def drawn_sentences(count: int) -> list[TaggedWords]:
    """Draw captions of the drawn world, with the tags that its grammar gives.

    The scenes behind them are made up: any nouns, hues and sizes.
    """
    rng = np.random.default_rng(SEED)
    sentences: list[TaggedWords] = []
    while len(sentences) < count:
        nouns = rng.choice(NOUNS, size=4, replace=False).tolist()
        mentions = [Mention(noun, str(rng.choice(HUES)), str(rng.choice(SIZES)), nouns[0]) for noun in nouns[1:]]
        for caption in draw_captions([Mention(nouns[0], None, "", ""), *mentions], rng):
            words = words_to_tag(cut_caption(caption.text))
            sentences.append([(word, DRAWN_TAGS[word]) for word in words])
    return sentences[:count]


def train(sentences: Sequence[TaggedWords]) -> PerceptronTagger:
    """Train NLTK's tagger on lower-case words, since a capital may be anywhere in a caption and means nothing.

    It shuffles between the epochs with Python's own generator, hence the seed.
    """
    random.seed(SEED)
    tagger = PerceptronTagger(load=False)
    tagger.train([[(word.lower(), tag) for word, tag in sentence] for sentence in sentences], nr_iter=EPOCHS)
    return tagger


def packed(tagger: PerceptronTagger) -> bytes:
    """Store a tagger as gzipped JSON with whole-numbered weights and sorted keys: the same tagger, the same bytes."""
    weights, tagdict, classes = tagger.encode_json_obj()
    steps = {
        feature: {tag: step for tag, weight in row.items() if (step := round(weight / WEIGHT_STEP))}
        for feature, row in weights.items()
    }
    kept = {feature: row for feature, row in steps.items() if row}
    text = json.dumps([kept, tagdict, sorted(classes)], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return gzip.compress(text.encode("utf-8"), mtime=0)


def report(path: Path, held_out: Sequence[TaggedWords]) -> None:
    """Print the size, the digest and the accuracy of a written tagger."""
    content = path.read_bytes()
    guesses = unpacked(content).tag([[word for word, _ in sentence] for sentence in held_out])
    pairs = [
        (truth, guess)
        for sentence, tags in zip(held_out, guesses, strict=True)
        for (_, truth), guess in zip(sentence, tags, strict=True)
    ]
    same_tag = sum(truth == guess for truth, guess in pairs) / len(pairs)
    same_noun = sum(truth.startswith("NN") == guess.startswith("NN") for truth, guess in pairs) / len(pairs)
    weights, tagdict, _ = json.loads(gzip.decompress(content))
    print(f"{path.name}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    print(f"{sum(map(len, weights.values()))} weights of {len(weights)} features, {len(tagdict)} words of one tag only")
    print(f"held out: {len(held_out)} captions, {len(pairs)} words")
    print(f"same tag as the teacher {same_tag:.4f}, same answer to 'is it a noun' {same_noun:.4f}")


if __name__ == "__main__":
    main()
