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

from pipeline.drawn_world.captions import DrawnCaption, Mention, draw_captions
from pipeline.drawn_world.colours import HUES
from pipeline.drawn_world.words import DISTRACTOR_NOUNS, NOUNS, SIZES, split_words
from pipeline.mine.nouns import Noun, NounExtractor
from pipeline.mine.word_lists import word_list

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
    expected = [set(row["nouns"].split()) for row in rows]
    right = sum(len(mine & theirs) for mine, theirs in zip(found, expected, strict=True))
    assert len(rows) == 300
    assert right / sum(map(len, found)) >= 0.974
    assert right / sum(map(len, expected)) >= 0.980
    assert sum(mine == theirs for mine, theirs in zip(found, expected, strict=True)) / len(rows) >= 0.85


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


_ANY_TEXT = st.text() | st.text(
    alphabet="hotdogs cat\u0301İ'\"<>&;./-|\u2019\u200b\u00ad\ufe0f\ud800一个😀", max_size=80
)


@given(_ANY_TEXT, st.booleans(), st.booleans())
def test_any_text_gives_spans_that_index_it(caption: str, compound_nouns: bool, fixed_expressions: bool) -> None:
    nouns = NounExtractor(compound_nouns=compound_nouns, fixed_expressions=fixed_expressions).extract(caption)
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


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("A\u200bdog on a mat", ["dog", "mat"]),
        ("\u202eA reversed zero\u200bwidth table", ["width", "table"]),
        ("foot\u00adball player", ["football", "player"]),
        ("two dogs\U0001f436\U0001f436 and cats\U0001f63a", ["dog", "cat"]),
        ("dog|cat|mat", ["dog", "cat", "mat"]),
        ("A dog\u2019s bowl", ["dog", "bowl"]),
    ],
)
def test_the_case_of_invisible_characters(extractor: NounExtractor, caption: str, nouns: list[str]) -> None:
    assert lemmas(extractor.extract(caption)) == nouns


def test_spans_stand_in_the_caption_also_where_characters_are_dropped(extractor: NounExtractor) -> None:
    caption = "\u202eTwo foot\u00adballs\u00ad and a dog&#39;s\u200bmat."
    assert extractor.extract(caption) == [
        Noun("football", "foot\u00adballs", 5, 15),
        Noun("dog", "dog", 23, 26),
        Noun("mat", "mat", 33, 36),
    ]


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("a man wearing glasses", ["man", "glasses"]),
        ("A woman with glasses and a red hat", ["woman", "glasses", "hat"]),
        ("a man with glasses sitting at a table", ["man", "glasses", "table"]),
        ("two glasses of wine", ["glass", "wine"]),
        ("a table with several glasses", ["table", "glass"]),
        ("plates and glasses on a table", ["plate", "glass", "table"]),
        ("glasses and cups in a sink", ["glass", "cup", "sink"]),
        ("tall wine glasses", ["wine", "glass"]),
        ("a glass on a tray", ["glass", "tray"]),
        ("a burger with fries and danishes", ["burger", "fries", "danish"]),
        ("bags and other accessories", ["bag", "accessory"]),
    ],
)
def test_glasses_and_other_plurals(extractor: NounExtractor, caption: str, nouns: list[str]) -> None:
    assert lemmas(extractor.extract(caption)) == nouns


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("a hot dog on a plate", ["hot dog", "plate"]),
        ("Two Hot Dogs and a dog", ["hot dog", "dog"]),
        ("a hot-dog and two fire-hydrants", ["hot dog", "fire hydrant"]),
        ("a hot, dog", ["dog"]),
        ("a child hugs teddy  bears", ["child", "teddy bear"]),
        ("a fire\u200bhydrant", ["fire hydrant"]),
        ("a fire|hydrant", ["fire", "hydrant"]),
        ("the remote controls of a tv", ["remote control", "tv"]),
        ("three wine glasses", ["wine glass"]),
        ("a flat screen tv stand", ["flat screen tv", "stand"]),
        ("a hot", []),
    ],
)
def test_fixed_expressions_are_one_noun(caption: str, nouns: list[str]) -> None:
    assert lemmas(NounExtractor(fixed_expressions=True).extract(caption)) == nouns


