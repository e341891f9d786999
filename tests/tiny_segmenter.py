"""A segmenter small enough to be run hundreds of times, and pictures for it."""

import numpy as np
import torch

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_net import ProposalNet
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter import Segmenter
from ovseg_models.segmenter_settings import SegmenterSettings
from ovseg_models.word_tokenizer import WordTokenizer

WORDS = ("a", "photo", "of", "there", "is", "cat", "dog", "sky", "grass", "boat", "others")
CLASS_NAMES = ["cat", "dog", "sky", "grass", "boat"]
PROPOSAL_NET = {
    "backbone": "resnet10t",
    "backbone_arguments": {"timm_arguments": {"channels": [8, 16, 24, 32], "stem_width": 8}},
    "embedding_dim": 16,
    "embedding_hidden_dim": 16,
    "queries": 9,
    "hidden_dim": 32,
    "mask_dim": 16,
    "norm_groups": 4,
    "heads": 2,
    "feedforward_dim": 24,
    "decoder_layers": 2,
}
CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "head_width": 8, "layers": 4},
    "text_cfg": {"context_length": 8, "vocab_size": len(WORDS) + 3, "width": 8, "heads": 2, "layers": 2},
}


def tiny_segmenter(*, seed: int = 0, prompt_depth: int = 3, more_words: tuple[str, ...] = (), **settings) -> Segmenter:
    """Random weights, shifted and scaled so that proposals differ from each other and from place to place."""
    words = (*WORDS, *more_words)
    text = {**CLIP["text_cfg"], "vocab_size": len(words) + 3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = build_proposal_net(**PROPOSAL_NET).eval()
        spread_outputs(net)
        clip = build_mask_adapted_clip({**CLIP, "text_cfg": text}, prompt_depth=prompt_depth, seed=seed)
        clip.clip.token_embedding.weight.data.mul_(50)  # so that names differ
        if clip.mask_prompts is not None:
            clip.mask_prompts.data.mul_(20)
    return Segmenter(
        net,
        clip,
        tokenizer=WordTokenizer(words, 8),
        settings=SegmenterSettings(**{"short_side_px": 64, "max_side_px": 128} | settings),
    )


@torch.no_grad()
def spread_outputs(net: ProposalNet) -> None:
    """Centre mask features and embeddings on a few pictures; give the mask logits a standard deviation of 4."""
    net.query_decoder.query_positions.weight.mul_(3)
    images = net.preprocess([torch.from_numpy(picture(64, 96, seed)).permute(2, 0, 1) for seed in range(4)])
    centre = net.pixel_decoder(net.backbone(images)).mean(dim=(0, 2, 3))
    net.pixel_decoder.mask_features.bias.sub_(centre)
    hidden = net.query_decoder(net.backbone(images).res5, every_layer=False)
    for head in (net.mask_head, net.embedding_head):
        head.layers[-1].bias.sub_(head(hidden).flatten(0, -2).mean(dim=0))
    scale = 4 / net(images).mask_logits.std()
    net.mask_head.layers[-1].weight.mul_(scale)
    net.mask_head.layers[-1].bias.mul_(scale)


def picture(height: int = 50, width: int = 70, seed: int = 0) -> np.ndarray:
    """Coloured blocks with some noise, RGB uint8 [height width 3]."""
    generator = np.random.default_rng(seed)
    blocks = generator.integers(0, 256, (4, 5, 3)).repeat(-(-height // 4), axis=0).repeat(-(-width // 5), axis=1)
    noisy = blocks[:height, :width] + generator.normal(0, 12, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)
