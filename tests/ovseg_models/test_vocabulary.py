"""Vocabularies with synonyms, groups and others: the file, and what the words do."""

import numpy as np
import pytest
import torch

from ovseg_models import Vocabulary
from ovseg_models.fusion import best_of_words
from tests.tiny_segmenter import CLASS_NAMES, picture, tiny_segmenter

FILE = """\
# living room
sofa | couch            # the first is its name
road, route

furniture: table, chair | seat
other: wall, floor
others: sky
"""


def test_a_file_is_read():
    vocabulary = Vocabulary.parse(FILE)
    assert vocabulary.class_names == ("sofa", "road, route", "furniture", "others")
    assert vocabulary.words == (
        ("sofa", "couch"),
        ("road, route",),
        ("table", "chair", "seat"),
        ("wall", "floor", "sky"),
    )
    assert vocabulary.has_others
    assert vocabulary.word_counts == (2, 1, 3, 3)


def test_a_file_of_windows_and_one_without_others(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes(b"\xef\xbb\xbfsofa|couch\r\nwall\r\n")
    assert Vocabulary.read(path) == Vocabulary.of(["sofa|couch", "wall"])


@pytest.mark.parametrize(
    ("text", "line", "value"),
    [
        ("sofa\nsofa|couch", 2, "'sofa'"),
        ("sofa|couch\nfurniture: couch", 2, "'couch'"),
        ("sofa\n\nwall||floor", 3, "wall||floor"),
        ("group:", 1, "group:"),
        (": wall", 1, ": wall"),
        ("others", 1, "'others'"),
        ("a: b\na: c", 2, "'a'"),
    ],
)
def test_lines_that_mean_nothing_are_refused_with_their_number(text, line, value):
    with pytest.raises(ValueError, match=f"^here: line {line}: ") as caught:
        Vocabulary.parse(text, where="here")
    assert value in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"other: wall\n", b"caf\xe9\n"])
def test_files_without_classes_and_without_utf8_are_refused_with_their_name(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"classes\.txt"):
        Vocabulary.read(path)


@pytest.mark.parametrize("names", [["sofa|"], ["sofa|couch", "couch"], ["|"], ["a", "a"]])
def test_names_with_bars_are_checked(names):
    with pytest.raises(ValueError, match="class names: found"):
        Vocabulary.of(names)


def test_the_best_word_counts_and_columns_behind_stay():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 8, generator=generator)
    counts, expected = (2, 1, 3), np.empty((5, 5), np.float32)
    for row, numbers in enumerate(logits.tolist()):
        expected[row] = [max(numbers[0:2]), numbers[2], max(numbers[3:6]), *numbers[6:]]
    np.testing.assert_array_equal(best_of_words(logits, counts).numpy(), expected)
    assert best_of_words(logits, (1,) * 8) is logits


@pytest.fixture(scope="module")
def segmenter():
    return tiny_segmenter()


@pytest.mark.parametrize("weight", [0.0, 0.7, 1.0])
def test_both_branches_equal_the_twin_that_takes_the_best_word(weight):
    segmenter = tiny_segmenter(ensemble_weight=weight)
    result = segmenter.segment(picture(), ["cat|dog", "sky", "boat|grass"], return_scores=True)
    branches = segmenter.branches(picture(), ["cat", "dog", "sky", "boat", "grass"])
    probs = []
    for logits in (branches.proposal_logits, branches.clip_logits):
        columns = [logits[:, :2].max(1).values, logits[:, 2], logits[:, 3:5].max(1).values, *logits[:, 5:].T]
        probs.append(torch.stack(columns, dim=1).softmax(dim=1)[:, :3])
    torch.testing.assert_close(result.proposal_probs, probs[0])
    torch.testing.assert_close(result.clip_probs, probs[1])
    valid = branches.valid
    torch.testing.assert_close(
        result.query_scores[valid], probs[0][valid] ** (1 - weight) * probs[1] ** weight, atol=1e-6, rtol=1e-5
    )
    assert result.class_names == ("cat", "sky", "boat")


def test_one_word_a_class_gives_the_bits_of_plain_names(segmenter):
    plain, read = (
        segmenter.segment(picture(), given, return_scores=True)
        for given in (CLASS_NAMES, Vocabulary.parse("\n".join(CLASS_NAMES)))
    )
    assert torch.equal(plain.scores, read.scores)


def test_a_synonym_that_is_never_the_best_changes_nothing(segmenter):
    encoded = segmenter.encode(picture())
    branches = segmenter.branches(picture(), ["cat", "boat"])
    assert all((of[:, 1] < of[:, 0]).all() for of in (branches.proposal_logits, branches.clip_logits))
    plain, more = (segmenter.segment(encoded, names).query_scores for names in (["cat", "sky"], ["cat|boat", "sky"]))
    torch.testing.assert_close(more, plain)


def test_what_others_win_has_no_label(segmenter):
    encoded = segmenter.encode(picture())
    with_label = segmenter.segment(encoded, ["cat", "sky", "dog|grass"])
    result = segmenter.segment(encoded, Vocabulary.parse("cat\nsky\nother: dog | grass"))
    assert result.class_names == ("cat", "sky", "others")
    assert torch.equal(result.label_map, torch.where(with_label.label_map == 2, -1, with_label.label_map))
    assert (with_label.label_map == 2).any()
    found = segmenter.find(encoded, Vocabulary.parse("cat\nother: dog | grass"))
    assert found.found_queries[1] == -1
    assert set(found.label_map.unique().tolist()) <= {-1, 0}


def test_one_class_of_two_words_is_compared_with_others(segmenter):
    assert segmenter.find(picture(), ["cat|dog"]).class_names == ("cat", "others")
