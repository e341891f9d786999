"""What each mode of finetuning changes, with real optimizer steps."""

import open_clip
import pytest
import torch

from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.finetuning_modes import select_trainable
from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.weights_digest import image_tower_weights, text_tower_weights, weights_digest


@pytest.fixture
def model(tiny_clip_config):
    return MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=3, prompt_seed=0).train()


def take_steps(model, parameters, steps=3):
    """Train with weight decay, which would move a frozen weight if the optimizer had it."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(parameters, lr=0.05, weight_decay=0.2)
    tokens = open_clip.SimpleTokenizer(context_length=16)(["a boat", "a cow", "a kite", "a bus"])
    for _ in range(steps):
        crops = torch.randn(4, 3, 16, 16, generator=generator)
        patch_mask = torch.rand(4, 16, generator=generator) < 0.5
        optimizer.zero_grad()
        contrastive_loss(*model(crops, patch_mask, tokens)).backward()
        optimizer.step()
        model.clamp_logit_scale()


def state_of(model):
    return {
        "image": weights_digest(image_tower_weights(model.clip)),
        "text": weights_digest(text_tower_weights(model.clip)),
        "prompts": weights_digest({"mask_prompts": model.mask_prompts}),
        "scale": weights_digest({"logit_scale": model.logit_scale}),
    }


@pytest.mark.parametrize(
    ("mode", "train_logit_scale", "changed"),
    [
        ("ft", True, {"image", "scale"}),
        ("mpt", True, {"prompts", "scale"}),
        ("mpt", False, {"prompts"}),
        ("ft+mpt", True, {"image", "prompts", "scale"}),
        ("ft+mpt", False, {"image", "prompts"}),
    ],
)
def test_a_mode_changes_its_weights_and_no_bit_of_the_others(model, mode, train_logit_scale, changed):
    before = state_of(model)
    trainable = select_trainable(model, mode, train_logit_scale=train_logit_scale)
    take_steps(model, trainable.values())
    after = state_of(model)
    assert {part for part in before if before[part] != after[part]} == changed


def test_ft_moves_every_weight_of_the_image_tower(model):
    before = {name: tensor.detach().clone() for name, tensor in image_tower_weights(model.clip).items()}
    take_steps(model, select_trainable(model, "ft").values())
    unmoved = [name for name, tensor in image_tower_weights(model.clip).items() if torch.equal(tensor, before[name])]
    assert unmoved == []


def test_a_later_mode_replaces_the_earlier_one(model):
    select_trainable(model, "ft")
    trainable = select_trainable(model, "mpt")
    assert set(trainable) == {"mask_prompts", "clip.logit_scale"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == set(trainable)


def test_number_of_parameters_that_mpt_trains():
    with torch.device("meta"):
        model = MaskAdaptedClip(open_clip.CLIP(**open_clip.get_model_config("ViT-B-16")), prompt_depth=3)
    assert sum(parameter.numel() for parameter in select_trainable(model, "mpt").values()) == 451_584 + 1


def test_mpt_without_prompts_is_refused(tiny_clip_config):
    model = MaskAdaptedClip(build_clip(tiny_clip_config), prompt_depth=0)
    with pytest.raises(ValueError, match=r"mode 'mpt' trains mask prompts, the model has none \(prompt_depth 0\)"):
        select_trainable(model, "mpt")


@pytest.mark.usefixtures("without_shape_checks")
def test_an_unknown_mode_is_refused(model):
    with pytest.raises(ValueError, match=r"mode is 'all', one of \('ft', 'mpt', 'ft\+mpt'\) is expected"):
        select_trainable(model, "all")
