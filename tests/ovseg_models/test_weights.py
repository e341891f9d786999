"""What changes a digest of weights and what does not."""

import pytest
import torch

from ovseg_models.pretrained_clip import build_clip
from ovseg_models.weights import image_tower_weights, text_tower_weights, weights_digest

WEIGHTS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1), "c": torch.zeros(0, 3, dtype=torch.bfloat16)}


def test_order_and_layout_in_memory_do_not_count():
    expected = weights_digest(WEIGHTS)
    assert len(expected) == 64
    assert weights_digest(dict(reversed(WEIGHTS.items()))) == expected
    assert weights_digest(WEIGHTS | {"a": WEIGHTS["a"].T.contiguous().T}) == expected
    assert weights_digest(WEIGHTS | {"a": torch.nn.Parameter(WEIGHTS["a"])}) == expected


@pytest.mark.parametrize(
    "changed",
    [
        {"a": WEIGHTS["a"].reshape(3, 2)},
        {"a": WEIGHTS["a"].double()},
        {"a": torch.nextafter(WEIGHTS["a"], torch.tensor(9.0))},
        {"b": torch.tensor([1])},
        {"c": torch.zeros(0, 4, dtype=torch.bfloat16)},
        {"d": torch.zeros(0)},
    ],
)
def test_names_types_shapes_and_bytes_count(changed):
    assert weights_digest(WEIGHTS | changed) != weights_digest(WEIGHTS)


@pytest.mark.parametrize("custom_text", [False, True])
def test_towers_share_nothing_and_leave_only_the_scale(tiny_clip_config, custom_text):
    clip = build_clip(tiny_clip_config | {"custom_text": custom_text})
    image, text = image_tower_weights(clip), text_tower_weights(clip)
    assert not image.keys() & text.keys()
    assert clip.state_dict().keys() - image.keys() - text.keys() == {"logit_scale"}