def test_fixed_expressions_are_apart_by_default_and_parts_of_compounds_if_both_are_on() -> None:
    caption = "a hot dog stand"
    assert lemmas(NounExtractor().extract(caption)) == ["dog", "stand"]
    assert NounExtractor(fixed_expressions=True, compound_nouns=True).extract(caption) == [
        Noun("hot dog stand", "hot dog stand", 2, 15)
    ]


def test_nouns_as_written() -> None:
    caption = "Dogs near a dog, a DOG and a Cafe\u0301 with hot-dogs"
    lower = NounExtractor(lemmas=False).extract(caption)
    assert lemmas(lower) == ["dogs", "dog", "caf\u00e9"]
    written = NounExtractor(lemmas=False, lower_case=False, fixed_expressions=True).extract(caption)
    assert lemmas(written) == ["Dogs", "dog", "DOG", "Caf\u00e9", "hot-dogs"]
    assert all(noun.text == caption[noun.start : noun.end] for noun in written)


def test_stop_words_are_lemmas_also_where_nouns_are_as_written() -> None:
    assert lemmas(NounExtractor(lemmas=False, stop_words=["photo"]).extract("Photos of dogs")) == ["dogs"]


def test_lemmas_keep_no_capitals() -> None:
    with pytest.raises(ValueError, match="lower_case is False, but lemmas are lower case"):
        NounExtractor(lower_case=False)


@pytest.mark.parametrize(
    ("caption", "nouns"),
    [
        ("a picture of a dog", ["dog"]),
        ("a dog and a picture", ["dog", "picture"]),
        ("pictures of dogs on a wall with a picture", ["dog", "wall", "picture"]),
        ("a dog near a picture of", ["dog"]),
    ],
)
def test_a_stop_word_may_ask_that_of_follows(caption: str, nouns: list[str]) -> None:
    assert lemmas(NounExtractor(stop_words=["picture of"]).extract(caption)) == nouns


def test_the_shipped_stop_words_leave_what_the_drawn_world_shows() -> None:
    extractor = NounExtractor(stop_words=word_list("stop_words"))
    drawn = drawn_captions(1_000)
    for caption, nouns in zip(drawn, extractor.extract_many([caption.text for caption in drawn]), strict=True):
        assert set(lemmas(nouns)) == {span.noun for span in caption.spans}, caption.text


@pytest.mark.parametrize("name", ["stop_words", "fixed_expressions", "no_nouns"])
def test_shipped_lists_hold_each_entry_once_in_lower_case_with_single_blanks(name: str) -> None:
    entries = word_list(name)
    assert len(set(entries)) == len(entries) > 50
    assert all(entry == " ".join(entry.lower().split()) for entry in entries)
    NounExtractor(stop_words=entries)


def test_shipped_stop_words_are_no_thing_of_the_drawn_world_and_expressions_have_several_words() -> None:
    assert not set(word_list("stop_words")) & set(NOUNS)
    assert all(" " in expression for expression in word_list("fixed_expressions"))
    assert {"hot dog", "teddy bear", "fire hydrant", "remote control"} <= set(word_list("fixed_expressions"))


@pytest.mark.parametrize(
    "caption", ["two", "it is otherwise thrown", "a leafy, comfy zero", "nothing worn", "\u201cS\u201d"]
)
def test_words_that_are_never_nouns(extractor: NounExtractor, caption: str) -> None:
    assert extractor.extract(caption) == []


@pytest.mark.parametrize("word", ["Photo", " photo", "", "traffic  light", "cafe\u0301"])
def test_a_stop_word_that_equals_no_lemma_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match=r"nouns: stop word '.*' can equal no lemma"):
        NounExtractor(stop_words=[word])


def test_an_unknown_tagger_is_refused() -> None:
    with pytest.raises(ValueError, match="tagger: tagger is 'brill', one of 'embedded', 'nltk', 'spacy' is expected"):
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
