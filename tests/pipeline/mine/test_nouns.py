import csv
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mine.nouns import Noun, NounExtractor
from pipeline.prepare.drawn_world.captions import DrawnCaption, Mention, draw_captions
from pipeline.prepare.drawn_world.colours import HUES
from pipeline.prepare.drawn_world.words import DISTRACTOR_NOUNS, NOUNS, SIZES, split_words

REFERENCE = Path(__file__).parents[3] / ".." / "shared" / "data" / "captions" / "noun_reference_300.tsv"


@pytest.fixture(scope="module")
def extractor() -> NounExtractor:
    return NounExtractor()


def lemmas(nouns: list[Noun]) -> list[str]:
    return [noun.lemma for noun in nouns]


def reference_rows() -> list[dict[str, str]]:
    if not REFERENCE.exists():
        pytest.skip(f"{REFERENCE} is absent")
    with REFERENCE.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def test_precision_and_recall_against_the_reference(extractor: NounExtractor) -> None:
    rows = reference_rows()
    found = [set(lemmas(nouns)) for nouns in extractor.extract_many([row["caption"] for row in rows])]
    wanted = [set(row["nouns"].split()) for row in rows]
    right = sum(len(mine & theirs) for mine, theirs in zip(found, wanted, strict=True))
    assert len(rows) == 300
    assert right / sum(map(len, found)) >= 0.96
    assert right / sum(map(len, wanted)) >= 0.97
    assert sum(mine == theirs for mine, theirs in zip(found, wanted, strict=True)) / len(rows) >= 0.85


def drawn_captions(count: int) -> list[DrawnCaption]:
    rng = np.random.default_rng(20_001)  # not the seed of the tagger's training text
    captions: dict[str, DrawnCaption] = {}
    while len(captions) < count:
        names = rng.choice(NOUNS, size=4, replace=False).tolist()
        mentions = [Mention(name, str(rng.choice(HUES)), str(rng.choice(SIZES)), names[0]) for name in names[1:]]
        drawn = draw_captions([Mention(names[0], None, "", ""), *mentions], rng)
        captions.update((caption.text, caption) for caption in drawn)
    return list(captions.values())


def test_exact_on_captions_of_the_drawn_world(extractor: NounExtractor) -> None:
    drawn = drawn_captions(6_000)
    for caption, nouns in zip(drawn, extractor.extract_many([caption.text for caption in drawn]), strict=True):
        true_nouns = [word for word in split_words(caption.text) if word in {*NOUNS, *DISTRACTOR_NOUNS}]
        assert lemmas(nouns) == list(dict.fromkeys(true_nouns)), caption.text
        spans = {(noun.lemma, noun.start, noun.end) for noun in nouns}
        # "a picture of a picture": a repeated noun stands where it was read first.
        assert {span for span in caption.spans if true_nouns.count(span.noun) == 1} <= spans, caption.text


def test_each_drawn_noun_alone(extractor: NounExtractor) -> None:
    for noun in NOUNS:
        assert lemmas(extractor.extract(f"there is a medium {noun} in the scene")) == [noun, "scene"]


def test_nouns_of_a_caption(extractor: NounExtractor) -> None:
    assert extractor.extract("Two Dogs chase a dog's red ball.") == [
        Noun("dog", "Dogs", 4, 8),
        Noun("ball", "ball", 27, 31),
    ]


@pytest.mark.parametrize("caption", ["A MAN RIDING A BIG WAVE", "A Man Riding A Big Wave", "a man riding a big wave"])
def test_titles_and_capitals_have_the_nouns_of_plain_text(extractor: NounExtractor, caption: str) -> None:
    assert lemmas(extractor.extract(caption)) == ["man", "wave"]


def test_indefinite_pronouns_are_no_nouns(extractor: NounExtractor) -> None:
    assert lemmas(extractor.extract("Someone is eating something next to a dog.")) == ["dog"]


def test_composed_and_decomposed_accents_give_one_lemma(extractor: NounExtractor) -> None:
    composed, decomposed = extractor.extract("a caf\u00e9")[0], extractor.extract("a cafe\u0301")[0]
    assert composed.lemma == decomposed.lemma == "caf\u00e9"
    assert decomposed.text == "cafe\u0301"


@pytest.mark.parametrize("caption", ["", "  \n", "!!! ... --", "\ud800", "12 34", "<br/>", "&amp;"])
def test_captions_without_a_noun(extractor: NounExtractor, caption: str) -> None:
    assert extractor.extract(caption) == []


def test_markup_belongs_to_no_noun(extractor: NounExtractor) -> None:
    assert lemmas(extractor.extract("<b>Two dogs</b> &amp; a <i>cat</i>")) == ["dog", "cat"]


