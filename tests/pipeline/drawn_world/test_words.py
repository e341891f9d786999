import pytest

from pipeline.drawn_world.colours import HUES
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import (
    DISTRACTOR_NOUNS,
    IGNORE_LABEL,
    LABELS,
    MAX_CAPTION_WORDS,
    NOUNS,
    PROMPT_TEMPLATES,
    UNSEEN_NOUNS,
    WORDS,
    split_words,
)
from pipeline.prepare.drawn_world import drawn_vocabulary


def test_labels_are_the_places_in_the_list_of_54_nouns_stuff_first():
    assert len(NOUNS) == 54
    assert NOUNS[:12] == STUFF_NOUNS
    assert NOUNS[12:] == THING_NOUNS
    assert [LABELS[noun] for noun in NOUNS] == list(range(54))
    assert IGNORE_LABEL not in LABELS.values()


def test_24_nouns_are_unseen():
    assert len(UNSEEN_NOUNS) == 24
    assert {noun for noun in STUFF_NOUNS if noun in UNSEEN_NOUNS} == {"field", "carpet", "rock"}
    assert [noun in UNSEEN_NOUNS for noun in THING_NOUNS] == [False, True] * 21


def test_vocabulary_marks_the_unseen_nouns():
    vocabulary = drawn_vocabulary()
    assert vocabulary.class_names == NOUNS
    assert vocabulary.seen == tuple(noun not in UNSEEN_NOUNS for noun in NOUNS)
    assert not any(vocabulary.uncertain)
    assert vocabulary.ignore_label == IGNORE_LABEL


def test_word_list_is_sorted_and_holds_nouns_hues_and_distractors():
    assert list(WORDS) == sorted(set(WORDS))
    assert {*NOUNS, *HUES, *DISTRACTOR_NOUNS, ","} <= set(WORDS)
    assert 75 <= len(WORDS) <= 85


@pytest.mark.parametrize("template", PROMPT_TEMPLATES)
def test_prompts_fit_the_word_list_and_the_context(template):
    for noun in NOUNS:
        words = split_words(template.format(noun))
        assert set(words) <= set(WORDS)
        assert len(words) <= MAX_CAPTION_WORDS


@pytest.mark.parametrize("size", ["small ", "medium ", "large ", ""])
@pytest.mark.parametrize(
    "sentence", ["a photo of a {}{}.", "This is a photo of a {}{}.", "There is a {}{} in the scene."]
)
def test_the_templates_of_the_published_models_fit_the_word_list_too(sentence, size):
    assert set(split_words(sentence.format(size, "boat"))) <= set(WORDS)


def test_splitting_lowers_case_keeps_commas_and_drops_full_stops():
    assert split_words("A boat, a duck.") == ["a", "boat", ",", "a", "duck"]
