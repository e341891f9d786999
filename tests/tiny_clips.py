"""Each family of CLIPs that open_clip builds, at a tiny size: crops of 32 px, 3 layers 16 wide, random weights.

Configurations are those of open_clip's members of the family with smaller numbers. timm's towers are its own entry
points with smaller numbers, under new names, since a configuration can name a tower of timm and none of its sizes.
"""

import copy
from collections.abc import Callable
from typing import Any

import open_clip
import torch
from open_clip.coca_model import CoCa
from timm.models import (
    convnext,
    eva,
    fastvit,
    register_model,
    vision_transformer,
    vision_transformer_hybrid,
    vision_transformer_relpos,
    vitamin,
)

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.weights import weights_digest
from pipeline.clip_loading import LoadedClip
from tests import tiny_clip

DRAWN_WORLD_TOKENIZER = tiny_clip.TOKENIZER
SIDE_PX, PATCH_PX, WIDTH, LAYERS, DIM, CONTEXT = 32, 8, 16, 3, 12, 8
SIZES = {"img_size": SIDE_PX, "embed_dim": WIDTH, "depth": LAYERS, "num_heads": 2}
VIT = {"patch_size": PATCH_PX, **SIZES}
WORDS = ("a", "photo", "of", "there", "is", "cat", "dog", "sky", "grass", "boat", "others")


def tower(name: str, entry: Callable[..., Any], **sizes: Any) -> str:
    """Register an entry point of timm with other sizes under a new name, which is returned."""

    def tiny(pretrained: bool = False, **chosen: Any) -> Any:
        return entry(pretrained=pretrained, **{**copy.deepcopy(sizes), **chosen})

    tiny.__name__, tiny.__module__ = name, __name__
    register_model(tiny)
    return name


def mobile_clip_b(**chosen: Any) -> Any:
    """Build MobileCLIP-B's tower: convolutions with batch norms in front, the class token without a position."""
    stem = vision_transformer_hybrid.ConvStem(channels=(4, 8, WIDTH), stride=(2, 2, 2), kernel_size=2, padding=0)
    return vision_transformer_hybrid._create_vision_transformer_hybrid(
        "vit_base_mci_224", backbone=stem, embed_args={"proj": False}, no_embed_class=True, **chosen
    )


VITAMIN_STEM = vitamin.VitCfg(
    embed_dim=(4, 8, WIDTH),
    depths=(1, 1, 1),
    stem_width=4,
    conv_cfg=vitamin.VitConvCfg(norm_layer="layernorm2d", norm_eps=1e-6),
    head_type="1d",
)
NATIVE = {"image_size": SIDE_PX, "patch_size": PATCH_PX, "width": WIDTH, "head_width": 8, "layers": LAYERS}
TEXT = {"context_length": CONTEXT, "vocab_size": 200, "width": 8, "heads": 2, "layers": 2}
SIGLIP_TEXT = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}}


def of_timm(name: str, entry: Callable[..., Any], pool: str, proj: str | None, sizes: dict[str, Any]) -> dict[str, Any]:
    """Return the ``vision_cfg`` of a tower of timm."""
    named = {"timm_model_name": tower(name, entry, **sizes), "timm_pool": pool, "timm_proj": proj}
    return {"image_size": SIDE_PX, **named}


