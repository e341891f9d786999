"""What the page says of what a segmenter can name."""

import pytest

from flows.photo_app.limits import hint_of, limits_of, unread_words
from ovseg_models.segmenter import Segmenter
from tests.tiny_segmenter import tiny_segmenter


@pytest.fixture(scope="module")
def segmenter():
    return tiny_segmenter()


def test_a_model_of_few_words_lists_them(segmenter):
    limits = limits_of(segmenter)
    assert limits.words == ("boat", "cat", "dog", "grass", "others", "sky")
    assert "knows 6 words" in limits.summary


def test_names_are_checked_before_they_are_asked_for(segmenter):
    assert hint_of(segmenter, ("cat", "Sky")) == ""
    hint = hint_of(segmenter, ("cat", "excavator", "striped dog", "猫"))
    assert "does not know: excavator, 猫." in hint
    assert "in part: striped dog (without striped)." in hint
    many = hint_of(segmenter, tuple(f"thing{index}" for index in range(300)))
    assert "thing7 and 292 more" in many
    assert len(many) < 200
    assert unread_words(segmenter, "a striped cat") == ["striped"]


@pytest.mark.parametrize(("layout", "trained_with"), [("ovseg", "COCO-Stuff"), ("maskformer", "MaskFormer"), ("", "")])
def test_a_model_that_reads_any_word_says_what_it_was_trained_with(layout, trained_with):
    segmenter = tiny_segmenter()
    segmenter.tokenizer = None
    segmenter.published_layout = layout
    limits = limits_of(segmenter)
    assert trained_with in limits.summary
    assert "any word" in limits.summary
    assert limits.words == ()
    assert hint_of(segmenter, ("excavator",)) == ""


def test_a_segmenter_of_ones_own_is_no_published_one(segmenter, tmp_path):
    segmenter.save(tmp_path / "own")
    assert Segmenter.load(tmp_path / "own", device="cpu").published_layout == ""
