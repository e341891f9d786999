"""The whole segmenter next to the published steps in their plain form, same weights and picture, in one run.

Run alone: ``python -m tests.benchmarks.bench_segmenter``; some five minutes. R101c and ViT-B/16 with three layers of
mask prompts, random weights of the true shapes; a picture of 640 x 853 px, 100 masks, 150 class names that are embedded
before. Masks are soft ellipses in place of what the random net gives, all different. The plain form runs the same
modules in the published order: soft masks all at once, one crop after the other, all crops through all tokens of every
layer, and scores of all classes at the net's size before they are resized. The ratio is of CPU seconds on two threads,
taken in turns; peak memory is that of the process beyond what it held before, from Linux's /proc. On a machine that
does other work too, set OMP_WAIT_POLICY=passive: threads that wait in a loop for each other count as working.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ovseg_models.masked_crops import patch_mask
from ovseg_models.preprocessing import CLIP_MEAN_RGB, CLIP_STD_RGB
from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.proposal_net import ProposalNet, ProposalOutput
from ovseg_models.proposal_presets import build_proposal_net
from ovseg_models.segmenter import Segmenter
from tests.benchmarks.bench_fusion import cost_of
from tests.proposal_shapes import ellipse_logits

HEIGHT_PX, WIDTH_PX, QUERIES, CLASSES = 640, 853, 100, 150
REPEATS = 2


class WithEllipses(nn.Module):
    """A proposal net that computes all it would, and then proposes ellipses."""

    def __init__(self, net: ProposalNet) -> None:
        super().__init__()
        self.net = net
        self.logits = ellipse_logits(QUERIES, HEIGHT_PX, WIDTH_PX)[None]

    def forward(self, images: Tensor) -> ProposalOutput:
        output = self.net(images)
        return ProposalOutput(self.logits[..., : output.mask_logits.shape[-2], :], output.proposal_embeddings)

    def __getattr__(self, name: str) -> object:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)


def segmenter() -> Segmenter:
    """Build it with random weights."""
    torch.manual_seed(0)
    clip = build_mask_adapted_clip("ViT-B-16", prompt_depth=3, seed=0)
    net = build_proposal_net(backbone="r101c", embedding_dim=512)
    built = Segmenter(net, clip)
    built.proposal_net = WithEllipses(net).eval()  # type: ignore[assignment]
    return built


@torch.no_grad()
def plain_labels(model: Segmenter, pixels: np.ndarray, texts: Tensor) -> Tensor:
    """Segment a picture [height width 3] that has the net's size, in the published order."""
    net, clip = model.proposal_net, model.clip
    image = torch.from_numpy(pixels).permute(2, 0, 1)
    output = net(net.preprocess([image]))
    probs = net.class_logits(output.proposal_embeddings[0], texts).softmax(-1)[:, :-1]
    logits = output.mask_logits
    padded = (4 * logits.shape[2], 4 * logits.shape[3])
    full = functional.interpolate(logits, size=padded, mode="bilinear", align_corners=False)[0]
    soft = full[:, :HEIGHT_PX, :WIDTH_PX].sigmoid()
    hard = soft > 0.5
    valid = hard.flatten(1).any(1)
    mean, std = (255 * torch.tensor(part)[:, None, None] for part in (CLIP_MEAN_RGB, CLIP_STD_RGB))
    crops, crop_masks = [], []
    for mask in hard[valid]:
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        box = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        filled = torch.where(mask[box], (image[:, *box] - mean) / std, 0.0)
        crops.append(functional.interpolate(filled[None], size=(224, 224), mode="bicubic", align_corners=False)[0])
        small = functional.interpolate(mask[box][None, None].float(), size=(224, 224), mode="nearest")
        crop_masks.append(small[0, 0].bool())
    patches = patch_mask(torch.stack(crop_masks), clip.patch_px)
    clip_probs = (100 * all_tokens(clip, torch.stack(crops), patches) @ texts.T).softmax(-1)
    scores = probs**0.3
    scores[valid] *= clip_probs**0.7
    fused = torch.einsum("qc,qhw->chw", scores, soft)
    resized = functional.interpolate(fused[None], size=(HEIGHT_PX, WIDTH_PX), mode="bilinear", align_corners=False)
    return resized[0].argmax(0)


def all_tokens(clip: nn.Module, crops: Tensor, patches: Tensor) -> Tensor:
    """Embed crops with mask prompts, every token in every layer."""
    visual, prompts = clip.clip.visual, clip.mask_prompts
    tokens = torch.where(patches[..., None], visual.conv1(crops).flatten(2).transpose(1, 2), prompts[0])
    tokens = torch.cat([visual.class_embedding.expand(len(crops), 1, -1), tokens], 1) + visual.positional_embedding
    tokens = visual.ln_pre(tokens)
    for number, layer in enumerate(visual.transformer.resblocks):
        if 0 < number < len(prompts):
            tokens = torch.cat([tokens[:, :1], torch.where(patches[..., None], tokens[:, 1:], prompts[number])], 1)
        tokens = layer(tokens)
    return functional.normalize(visual.ln_post(tokens[:, 0]) @ visual.proj, dim=-1)


def main() -> None:
    torch.set_num_threads(2)
    model = segmenter()
    names = [f"class {number}" for number in range(CLASSES)]
    texts = functional.normalize(torch.randn(CLASSES, 512, generator=torch.Generator().manual_seed(1)), dim=1)
    model.text_embeddings = lambda class_names: texts  # type: ignore[method-assign]
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT_PX // 8, WIDTH_PX // 8 + 1, 3), dtype=np.uint8)
    pixels = noise.repeat(8, axis=0).repeat(8, axis=1)[:HEIGHT_PX, :WIDTH_PX].copy()
    jobs = {
        "plain": lambda: plain_labels(model, pixels, texts),
        "ours": lambda: model.segment(pixels, names).label_map,
    }
    costs: dict[str, list] = {name: [] for name in jobs}
    labels = {}
    for _ in range(REPEATS):
        for name, job in jobs.items():
            cost, labels[name] = cost_of(job)
            costs[name].append(cost)
    best = {name: (min(c.seconds for c in of), min(c.peak_mib for c in of)) for name, of in costs.items()}
    for name, (seconds, peak_mib) in best.items():
        print(f"{name}: {seconds:.1f} CPU s, peak {peak_mib:.0f} MiB")
    agree = float((labels["plain"] == labels["ours"]).float().mean())
    speed, memory = best["plain"][0] / best["ours"][0], best["ours"][1] / best["plain"][1]
    print(f"ours is {speed:.2f} times as fast, takes {memory:.2f} of the memory; {agree:.4%} of the labels are equal")


if __name__ == "__main__":
    main()
