"""Any two results on the same pictures, classes and labels are compared; others are refused with what differs."""

import pytest

from pipeline.errors import PipelineError
from pipeline.evaluate.compare import compare_runs
from tests.pipeline.evaluate.planted_scores import (
    BOAT,
    SKY,
    boats_called_ducks,
    half_of_the_boat_is_sky,
    planted,
    right,
)


def verdicts(first, second):
    (found,) = compare_runs(first.artifact.directory, second.artifact.directory, rounds=40)
    return found.left_out, {name: each.verdict for name, each in found.differences.items()}


def test_two_results_are_better_worse_or_not_to_be_told_apart(tmp_path):
    good = planted(tmp_path, {"predictions": half_of_the_boat_is_sky}, name="good")
    bad = planted(tmp_path, {"ensemble": boats_called_ducks}, name="bad")
    same = planted(tmp_path, {"predictions": boats_called_ducks}, name="same")
    left_out, found = verdicts(bad, good)
    assert (left_out, found["miou"], found["unseen_miou"]) == (0, "better", "better")
    assert verdicts(good, bad)[1]["miou"] == "worse"
    assert set(verdicts(bad, same)[1].values()) == {"cannot tell"}


def test_scenes_that_were_prepared_twice_are_compared_by_what_they_hold(tmp_path):
    first = planted(tmp_path, {"ensemble": right}, name="first", scenes="1" * 64)
    second = planted(tmp_path, {"predictions": right}, name="second", scenes="2" * 64, failed=["image-3"])
    left_out, found = verdicts(first, second)
    assert left_out == 1
    assert found["miou"] == "cannot tell"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"class_names": ("sky", "duck", "ship")}, "the classes differ, 3 and 3, such as 'boat'"),
        ({"class_names": ("duck", "sky", "boat")}, "the classes differ, 3 and 3, their order"),
        ({"keys": ("image-0", "image-9")}, "the pictures differ, 8 and 2, such as image-1"),
        (
            {"relabelled": {"image-5": lambda labels: labels.__setitem__(labels == BOAT, SKY)}},
            "the labels differ, such as those of image-5",
        ),
    ],
)
def test_other_classes_pictures_and_labels_are_refused(tmp_path, changed, reason):
    first = planted(tmp_path, {"ensemble": right}, name="first", scenes="1" * 64)
    second = planted(tmp_path, {"predictions": right}, name="second", scenes="2" * 64, **changed)
    with pytest.raises(PipelineError, match=reason):
        compare_runs(first.artifact.directory, second.artifact.directory)