def test_a_very_long_caption(extractor: NounExtractor) -> None:
    nouns = extractor.extract("A man rides a wave. " * 5_000)
    assert [(noun.lemma, noun.start) for noun in nouns] == [("man", 2), ("wave", 14)]


_ANY_TEXT = st.text() | st.text(alphabet="dogs cat\u0301İ'\"<>&;./-\ud800一个😀", max_size=80)


@given(_ANY_TEXT, st.booleans())
def test_any_text_gives_spans_that_index_it(caption: str, compound_nouns: bool) -> None:
    nouns = NounExtractor(compound_nouns=compound_nouns).extract(caption)
    assert all(noun.text == caption[noun.start : noun.end] and noun.text for noun in nouns)
    assert all(noun.lemma and noun.lemma == " ".join(noun.lemma.lower().split()) for noun in nouns)
    assert len(set(lemmas(nouns))) == len(nouns)
    assert [noun.start for noun in nouns] == sorted(noun.start for noun in nouns)


@given(st.lists(_ANY_TEXT | st.sampled_from(["a man on a horse", "two kites", ""]), max_size=5))
def test_many_captions_equal_one_at_a_time(captions: list[str]) -> None:
    extractor = NounExtractor()
    assert extractor.extract_many(captions) == [extractor.extract(caption) for caption in captions]


def test_compound_nouns_are_joined_over_blanks_only() -> None:
    extractor = NounExtractor(compound_nouns=True)
    caption = "A red traffic  light, two fire hydrants and a dog's tennis balls."
    assert extractor.extract(caption) == [
        Noun("traffic light", "traffic  light", 6, 20),
        Noun("fire hydrant", "fire hydrants", 26, 39),
        Noun("dog", "dog", 46, 49),
        Noun("tennis ball", "tennis balls", 52, 64),
    ]


def test_compound_nouns_are_apart_by_default(extractor: NounExtractor) -> None:
    assert lemmas(extractor.extract("A red traffic light")) == ["traffic", "light"]


def test_stop_words_leave_out_finished_lemmas() -> None:
    caption = "A photo of photos on a table top"
    assert lemmas(NounExtractor(stop_words=["photo", "top"]).extract(caption)) == ["table"]
    kept = NounExtractor(stop_words=["photo", "top"], compound_nouns=True).extract(caption)
    assert lemmas(kept) == ["table top"]


@pytest.mark.parametrize(
    ("caption", "place"),
    [
        ("a dog in front of a house", "front"),
        ("a boat at the side of a river", "side"),
        ("a cat on top of a car", "top"),
        ("the view of a town", "view"),
        ("men in the back of trucks", "back"),
        ("a vase in the middle of a table", "middle"),
        ("a cow at the bottom of a hill", "bottom"),
        ("lamps in the corners of a room", "corner"),
        ("a tree in the center of a field", "center"),
        ("mountains in the background", "background"),
    ],
)
def test_words_of_place_are_nouns_that_a_stop_list_leaves_out(
    extractor: NounExtractor, caption: str, place: str
) -> None:
    found = lemmas(extractor.extract(caption))
    assert place in found
    left = lemmas(NounExtractor(stop_words=[place]).extract(caption))
    assert left == [lemma for lemma in found if lemma != place]
    assert left


@pytest.mark.parametrize("word", ["Photo", " photo", "", "traffic  light", "cafe\u0301"])
def test_a_stop_word_that_equals_no_lemma_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"nouns: stop word '.*' can equal no lemma"):
        NounExtractor(stop_words=[word])


def test_an_unknown_tagger_is_refused() -> None:
    with pytest.raises(ValueError, match="nouns: tagger is 'brill', one of 'embedded', 'nltk', 'spacy' is wanted"):
        NounExtractor(tagger="brill")  # type: ignore[arg-type]


def test_pickles_without_the_weights() -> None:
    extractor = NounExtractor(compound_nouns=True, stop_words=["view"])
    packed = pickle.dumps(extractor)
    assert len(packed) < 1_000
    caption = "a view of traffic lights"
    assert pickle.loads(packed).extract(caption) == extractor.extract(caption) != []


def test_another_process_finds_the_same_nouns(extractor: NounExtractor) -> None:
    captions = [caption.text for caption in drawn_captions(60)] + [
        "Kids flying kites near Furnace St",
        "ein Hund läuft",
    ]
    program = (
        "import json, sys; from pipeline.mine.nouns import NounExtractor; "
        "print(json.dumps(NounExtractor().extract_many(json.load(sys.stdin))))"
    )
    for seed in ("1", "2"):
        answer = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(captions),
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[3],
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = [[Noun(*noun) for noun in nouns] for nouns in json.loads(answer.stdout)]
        assert theirs == extractor.extract_many(captions)
