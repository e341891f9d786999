"""Words to tokens, and that open_clip pools a text at its end."""

import open_clip
import pytest
import torch

from ovseg_models.word_tokenizer import WordTokenizer

WORDS = ["a", "photo", "of", "cat", "dog"]


def test_known_words_become_their_tokens_between_start_and_end():
    tokens = WordTokenizer(WORDS, 8)(["A photo-of a CAT!", "dog"])
    assert tokens.tolist() == [[6, 1, 2, 3, 1, 4, 7, 0], [6, 5, 7, 0, 0, 0, 0, 0]]


def test_unknown_words_and_empty_texts_leave_start_and_end():
    assert WordTokenizer(WORDS, 4)(["ukulele", ""]).tolist() == [[6, 7, 0, 0]] * 2


def test_a_long_text_keeps_its_end():
    assert WordTokenizer(WORDS, 4)("cat cat cat cat").tolist() == [[6, 4, 4, 7]]


def test_one_text_and_another_length():
    assert WordTokenizer(WORDS, 4)("dog", context_length=3).tolist() == [[6, 5, 7]]


def test_the_end_is_the_largest_token_and_open_clip_pools_there():
    tokenizer = WordTokenizer(WORDS, 8)
    torch.manual_seed(0)
    clip = open_clip.CLIP(
        embed_dim=8,
        vision_cfg={"image_size": 16, "patch_size": 8, "width": 8, "layers": 1, "head_width": 4},
        text_cfg={"context_length": 8, "vocab_size": tokenizer.vocab_size, "width": 8, "heads": 2, "layers": 1},
    ).eval()
    tokens = tokenizer(["cat", "cat"])
    tokens[1, 3:] = 1  # what follows the end is not seen
    first, second = clip.encode_text(tokens)
    assert torch.equal(first, second)


@pytest.mark.parametrize("word", ["Cat", "two words", "semi-detached", "", "a_b"])
def test_a_word_that_never_matches_is_refused(word):
    with pytest.raises(ValueError, match="can never match"):
        WordTokenizer([word], 8)


def test_a_repeated_word_is_refused():
    with pytest.raises(ValueError, match=r"\['cat'\] occur more than once"):
        WordTokenizer(["cat", "dog", "cat"], 8)


def test_too_short_a_context_is_refused():
    with pytest.raises(ValueError, match="context_length is 2"):
        WordTokenizer(WORDS, 2)


def test_names_without_a_known_word_are_refused_with_the_words_that_are_known():
    tokenizer = WordTokenizer(["a", "photo", "of", "red", "boat"], 8)
    for names in (["excavator"], ["boat", "the digger"], ["a photo"], ["!"]):
        with pytest.raises(ValueError, match=r"knows no word of .*it knows boat, red; "):
            tokenizer.check_names(names, no_names=["a", "photo", "of"])


def test_names_known_in_part_and_names_that_become_the_same_are_reported():
    tokenizer = WordTokenizer(["a", "red", "boat"], 8)
    assert tokenizer.check_names(["boat", "Red boat", "a boat"]) == ""
    warning = tokenizer.check_names(["red excavator", "red digger", "boat"])
    assert "'red excavator' without excavator; 'red digger' without digger" in warning
    assert "'red excavator' = 'red digger'" in warning
    assert "cannot" not in tokenizer.check_names(["fast boat", "red"])
