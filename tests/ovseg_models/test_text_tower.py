"""Short texts through the text tower: as open_clip does it, at less cost."""

import open_clip
import pytest
import torch

from ovseg_models.pretrained_clip import build_clip
from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.text_tower import encode_related_texts, encode_text

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


@pytest.mark.parametrize("templates", ["bare", "single", "vild", "imagenet"])
@pytest.mark.parametrize("noun", ["dog", "unpronounceable xylophone", "."])
@torch.no_grad()
def test_texts_that_begin_alike_give_what_open_clip_gives(tiny_clip_config, templates, noun):
    clip = build_clip(tiny_clip_config).double()
    texts = [template.format(noun) for template in prompt_templates(templates)]
    tokens = open_clip.SimpleTokenizer(context_length=16)([*texts, texts[0], ""])
    torch.testing.assert_close(encode_related_texts(clip, tokens), clip.encode_text(tokens), atol=1e-12, rtol=0)


@torch.no_grad()
def test_what_texts_begin_with_is_read_once(tiny_clip_config, monkeypatch):
    clip = build_clip(tiny_clip_config)
    shapes = []
    forward = clip.transformer.forward
    monkeypatch.setattr(
        clip.transformer,
        "forward",
        lambda states, **kwargs: shapes.append(tuple(states.shape[:2])) or forward(states, **kwargs),
    )
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    encode_related_texts(clip, tokenize(["a big dog", "a big cat", "a"]))  # start, a, big, dog, end, cat, end, end
    encode_related_texts(clip, tokenize([template.format("dog") for template in prompt_templates("vild")]))
    assert shapes == [(1, 8), (1, 79)]
    assert encode_related_texts(clip, tokenize(["a"])[:0]).shape == (0, 16)


@pytest.mark.parametrize("encode", [encode_text, encode_related_texts])
@pytest.mark.parametrize("change", ["no_causal_mask", "eos", "linear"])
@torch.no_grad()
def test_towers_of_other_forms_give_what_open_clip_gives(tiny_clip_config, change, encode):
    text = dict(tiny_clip_config["text_cfg"])
    text |= {"no_causal_mask": {"no_causal_mask": True}, "eos": {"pool_type": "eos", "eos_id": 49407}, "linear": {}}[
        change
    ]
    config = tiny_clip_config | {"text_cfg": text | ({"proj_bias": True} if change == "linear" else {})}
    clip = build_clip(config)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    torch.testing.assert_close(encode(clip, tokens), clip.encode_text(tokens), atol=5e-6, rtol=0)
