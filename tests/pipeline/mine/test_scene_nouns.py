"""Nouns of scenes: of the first captions, each once; or the names of the classes."""

import pickle

import numpy as np

from pipeline.mine.regions import SceneRegions
from pipeline.mine.scene_nouns import CaptionNouns, ClassNouns
from pipeline.settings import NounSettings
from storage_schemas.scenes import Caption, Scene

NO_REGIONS = SceneRegions.none("no_label", "")


def scene(*texts: str) -> Scene:
    captions = tuple(Caption(10 + number, text) for number, text in enumerate(texts))
    return Scene(key="a", image_id="1", image=b"", image_suffix="jpg", width_px=1, height_px=1, captions=captions)


def test_nouns_of_the_caption_with_the_lowest_id():
    found = CaptionNouns(NounSettings(), 1).of(scene("two dogs and a dog", "a cat"), NO_REGIONS)
    assert [tuple(noun) for noun in found.nouns] == [("dog", "dogs", 4, 8, 10, "two dogs and a dog", None)]


def test_a_noun_of_several_captions_counts_for_the_first():
    nouns = pickle.loads(pickle.dumps(CaptionNouns(NounSettings(), 5)))
    found = nouns.of(scene("a dog", "a cat and a dog", "cats"), NO_REGIONS).nouns
    assert [(noun.noun, noun.caption_id, noun.start) for noun in found] == [("dog", 10, 2), ("cat", 11, 2)]


def test_settings_decide_what_is_a_noun():
    text = "a photo of a traffic light"
    both = CaptionNouns(NounSettings(compound_nouns=True, stop_words=("photo",)), 1)
    assert [noun.noun for noun in both.of(scene(text), NO_REGIONS).nouns] == ["traffic light"]
    assert [noun.noun for noun in CaptionNouns(NounSettings(), 1).of(scene(text), NO_REGIONS).nouns] == [
        "photo",
        "traffic",
        "light",
    ]


def test_each_setting_reaches_the_nouns():
    def nouns(**settings) -> list[str]:
        found = CaptionNouns(NounSettings(**settings), 1).of(
            scene("A picture of Dogs near the side of hot dogs"), NO_REGIONS
        )
        return [noun.noun for noun in found.nouns]

    assert nouns() == ["picture", "dog", "side"]
    assert nouns(shipped_stop_words=True) == ["dog"]
    assert nouns(shipped_stop_words=True, stop_words=("dog",), fixed_expressions=True) == ["hot dog"]
    assert nouns(lemmas=False) == ["picture", "dogs", "side"]
    assert nouns(lemmas=False, lower_case=False, shipped_stop_words=True) == ["Dogs", "dogs"]


def test_no_caption_and_no_noun_have_reasons():
    nouns = CaptionNouns(NounSettings(), 1)
    assert nouns.of(scene(), NO_REGIONS).status == "no_caption"
    without = nouns.of(scene("is it?"), NO_REGIONS)
    assert (without.status, without.reason) == ("no_noun", "no noun is found in 'is it?'")


def test_class_names_come_with_their_regions():
    regions = SceneRegions(
        indices=np.array([0, 2], np.int32),
        height_px=1,
        width_px=1,
        mask_counts=(b"1", b"1"),
        areas_px=np.ones(2, np.int64),
        boxes_xyxy=np.zeros((2, 4), np.int32),
    )
    found = ClassNouns(("sky-other", "cat", "window ")).of(scene("a dog"), regions)
    assert [(noun.noun, noun.region, noun.caption_id) for noun in found.nouns] == [
        ("sky-other", 0, None),
        ("window", 2, None),
    ]
