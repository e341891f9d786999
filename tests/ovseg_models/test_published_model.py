"""A published file, imported, gives the numbers of the published model, which is computed from the file alone."""

import open_clip
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.prompt_templates import VILD
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.published_checkpoints import default_origin, published_tensors, read_published_checkpoint
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_folder import SegmenterParts, write_segmenter_folder
from tests.ovseg_models import published_model as reference
from tests.tiny_segmenter import picture

NAMES = ["cat", "road, route"]
SIDE, PATCH, LAYERS, TEXT_LAYERS, DECODER_LAYERS = 32, 4, 4, 2, 2
SWIN = {"depths": [2, 1, 2, 1], "heads": [1, 2, 2, 4], "window": 3}
CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": SIDE, "patch_size": PATCH, "width": 64, "head_width": 64, "layers": LAYERS},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": TEXT_LAYERS},
}
HEAD = {"embedding_dim": 24, "embedding_hidden_dim": 16, "queries": 7, "hidden_dim": 32, "mask_dim": 20}
BACKBONES = {
    "swin": {
        "backbone": "swin_base_patch4_window12_384",
        "backbone_arguments": {
            "timm_arguments": {
                "embed_dim": 8,
                "depths": SWIN["depths"],
                "num_heads": SWIN["heads"],
                "window_size": SWIN["window"],
            }
        },
    },
    "r101c": {"backbone": "r101c"},
}


@torch.no_grad()
def published_file(backbone: str) -> dict[str, torch.Tensor]:
    """A state dict of the published layout in which no norm, bias or prompt is trivial and masks differ."""
    torch.manual_seed(0)
    net = build_proposal_net(**BACKBONES[backbone], **HEAD, feedforward_dim=28, decoder_layers=DECODER_LAYERS)
    clip = build_mask_adapted_clip(CLIP, prompt_depth=3, quick_gelu=True, seed=1)
    parts = SegmenterParts(net, clip)
    tensors = published_tensors(parts, default_origin(parts))
    for name, tensor in tensors.items():
        is_part = name.startswith(("sem_seg_head.", "clip_adapter.clip_model.")) or backbone == "swin"
        if is_part and tensor.ndim == 1 and tensor.is_floating_point() and not name.startswith("criterion."):
            tensor.add_(0.3 * torch.randn(tensor.shape))
    tensors["clip_adapter.clip_model.token_embedding.weight"].mul_(50)
    tensors["clip_adapter.clip_model.visual.mask_embedding"].mul_(20)
    for name, tensor in tensors.items():
        if "predictor.transformer" in name and name.endswith("in_proj_weight"):
            tensor.mul_(6)  # so that queries attend to different things
    spread_masks(tensors, backbone)
    return tensors


def spread_masks(tensors, backbone):
    """Centre the mask features, and make the mask logits ten times as large."""
    maps = reference_maps(tensors, backbone, reference.net_input(picture(50, 70), 44)[1])
    decoder = reference.below(tensors, "sem_seg_head.pixel_decoder.")
    decoder["mask_features.bias"].sub_(reference.mask_features(maps, decoder).mean((1, 2)))
    for kind in ("weight", "bias"):
        tensors[f"sem_seg_head.predictor.mask_embed.layers.2.{kind}"].mul_(10)


def reference_maps(tensors, backbone, normalised):
    weights = reference.below(tensors, "backbone.")
    if backbone == "swin":
        return reference.swin(normalised, weights, SWIN["depths"], SWIN["heads"], SWIN["window"])
    return [feature_map[0] for feature_map in reference.r101c(normalised[None], weights)]


def reference_branches(tensors, backbone, image, settings):
    """Steps 1 to 11 of the published inference, and what steps 12 and 13 need."""
    head, clip = reference.below(tensors, "sem_seg_head."), reference.below(tensors, "clip_adapter.clip_model.")
    visual, predictor = reference.below(clip, "visual."), reference.below(head, "predictor.")
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    text = torch.stack([reference.class_embedding(name, VILD, tokenize, clip, TEXT_LAYERS) for name in NAMES])
    pixels, normalised = reference.net_input(image, settings.short_side_px)
    maps = reference_maps(tensors, backbone, normalised)
    hidden = reference.hidden_queries(maps[3], predictor, DECODER_LAYERS)
    features = reference.mask_features(maps, reference.below(head, "pixel_decoder."))
    mask_logits = torch.einsum("qc,chw->qhw", reference.perceptron(hidden, predictor, "mask_embed", 3), features)
    proposals = F.normalize(reference.perceptron(hidden, predictor, "class_embed", 2), dim=1)
    no_object = F.normalize(tensors["clip_adapter.non_object_embedding"], dim=1)
    full = F.interpolate(mask_logits[None], normalised.shape[1:], mode="bilinear", align_corners=False)[0]
    masks = full[:, : pixels.shape[1], : pixels.shape[2]].sigmoid()
    hard = masks > settings.mask_threshold
    valid = hard.flatten(1).any(1)
    seen = [reference.crop_and_patches(pixels, mask, SIDE, PATCH) for mask in hard[valid]]
    images = torch.stack([reference.crop_embedding(crop, patches, visual, LAYERS) for crop, patches in seen])
    return {
        "proposal_logits": 100 * proposals @ torch.cat([text, no_object]).T,
        "mask_logits": mask_logits,
        "valid": valid,
        "crops": torch.stack([crop for crop, _ in seen]),
        "patch_mask": torch.stack([patches for _, patches in seen]).bool(),
        "clip_logits": 100 * images @ text.T,
    }, masks


def reference_scores(branches, masks, size, weight):
    """Steps 12 and 13."""
    scores = branches["proposal_logits"].softmax(1)[:, :-1] ** (1 - weight)
    scores[branches["valid"]] *= branches["clip_logits"].softmax(1) ** weight
    fused = torch.einsum("qc,qhw->chw", scores, masks)
    return F.interpolate(fused[None], size, mode="bilinear", align_corners=False)[0]


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_an_imported_file_gives_the_published_models_numbers(tmp_path, backbone):
    tensors = published_file(backbone)
    torch.save({"model": tensors}, tmp_path / "model.pth")
    write_segmenter_folder(tmp_path / "segmenter", read_published_checkpoint(tmp_path / "model.pth"))
    segmenter = Segmenter.load(tmp_path / "segmenter", short_side_px=44, max_side_px=128, mask_threshold=0.8)
    image = picture(50, 70)
    expected, masks = reference_branches(tensors, backbone, image, segmenter.settings)
    found = segmenter.branches(image, NAMES)
    assert expected["valid"].sum() >= 3
    assert 0.1 < expected["patch_mask"].float().mean() < 0.9
    assert expected["proposal_logits"].std(0).min() > 0.1  # queries differ
    assert torch.equal(found["valid"], expected["valid"])
    assert torch.equal(found["patch_mask"], expected["patch_mask"])
    for name in ("proposal_logits", "mask_logits", "crops", "clip_logits"):
        torch.testing.assert_close(found[name], expected[name], atol=2e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")
    scores = reference_scores(expected, masks, (50, 70), 0.7)
    torch.testing.assert_close(segmenter.scores(image, NAMES), scores, atol=2e-4, rtol=1e-3)