def config(vision: dict[str, Any], text: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Return a model's configuration."""
    return {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": {**TEXT, **(text or {})}, **more}


CUSTOM: dict[str, Any] = {"custom_text": True}
SIGLIP = {"custom_text": True, "init_logit_bias": -10.0, "embed_dim": WIDTH}
WITH_TOKENS: dict[str, dict[str, Any]] = {
    "OpenAI": config(NATIVE, quick_gelu=True),
    "CLIPA": config(
        {**NATIVE, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True},
        {"pool_type": "last", "no_causal_mask": True},
    ),
    "CoCa": config(
        {**NATIVE, "attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 2, "output_tokens": True},
        {"embed_cls": True, "output_tokens": True},
        multimodal_cfg={**TEXT, "attn_pooler_heads": 2},
        **CUSTOM,
    ),
    "SigLIP": config(
        of_timm("tiny_siglip", vision_transformer.vit_base_patch16_siglip_224, "map", "none", VIT),
        SIGLIP_TEXT,
        **SIGLIP,
    ),
    "SigLIP2": config(
        of_timm("tiny_siglip2", vision_transformer.vit_base_patch16_siglip_224, "map", "none", VIT),
        {**SIGLIP_TEXT, "act_kwargs": {"approximate": "tanh"}},
        nonscalar_logit_scale=True,
        **SIGLIP,
    ),
    "MobileCLIP-B": config(of_timm("tiny_mobile_b", mobile_clip_b, "token", None, SIZES), **CUSTOM),
    "ViTamin": config(
        of_timm("tiny_vitamin", vitamin.vitamin_small_224, "", "linear", {**SIZES, "embed_cfg": VITAMIN_STEM}), **CUSTOM
    ),
    "EVA01": config(of_timm("tiny_eva01", eva.eva_giant_patch14_224, "token", None, VIT), **CUSTOM),
    "EVA02": config(
        of_timm("tiny_eva02", eva.eva02_base_patch16_clip_224, "token", None, {**VIT, "ref_feat_shape": (4, 4)}),
        **CUSTOM,
    ),
    "PE-Core": config(
        of_timm(
            "tiny_pe",
            eva.vit_pe_core_tiny_patch16_384,
            "map",
            None,
            {**VIT, "ref_feat_shape": (4, 4), "attn_pool_num_heads": 2},
        ),
        **CUSTOM,
    ),
    "registers": config(
        of_timm(
            "tiny_registers",
            vision_transformer.vit_base_patch16_224,
            "avg",
            "mlp",
            {**VIT, "reg_tokens": 4, "no_embed_class": True, "pre_norm": True},
        )
    ),
    "any size": config(
        of_timm("tiny_any", vision_transformer.vit_base_patch16_224, "avg", "linear", {**VIT, "dynamic_img_size": True})
    ),
    "mixed RoPE": config(of_timm("tiny_mixed", eva.vit_small_patch16_rope_mixed_224, "token", "linear", VIT)),
}
WITHOUT_TOKENS: dict[str, dict[str, Any]] = {
    "ResNet": config({"image_size": SIDE_PX, "layers": [1, 1, 1, 1], "width": 8}),
    "ConvNeXt": config(
        of_timm(
            "tiny_convnext",
            convnext.convnext_tiny,
            "",
            "linear",
            {"depths": (1, 1, 1, 1), "dims": (4, 8, 8, WIDTH), "drop_path_rate": 0.5},
        )
    ),
    "MobileCLIP2-S": config(
        of_timm("tiny_fastvit", fastvit.fastvit_mci0, "avg", None, {"layers": (1,) * 4, "embed_dims": (8, 8, 16, 32)}),
        **CUSTOM,
    ),
    "relative positions": config(
        of_timm("tiny_relative", vision_transformer_relpos.vit_relpos_medium_patch16_cls_224, "token", "linear", VIT)
    ),
}
FAMILIES = {**WITH_TOKENS, **WITHOUT_TOKENS}


def loaded(name: str, seed: int = 0) -> LoadedClip:
    """Return a family's model as stages load it, with random weights; it knows the words of the drawn world."""
    built = build_mask_adapted_clip(FAMILIES[name], prompt_depth=0, seed=seed)
    return LoadedClip(
        built.clip,
        DRAWN_WORLD_TOKENIZER,
        DRAWN_WORLD_TOKENIZER,
        weights_digest(built.clip.state_dict()),
        dict(built.arguments["model"]),
        preprocessing=built.crop.preprocessing,
        temperature=built.temperature,
    )


def stock(name: str, seed: int = 0) -> Any:
    """Build a family's model by open_clip's classes alone, with random weights, in evaluation mode."""
    arguments = copy.deepcopy(FAMILIES[name])
    custom = arguments.pop("custom_text", False)
    model = CoCa if "multimodal_cfg" in arguments else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        clip = model(**arguments)
        for (
            parameter
        ) in clip.parameters():  # some towers begin with zeros, in which no fault shows; a decoder with junk
            parameter.data.nan_to_num_(0, 0, 0).clamp_(-9, 9).add_(0.05 * torch.randn_like(parameter))
        for buffer_name, buffer in clip.named_buffers():
            if "running_" in buffer_name:
                buffer.data.add_(0.3 * torch.rand_like(buffer))
    clip.logit_scale.data.fill_(2.5)
    return clip.eval()
