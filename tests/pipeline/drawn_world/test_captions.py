import re

import numpy as np
import pytest

from pipeline.drawn_world.captions import MAX_CAPTIONS, MIN_STUFF_SHARE, Mention, draw_captions, size_name
from pipeline.drawn_world.scene import MIN_VISIBLE_SHARE
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import DISTRACTOR_NOUNS, LABELS, MAX_CAPTION_WORDS, NOUNS, WORDS, split_words
from pipeline.drawn_world.world import DrawnWorld


@pytest.fixture(scope="module")
def scenes():
    return [DrawnWorld(2).scene(index) for index in range(400)]


def test_captions_name_one_to_three_nouns_where_they_say(scenes):
    for scene in scenes:
        assert 1 <= len(scene.captions) <= MAX_CAPTIONS
        assert len({caption.text for caption in scene.captions}) == len(scene.captions)
        for caption in scene.captions:
            assert 1 <= len(caption.spans) <= 3
            assert len({span.noun for span in caption.spans}) == len(caption.spans)
            assert all(caption.text[span.start : span.end] == span.noun for span in caption.spans)
            ends = [place for span in caption.spans for place in (span.start, span.end)]
            assert ends == sorted(ends)


def test_captions_have_no_other_noun_than_those_and_distractors(scenes):
    for caption in (caption for scene in scenes for caption in scene.captions):
        named = [span.noun for span in caption.spans]
        found = [word for word in split_words(caption.text) if word in LABELS]
        for noun in named:
            found.remove(noun)
        assert set(found) <= set(DISTRACTOR_NOUNS)


def test_every_noun_of_a_caption_is_visible(scenes):
    for scene in scenes:
        shares = np.bincount(scene.label_map.ravel(), minlength=len(NOUNS)) / scene.label_map.size
        for span in (span for caption in scene.captions for span in caption.spans):
            expected = MIN_STUFF_SHARE if span.noun in STUFF_NOUNS else MIN_VISIBLE_SHARE
            assert shares[LABELS[span.noun]] >= expected


def test_every_thing_and_every_large_stuff_is_named_by_some_caption_of_some_scene(scenes):
    named = {span.noun for scene in scenes for caption in scene.captions for span in caption.spans}
    assert named == set(NOUNS)


def test_sizes_hues_and_standing_are_true(scenes):
    phrase = re.compile(rf"\b(\w+) ({'|'.join(THING_NOUNS)})\b")
    seen = set()
    for scene in scenes:
        for caption in scene.captions:
            for word, noun in phrase.findall(caption.text):
                ours = [thing for thing in scene.things if thing.noun == noun]
                sizes = {size_name(thing.visible_px / scene.label_map.size) for thing in ours}
                hues = {thing.hue for thing in ours}
                if word in {"small", "medium", "large"}:
                    assert word in sizes
                    seen.add("size")
                if word in {"red", "orange", "yellow", "green", "blue", "purple"}:
                    assert word in hues
                    seen.add("hue")
            if " on " in caption.text:
                thing, stuff = (span.noun for span in caption.spans)
                assert stuff in {ours.stuff for ours in scene.things if ours.noun == thing}
                seen.add("on")
    assert seen == {"size", "hue", "on"}


def test_captions_use_the_word_list_and_fit_the_context(scenes):
    captions = [split_words(caption.text) for scene in scenes for caption in scene.captions]
    assert {word for words in captions for word in words} <= set(WORDS)
    assert max(len(words) for words in captions) <= MAX_CAPTION_WORDS


def test_articles_agree(scenes):
    for caption in (caption for scene in scenes for caption in scene.captions):
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", caption.text)
        assert not re.search(r"\ba (sky|water|grass|sand|snow)\b", caption.text)


def test_a_scene_of_one_noun_has_short_captions_that_differ():
    captions = draw_captions([Mention("sun", None, "small", "sky")], np.random.default_rng(0))
    assert all([span.noun for span in caption.spans] == ["sun"] for caption in captions)
    assert len({caption.text for caption in captions}) == len(captions)


def test_of_several_things_with_one_noun_a_caption_names_one():
    mentions = [Mention("ball", "red", "small", "sand"), Mention("ball", "blue", "large", "sand")]
    for seed in range(20):
        for caption in draw_captions(mentions, np.random.default_rng(seed)):
            assert [span.noun for span in caption.spans] == ["ball"]


@pytest.mark.parametrize(("share", "name"), [(0.01, "small"), (0.03, "medium"), (0.10, "medium"), (0.2, "large")])
def test_size_names(share, name):
    assert size_name(share) == name
