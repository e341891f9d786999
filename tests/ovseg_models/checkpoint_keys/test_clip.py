"""Layouts of published CLIP checkpoints: names, exact round trips, recognition."""

import pytest
import torch

from ovseg_models.checkpoint_keys.clip import (
    from_adapted,
    from_finetune,
    from_openai,
    from_ovseg,
    needs_quick_gelu,
    to_adapted,
    to_finetune,
    to_open_clip,
    to_openai,
    to_ovseg,
)
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip

FROM_TO = [(from_ovseg, to_ovseg), (from_finetune, to_finetune), (from_openai, to_openai), (from_adapted, to_adapted)]


@pytest.fixture
def tensors(tiny_clip_config):
    """Open_clip layout with mask prompts."""
    return from_adapted(MaskAdaptedClip(build_clip(tiny_clip_config), prompt_seed=0).state_dict())


def same(found, expected):
    """The same names in the same order, and the very same tensors."""
    return list(found) == list(expected) and all(found[name] is expected[name] for name in expected)


@pytest.mark.parametrize(("from_layout", "to_layout"), FROM_TO)
def test_round_trips_are_exact(tensors, from_layout, to_layout):
    published = to_layout(tensors)
    assert published.keys() != tensors.keys()
    assert same(from_layout(published), tensors)
    again = to_layout(from_layout(published))
    assert list(again) == list(published)
    assert all(torch.equal(again[name], published[name]) for name in published)


@pytest.mark.parametrize(
    "to_layout", [to_ovseg, to_finetune, to_openai, to_adapted, lambda found: to_finetune(to_openai(found))]
)
def test_each_layout_is_recognised(tensors, to_layout):
    assert same(to_open_clip(to_layout(tensors)), tensors)
    assert same(to_open_clip(tensors), tensors)


def test_published_names(tensors):
    published = to_ovseg(tensors)
    for name, shape in {
        "clip_adapter.clip_model.visual.conv1.weight": (16, 3, 4, 4),
        "clip_adapter.clip_model.visual.class_embedding": (16,),
        "clip_adapter.clip_model.visual.positional_embedding": (17, 16),
        "clip_adapter.clip_model.visual.mask_embedding": (3, 16, 16),
        "clip_adapter.clip_model.visual.transformer.resblocks.3.attn.in_proj_weight": (48, 16),
        "clip_adapter.clip_model.visual.transformer.resblocks.3.mlp.c_fc.bias": (64,),
        "clip_adapter.clip_model.visual.proj": (16, 16),
        "clip_adapter.clip_model.transformer.resblocks.1.ln_2.weight": (8,),
        "clip_adapter.clip_model.token_embedding.weight": (49408, 8),
        "clip_adapter.clip_model.ln_final.weight": (8,),
        "clip_adapter.clip_model.text_projection": (8, 16),
        "clip_adapter.clip_model.logit_scale": (),
    }.items():
        assert tuple(published[name].shape) == shape, name


def test_clip_is_taken_out_of_a_whole_checkpoint(tensors):
    rest = {
        "clip_adapter.pixel_mean": torch.zeros(1, 3, 1, 1),
        "sem_seg_head.predictor.query_embed.weight": torch.zeros(2),
    }
    assert same(to_open_clip({**rest, **to_ovseg(tensors)}), tensors)


def test_openais_numbers(tensors):
    numbers = {name: tensor.item() for name, tensor in to_openai(tensors).items() if name not in tensors}
    assert numbers == {"input_resolution": 16, "context_length": 16, "vocab_size": 49408}


def test_what_descends_from_openai_needs_quick_gelu(tensors):
    assert needs_quick_gelu(to_openai(tensors))
    assert needs_quick_gelu(to_ovseg(tensors))
    assert not needs_quick_gelu(tensors)
    assert not needs_quick_gelu(to_finetune(tensors))


def test_the_adapted_layout_loads(tiny_clip_config, tensors):
    model = MaskAdaptedClip(build_clip(tiny_clip_config, seed=7))
    model.load_state_dict(to_adapted(tensors))
    assert torch.equal(model.mask_prompts, tensors["visual.mask_embedding"])


def test_a_mixed_checkpoint_is_refused(tensors):
    mixed = {**to_finetune(tensors), "head.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"finetuned CLIP: 1 names such as 'head.weight' do not start with 'module.'"):
        from_finetune(mixed)


def test_no_clip_is_refused():
    with pytest.raises(ValueError, match=r"none of 2 names is 'logit_scale'.*they are like \['a', 'b'\]"):
        to_open_clip({"b": torch.zeros(1), "a": torch.zeros(1)})
