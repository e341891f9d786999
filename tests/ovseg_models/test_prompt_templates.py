"""The templates' exact wording."""

import open_clip
import pytest

from ovseg_models.prompt_templates import PROMPT_TEMPLATE_NAMES, prompt_templates


def test_vild_templates_are_worded_exactly():
    sentences = [template.format("boat") for template in prompt_templates("vild")]
    assert len(sentences) == len(set(sentences)) == 14
    assert [sentence for sentence in sentences if not sentence.endswith(".")] == [
        "This is a photo of a boat",
        "There is a boat in the scene",
        "There is the boat in the scene",
        "a photo of a boat in the scene",
    ]
    sizes = ("small", "medium", "large")
    assert sentences[0] == "a photo of a boat."
    assert sentences[5:8] == [f"a photo of a {size} boat." for size in sizes]
    assert sentences[8:11] == [f"This is a photo of a {size} boat." for size in sizes]
    assert sentences[11:] == [f"There is a {size} boat in the scene." for size in sizes]


def test_imagenet_templates_are_those_of_open_clip():
    expected = [template("boat") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template.format("boat") for template in prompt_templates("imagenet")] == expected
    assert len(expected) == 80


def test_every_template_takes_one_name():
    assert PROMPT_TEMPLATE_NAMES == ("bare", "single", "vild", "imagenet")
    for name in PROMPT_TEMPLATE_NAMES:
        assert all(template.count("{}") == 1 for template in prompt_templates(name))
    assert [template.format("x") for template in prompt_templates("bare")] == ["x"]
    assert [template.format("x") for template in prompt_templates("single")] == ["a photo of a x."]


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"'predefined' is unknown, one of \('bare', 'single', 'vild', 'imagenet'\)"):
        prompt_templates("predefined")
