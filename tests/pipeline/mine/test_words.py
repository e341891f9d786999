import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.mine.words import PLURAL_ONLY, cut_caption, is_blank, singular, trimmed


def words_of(caption: str) -> list[str]:
    cut = cut_caption(caption)
    return [cut.text[start:end] for start, end in cut.words]


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
        ("A\u200bdog", ["A", "dog"]),
        ("\u202ea foot\u00adball\u202c", ["a", "football"]),
        ("a\ufeff t\u2060-shirt", ["a", "t-shirt"]),
        ("a t\u2011shirt", ["a", "t-shirt"]),
        ("dogs\U0001f436\U0001f3fd\u200d\u2764\ufe0fcats", ["dogs", ";", ";", ";", "cats"]),
        ("1\ufe0f\u20e3dog", ["1", "dog"]),
        ("a heart\u2764\ufe0f", ["a", "heart", ";"]),
        ("dog|cat\\mat~hat_rack", ["dog", ";", "cat", ";", "mat", "hat", "rack"]),
        ("dog\u20142 cats\u2026mat\uff0cbed", ["dog", ";", "2", "cats", ";", "mat", ";", "bed"]),
        ("a Cola\u00ae can \u300ddog", ["a", "Cola", "can", "dog"]),
        ("a dog\x1b\x00cat\x7f", ["a", "dog", "cat"]),
        ("a dog\u3164cat\ue000mat\U0010fffe", ["a", "dog", "cat", "mat"]),
        ("A dog\u2019s bowl", ["A", "dog", "'s", "bowl"]),
        ("A dog\u02bcs bowl", ["A", "dog", "'s", "bowl"]),
        ("a dog`s bowl", ["a", "dog", "'s", "bowl"]),
        ("a dog&#39;s and a cat&rsquo;s bowl", ["a", "dog", "'s", "and", "a", "cat", "'s", "bowl"]),
        ("foot&shy;ball", ["football"]),
        ("a \u2018stop\u2019 sign", ["a", "stop", "'", "sign"]),
    ],
)
def test_words_of_captions(caption: str, words: list[str]) -> None:
    assert words_of(caption) == words


@given(st.text() | st.text(alphabet="ab .,'\"`/<>&;-\u0301İß\u2028\x1c😀", max_size=60))
def test_spans_ascend_hold_no_blank_and_miss_only_quotes_and_markup(caption: str) -> None:
    cut = cut_caption(caption)
    spans = cut.words
    in_caption = [cut.span_in_caption(*span) for span in spans]
    assert all(0 <= start < end <= len(caption) for start, end in in_caption)
    assert sorted(in_caption) == in_caption
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
        ("grasses", "grass"),
        ("skies", "sky"),
        ("cookies", "cookie"),
        ("people", "people"),
        ("clothes", "clothes"),
        ("scissors", "scissors"),
        ("frisbees", "frisbee"),
        ("selfies", "selfie"),
        ("four-wheelers", "four-wheeler"),
        ("accessories", "accessory"),
        ("cloudberries", "cloudberry"),
        ("facilities", "facility"),
        ("hoodies", "hoodie"),
        ("veggies", "veggie"),
        ("walkie-talkies", "walkie-talkie"),
        ("crouches", "crouch"),
        ("danishes", "danish"),
        ("quiches", "quiche"),
        ("sandshoes", "sandshoe"),
        ("mini-buses", "mini-bus"),
        ("glarxes", "glarx"),
        ("glarzes", "glarze"),
        ("safety-goggles", "safety-goggles"),
        ("ies", "ie"),
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
def test_garments_tools_and_some_food_have_no_singular(plural: str) -> None:
    assert singular(plural) == plural


@pytest.mark.parametrize(
    ("text", "inside"),
    [("dog", "dog"), ("'dog'", "dog"), ("t.v.", "t.v"), ("--", ""), ("cafe\u0301", "cafe\u0301"), ("😀dog", "dog")],
)
def test_trimmed_keeps_letters_and_accents(text: str, inside: str) -> None:
    start, end = trimmed(text, 0, len(text))
    assert text[start:end] == inside


@pytest.mark.parametrize(
    ("gap", "blank"),
    [
        (" ", True),
        ("", False),
        (" \t", True),
        ("\u200b", True),
        ("\u200e ", True),
        ("|", False),
        (" \U0001f436", False),
    ],
)
def test_a_gap_of_blanks_holds_nothing_that_can_be_seen(gap: str, blank: bool) -> None:
    assert is_blank(gap) == blank
