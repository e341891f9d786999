"""Short texts through the text tower: as open_clip does it, at less cost."""

import open_clip
import pytest
import torch

from ovseg_models.pretrained_clip import build_clip
from ovseg_models.text_tower import encode_text

TEXTS = ["a", "a photo of a boat.", "There is a large traffic light in the scene.", ""]


@torch.no_grad()
def test_equals_open_clip_and_reads_no_padding(tiny_clip_config, monkeypatch):
    clip = build_clip(tiny_clip_config)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    expected = clip.encode_text(tokens)
    lengths = []
    forward = clip.transformer.forward
    monkeypatch.setattr(
        clip.transformer,
        "forward",
        lambda states, **kwargs: lengths.append(states.shape[1]) or forward(states, **kwargs),
    )
    torch.testing.assert_close(encode_text(clip, tokens), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(encode_text(clip, tokens[:2]), expected[:2], atol=1e-6, rtol=0)
    assert lengths == [12, 8]
    assert encode_text(clip, tokens[:0]).shape == (0, 16)


@pytest.mark.parametrize("change", ["no_causal_mask", "eos", "linear"])
@torch.no_grad()
def test_towers_of_other_forms_give_what_open_clip_gives(tiny_clip_config, change):
    text = dict(tiny_clip_config["text_cfg"])
    text |= {"no_causal_mask": {"no_causal_mask": True}, "eos": {"pool_type": "eos", "eos_id": 49407}, "linear": {}}[
        change
    ]
    config = tiny_clip_config | {"text_cfg": text | ({"proj_bias": True} if change == "linear" else {})}
    clip = build_clip(config)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    torch.testing.assert_close(encode_text(clip, tokens), clip.encode_text(tokens), atol=1e-6, rtol=0)
