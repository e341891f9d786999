"""Settings of data preparation."""

import pytest
from pydantic import ValidationError

from pipeline.settings import PrepareSettings, result_settings


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dataset": "cocoa"}, "Input should be 'coco'"),
        ({"dataset": "coco"}, r"split: should be named for coco \(got nothing\)"),
        ({"dataset": "folder", "captions": False}, r"captions: is an option of coco only \(got it for folder\)"),
        ({"dataset": "ade20k-150", "split": "val", "reference_resize": True}, "is an option of ade20k-847 only"),
        ({"dataset": "folder", "drawn_world": {"seed": 1}}, "drawn_world: is an option of drawn-world only"),
        (
            {"dataset": "folder", "voc_labels": "SegmentationClass"},
            "is an option of pascal-voc-20 and pascal-voc-21 only",
        ),
        ({"dataset": "folder", "split": "a/b"}, "String should match pattern"),
        ({"dataset": "folder", "scenes_per_shard": 0}, "greater than or equal to 1"),
        ({"dataset": "folder", "max_image_px": 10**9}, "less than or equal to 89478485"),
        ({"dataset": "folder", "shuffle": True}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_settings_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        PrepareSettings(**options)


def test_all_faults_of_options_are_reported_at_once():
    with pytest.raises(ValidationError, match=r"labels: .*; reference_resize: .*; split: "):
        PrepareSettings(dataset="pascal-voc-20", labels="none", reference_resize=True)


def test_the_root_changes_no_result():
    assert "root" not in result_settings(PrepareSettings(dataset="folder", root="/data"))
    first, second = (result_settings(PrepareSettings(dataset="folder", max_image_px=px)) for px in (10, 20))
    assert first != second
