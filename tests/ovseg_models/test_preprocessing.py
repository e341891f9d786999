"""What open_clip says of a model's pixels, and what no crop can be made with."""

import open_clip
import pytest

from ovseg_models.preprocessing import OPENAI, CropFormat, Preprocessing


@pytest.mark.parametrize(
    ("model", "tag", "expected"),
    [
        ("ViT-B-16", "openai", OPENAI),
        ("ViT-L-14", "laion2b_s32b_b82k", Preprocessing((0.5,) * 3, (0.5,) * 3)),
        ("ViT-B-16-SigLIP2", "webli", Preprocessing((0.5,) * 3, (0.5,) * 3)),
        ("PE-Core-B-16", "meta", Preprocessing((0.5,) * 3, (0.5,) * 3, "bilinear")),
        ("MobileCLIP2-S0", "dfndr2b", Preprocessing((0.0,) * 3, (1.0,) * 3, "bilinear")),
    ],
)
def test_it_is_read_from_a_tag(model, tag, expected):
    found = Preprocessing.of(open_clip.get_pretrained_cfg(model, tag))
    assert found == expected
    assert Preprocessing.of(found.to_json()) == found


def test_every_tag_of_open_clip_can_be_read():
    for model, tag in open_clip.list_pretrained():
        Preprocessing.of(open_clip.get_pretrained_cfg(model, tag))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mean": [0.5, 0.5]}, r"mean is \(0.5, 0.5\), three numbers from 0 to 1 .* are expected"),
        ({"mean": [0.5, float("nan"), 0.5]}, r"mean is .*nan.*three numbers from 0 to 1"),
        ({"std": [0.5, 0.0, 0.5]}, r"std is \(0.5, 0.0, 0.5\), three numbers above 0"),
        ({"std": 1}, r"std is 1, three numbers above 0"),
        ({"mean": [123.7, 116.3, 103.5]}, r"mean is \(123.7, .* divide by 255 what is given from 0 to 255"),
        ({"std": [58.4, 57.1, 57.4]}, r"std is \(58.4, .* at most 1 .* divide by 255"),
        ({"mean": [-0.1, 0.5, 0.5]}, r"mean is \(-0.1, "),
        ({"mean": [True, True, True]}, r"mean is \(True, "),
        ({"interpolation": "random"}, r"interpolation is 'random', one of \('bicubic', 'bilinear'\)"),
    ],
)
@pytest.mark.usefixtures("without_shape_checks")
def test_what_cannot_be_used_is_refused(given, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.of(given)


def test_what_is_left_of_a_line_is_no_patch():
    assert CropFormat(224, 16).patches == 14**2
    assert CropFormat(384, 14).patches == 27**2
    assert CropFormat(256, 256).patches == 1
