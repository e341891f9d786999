"""The built-in vocabularies against the shared facts and the rule for seen classes."""

from pathlib import Path

import pytest

from pipeline.prepare.vocabulary import (
    VOCABULARY_NAMES,
    SeenMark,
    Vocabulary,
    load_vocabulary,
    mark_of,
    normalised,
    vocabulary_of_names,
)

SHARED = Path(__file__).parents[3] / ".." / "shared" / "vocabularies"
SIZES = {
    "ade20k-150": 150,
    "ade20k-847": 847,
    "coco-panoptic-133": 133,
    "coco-stuff-171": 171,
    "coco-things-80": 80,
    "pascal-context-459": 459,
    "pascal-context-59": 59,
    "pascal-voc-20": 20,
    "pascal-voc-21": 21,
}


def test_every_vocabulary_has_its_size_and_no_repeated_name_or_id():
    assert set(SIZES) == set(VOCABULARY_NAMES)
    for name, size in SIZES.items():
        vocabulary = load_vocabulary(name)
        assert len(vocabulary.class_names) == len(set(vocabulary.class_names)) == size
        assert len(set(vocabulary.source_ids)) == size
        assert vocabulary.ignore_label == (65535 if size > 255 else 255)


@pytest.mark.parametrize("name", sorted(set(SIZES) - {"coco-things-80", "pascal-voc-21"}))
def test_names_are_those_of_the_shared_lists(name):
    path = SHARED / f"{name.replace('-', '_')}.txt"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    assert list(load_vocabulary(name).class_names) == path.read_text(encoding="utf-8").splitlines()


def test_source_ids_have_the_known_ends():
    assert load_vocabulary("coco-stuff-171").source_ids[-1] == 181
    assert not {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90} & set(load_vocabulary("coco-stuff-171").source_ids)
    assert load_vocabulary("coco-panoptic-133").source_ids[-1] == 200
    assert (min(load_vocabulary("ade20k-847").source_ids), max(load_vocabulary("ade20k-847").source_ids)) == (6, 3156)
    assert load_vocabulary("pascal-context-459").class_names[430] == "unknown"
    without, with_background = load_vocabulary("pascal-voc-20"), load_vocabulary("pascal-voc-21")
    assert with_background.class_names == ("background", *without.class_names)
    assert with_background.source_ids == tuple(range(21))
    assert with_background.uncertain == (True, *without.uncertain), "background is neither seen nor unseen"
    # The COCO json id is the pixel value + 1, and the 80 things come first in all three vocabularies.
    things = load_vocabulary("coco-things-80")
    assert things.source_ids == tuple(pixel_id + 1 for pixel_id in load_vocabulary("coco-stuff-171").source_ids[:80])
    assert things.class_names == load_vocabulary("coco-stuff-171").class_names[:80]


def test_marks_are_what_the_rule_gives_today():
    stuff_names = load_vocabulary("coco-stuff-171").class_names
    for name in VOCABULARY_NAMES:
        vocabulary = load_vocabulary(name)
        if name.startswith("coco-"):
            assert set(vocabulary.marks) == {SeenMark.SEEN}
        else:
            expected = tuple(mark_of(class_name, stuff_names) for class_name in vocabulary.class_names)
            assert vocabulary.marks == expected, f"{name}: run tools/make_vocabularies.py again"


@pytest.mark.parametrize(
    ("class_name", "mark"),
    [
        ("tvmonitor", SeenMark.SEEN),
        ("pottedplant", SeenMark.SEEN),
        ("windowpane, window", SeenMark.SEEN),
        ("wall", SeenMark.SEEN),
        ("skis", SeenMark.SEEN),
        ("swivel chair", SeenMark.UNCERTAIN),
        ("ball", SeenMark.UNCERTAIN),
        ("lamp", SeenMark.UNCERTAIN),
        ("andiron, firedog, dog, dog-iron", SeenMark.UNSEEN),
        ("accordion", SeenMark.UNSEEN),
    ],
)
def test_rule_on_single_names(class_name, mark):
    assert mark_of(class_name, load_vocabulary("coco-stuff-171").class_names) is mark


def test_hand_made_tables_speak_of_names_that_exist():
    all_names = {name for vocabulary in VOCABULARY_NAMES for name in load_vocabulary(vocabulary).class_names}
    single_names = {name.strip() for class_name in all_names for name in class_name.split(",")}
    folder = Path(__file__).parents[3] / "pipeline" / "prepare" / "vocabularies"
    reviewed = [line.split("\t") for line in (folder / "reviewed.tsv").read_text().splitlines()[1:]]
    aliases = [line.split("\t") for line in (folder / "aliases.tsv").read_text().splitlines()[1:]]
    assert {row[0] for row in reviewed} <= all_names
    assert {row[0] for row in aliases} <= single_names
    assert {row[1] for row in aliases} <= set(load_vocabulary("coco-stuff-171").class_names)


def test_normal_form_keeps_words_apart_that_only_end_alike():
    assert normalised("Window-other") == normalised("windows") == "window"
    assert normalised("glass") == "glass"
    assert normalised("bus") == "bus"


def test_unknown_vocabulary_is_an_error():
    with pytest.raises(ValueError, match="got 'ade20k', expected one of ade20k-150"):
        load_vocabulary("ade20k")


def test_own_names_are_marked_by_the_same_rule():
    vocabulary = vocabulary_of_names("folder", ["sky", "oculus", "pole"])
    assert vocabulary.seen == (True, False, False)
    assert vocabulary.uncertain == (False, False, False)
    assert vocabulary.source_ids == (0, 1, 2)
    assert vocabulary_of_names("folder", []).class_names == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["sky", " "], "class 1 has an empty name"),
        (["sky", "road", "sky"], "'sky' occurs more than once"),
        ([str(number) for number in range(65536)], "65536 names, at most 65535"),
    ],
)
def test_unusable_name_lists_are_errors(names, message):
    with pytest.raises(ValueError, match=message):
        vocabulary_of_names("folder", names)


def test_lists_of_different_length_are_an_error():
    with pytest.raises(ValueError, match=r"lists of \[0, 1\] entries"):
        Vocabulary(name="x", class_names=("a",), marks=(SeenMark.SEEN,), source_ids=())
