"""What a report says of the models that it is about."""

import pytest

from pipeline.evaluate.report.numbers import report_numbers
from pipeline.settings import load_settings
from tools.count_paper_work import CONFIGS


@pytest.mark.parametrize(("is_random", "shown"), [(False, "ViT-B-16 (openai)"), (True, "ViT-B-16 (random)")])
def test_random_weights_are_not_passed_off_as_those_of_the_settings(is_random, shown):
    settings = load_settings(CONFIGS / "coco_sample.toml", ["clip.random_if_unavailable=true"])
    numbers = report_numbers(settings, (), clip_is_random=is_random)
    assert numbers["models"]["clip"] == shown
    assert numbers["settings"]["clip"]["pretrained"] == "openai"
