"""The paper's two models, built from their settings alone, without weights."""

from pathlib import Path

import pytest
import torch

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.proposal_presets import build_proposal_net
from pipeline.settings import load_settings

CONFIGS = Path(__file__).parents[2] / "flows" / "configs"


def millions(module: torch.nn.Module, *, trainable: bool = False) -> float:
    sizes = (parameter.numel() for parameter in module.parameters() if parameter.requires_grad or not trainable)
    return round(sum(sizes) / 1e6, 2)


@pytest.mark.parametrize(
    ("config", "trainable", "total", "clip_millions", "prompts"),
    [
        ("ovseg_r101c_vitb16", 60.7, 211.1, 150.07, 451_584),
        ("ovseg_swinb_vitl14", 102.8, 531.2, 428.40, 786_432),
    ],
)
def test_the_papers_models_have_the_published_numbers_of_parameters(config, trainable, total, clip_millions, prompts):
    settings = load_settings(CONFIGS / f"{config}.toml")
    with torch.device("meta"):
        clip = build_clip(settings.clip.architecture, quick_gelu=settings.clip.quick_gelu == "on")
        text_width = clip.ln_final.weight.shape[0]
        arguments = settings.proposal_net.architecture.arguments() | {
            "pretrained": False,
            "embedding_dim": clip.visual.output_dim,
            "no_object_std": text_width**-0.5,
        }
        net = build_proposal_net(**arguments)
        adapted = MaskAdaptedClip(clip, prompt_depth=settings.finetune.prompt_depth)
    assert adapted.mask_prompts.numel() == prompts
    assert millions(adapted) == clip_millions
    assert round(millions(net, trainable=True), 1) == trainable
    assert round(millions(torch.nn.ModuleList([net, adapted])), 1) == total
