"""Which parameters learn at which rate, and which decay."""

import pytest

from ovseg_models.mask_adapted_clip import select_trainable
from pipeline.finetune.phases import phases_of
from pipeline.finetune.task import learning_rates
from pipeline.settings import FinetuneSettings
from pipeline.trained_nets import new_mask_adapted_clip
from pipeline.training.learning_rates import Rate, parameter_groups
from tests.tiny_clip import tiny_loaded_clip

TOWER, PROMPTS = Rate(1e-3, 0.2), Rate(1e-2, 0.0)


def rates_by_name(mode: str) -> dict[str, tuple[float, float]]:
    adapted = new_mask_adapted_clip(tiny_loaded_clip(), prompt_depth=2)
    names = {id(parameter): name for name, parameter in adapted.named_parameters()}
    tower, prompts = ({"learning_rate": lr, "weight_decay": decay} for lr, decay in (TOWER, PROMPTS))
    phase = phases_of(FinetuneSettings.model_validate({"mode": mode, "ft": tower, "mpt": prompts}))[0]
    rates = learning_rates(select_trainable(adapted, mode), phase)
    return {
        names[id(parameter)]: (group["lr"], group["weight_decay"])
        for group in parameter_groups(rates)
        for parameter in group["params"]
    }


def test_norms_biases_class_token_and_logit_scale_do_not_decay() -> None:
    rates = rates_by_name("ft")
    decayed = {name.removeprefix("clip.visual.") for name, (_, decay) in rates.items() if decay == 0.2}
    assert {"conv1.weight", "positional_embedding", "proj", "transformer.resblocks.0.mlp.c_fc.weight"} <= decayed
    assert not [name for name in decayed if "ln_" in name or name.endswith("bias")]
    assert rates["clip.logit_scale"] == (1e-3, 0.0)
    assert rates["clip.visual.class_embedding"] == (1e-3, 0.0)
    assert rates["clip.visual.ln_post.weight"] == (1e-3, 0.0)


@pytest.mark.parametrize("mode", ["mpt", "ft+mpt"])
def test_prompts_have_a_rate_of_their_own(mode: str) -> None:
    rates = rates_by_name(mode)
    assert rates["mask_prompts"] == (1e-2, 0.0)
    assert rates["clip.logit_scale"] == (1e-2 if mode == "mpt" else 1e-3, 0.0)  # that of the phase
    assert ("clip.visual.proj" in rates) == (mode == "ft+mpt")


def test_no_text_parameter_is_trained() -> None:
    assert all(
        name == "mask_prompts" or name.startswith(("clip.visual.", "clip.logit_scale"))
        for name in rates_by_name("ft+mpt")
    )
