import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mine.words import PLURAL_ONLY, singular, trimmed, word_spans


def words_of(caption: str) -> list[str]:
    return [caption[start:end] for start, end in word_spans(caption)]


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("", []),
        (" \n\t ", []),
        ("A man's hat.", ["A", "man", "'s", "hat", "."]),
        ("a dog by the river.A cat", ["a", "dog", "by", "the", "river", ".", "A", "cat"]),
        ("On the plate. The fork", ["On", "the", "plate", ".", "The", "fork"]),
        ("a table/desk", ["a", "table", "/", "desk"]),
        ("the t.v. set", ["the", "t.v.", "set"]),
        ("a t-shirt", ["a", "t-shirt"]),
        ('a "stop" sign', ["a", "stop", "sign"]),
        ("a “stop” ''sign''", ["a", "stop", "sign"]),
        ("<b class='x'>dogs</b> &amp; cats&#33;", ["dogs", "cats"]),
    ],
)
def test_words_of_captions(caption: str, words: list[str]) -> None:
    assert words_of(caption) == words


@given(st.text() | st.text(alphabet="ab .,'\"`/<>&;-\u0301İß\u2028\x1c😀", max_size=60))
def test_spans_ascend_hold_no_blank_and_miss_only_quotes_and_markup(caption: str) -> None:
    spans = word_spans(caption)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert all(start < end for start, end in spans)
    assert all(not word[0].isspace() and not word[-1].isspace() for word in words_of(caption))


@given(st.text(alphabet="abcdeXYZ .,!?-/()", max_size=80))
def test_without_quotes_and_markup_every_other_character_belongs_to_a_word(caption: str) -> None:
    assert "".join(words_of(caption)) == "".join(caption.split())


@pytest.mark.parametrize(
    ("plural", "lemma"),
    [
        ("men", "man"),
        ("leaves", "leaf"),
        ("knives", "knife"),
        ("waves", "wave"),
        ("buses", "bus"),
        ("glasses", "glass"),
        ("skies", "sky"),
        ("cookies", "cookie"),
        ("people", "people"),
        ("clothes", "clothes"),
        ("scissors", "scissors"),
        ("frisbees", "frisbee"),
        ("selfies", "selfie"),
        ("four-wheelers", "four-wheeler"),
        ("90s", "90s"),
        ("glarss", "glarss"),
        ("flarbus", "flarbus"),
        ("flarbis", "flarbi"),
        ("s", "s"),
        ("", ""),
    ],
)
def test_singular(plural: str, lemma: str) -> None:
    assert singular(plural) == lemma


@pytest.mark.parametrize("plural", sorted(PLURAL_ONLY))
def test_garments_and_tools_in_pairs_have_no_singular(plural: str) -> None:
    assert singular(plural) == plural


@pytest.mark.parametrize(
    ("text", "inside"),
    [("dog", "dog"), ("'dog'", "dog"), ("t.v.", "t.v"), ("--", ""), ("cafe\u0301", "cafe\u0301"), ("😀dog", "dog")],
)
def test_trimmed_keeps_letters_and_accents(text: str, inside: str) -> None:
    start, end = trimmed(text, 0, len(text))
    assert text[start:end] == inside
