"""Pretrain the small CLIP, the published one's substitute, on drawn pictures, never on masked ones.

``python tools/pretrain_small_clip.py --out DIR --seed 0 --samples 1000000``; about 190 pictures/s on two idle cores.
It sees scenes of the split ``clip-pretrain`` alone; zero-shot accuracies are measured on ``clip-val``.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch
from PIL import Image
from torch.nn import functional

from ovseg_models.contrastive_loss import contrastive_loss
from ovseg_models.masked_crops import masked_crops
from ovseg_models.pretrained_clip import build_clip
from ovseg_models.text_classifier import TextClassifier
from ovseg_models.word_tokenizer import WordTokenizer, split_words
from pipeline.drawn_world.captions import MIN_STUFF_SHARE, Mention, draw_captions, size_name
from pipeline.drawn_world.scene import DrawnScene, DrawnThing
from pipeline.drawn_world.stuff import STUFF_NOUNS
from pipeline.drawn_world.things import THING_NOUNS
from pipeline.drawn_world.words import LABELS, NOUNS, PROMPT_TEMPLATES, WORDS
from pipeline.drawn_world.world import DrawnWorld, split_indices

IMAGE_PX, CONTEXT = 64, 16
BATCH, SAMPLES_PER_SCENE = 128, 4
THING_WINDOWS, WHOLE_SCENES = 0.60, 0.22  # the rest are random windows
PROMPTS = 0.25  # share of the texts that are a prompt template with the noun, as in zero-shot classification
MIN_THING_SHARE = 0.02  # of a window, for a thing to be named
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]  # CLIP's, as the crops are normalised with
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]

TOKENIZER = WordTokenizer([word for word in WORDS if split_words(word)], CONTEXT)
ARCHITECTURE: dict[str, Any] = {
    "embed_dim": 96,
    "vision_cfg": {"image_size": IMAGE_PX, "patch_size": 8, "width": 96, "head_width": 32, "layers": 4},
    "text_cfg": {
        "context_length": CONTEXT,
        "vocab_size": TOKENIZER.vocab_size,
        "width": 64,
        "heads": 2,
        "layers": 2,
    },
}


class Window(NamedTuple):
    """A part of a scene: left, top, right, bottom; px, half-open."""

    left: int
    top: int
    right: int
    bottom: int


def window_around(box: tuple[int, int, int, int], size_px: int, rng: np.random.Generator) -> Window:
    """Widen a thing's box by a random factor of 1 to 2.2, moved a little, inside the scene."""
    left, top, right, bottom = box
    factor = rng.uniform(1, 2.2)
    width, height = (right - left) * factor, (bottom - top) * factor
    shift = rng.uniform(-0.5, 0.5, 2) * (factor - 1) * np.array([right - left, bottom - top])
    x, y = (left + right) / 2 + shift[0], (top + bottom) / 2 + shift[1]
    low = np.floor([x - width / 2, y - height / 2]).clip(0, size_px - 4).astype(int)
    high = np.ceil([x + width / 2, y + height / 2]).clip(4, size_px).astype(int)
    return Window(int(low[0]), int(low[1]), max(int(high[0]), int(low[0]) + 4), max(int(high[1]), int(low[1]) + 4))


def random_window(size_px: int, rng: np.random.Generator) -> Window:
    """Draw a window of 0.3 to 0.9 of each side."""
    width, height = (rng.uniform(0.3, 0.9, 2) * size_px).astype(int).tolist()
    left, top = int(rng.integers(size_px - width + 1)), int(rng.integers(size_px - height + 1))
    return Window(left, top, left + width, top + height)


def mentions_in(scene: DrawnScene, window: Window, always: DrawnThing | None) -> list[Mention]:
    """List what a window shows: things by visible share, stuff by share; one thing is always listed."""
    part = np.s_[window.top : window.bottom, window.left : window.right]
    labels, instances = scene.label_map[part], scene.instance_map[part]
    counts = np.bincount(labels.ravel(), minlength=len(NOUNS))
    pixels = np.bincount(instances.ravel(), minlength=max(thing.instance for thing in scene.things) + 1)
    things = [
        Mention(thing.noun, thing.hue, size_name(thing.visible_px / scene.label_map.size), thing.stuff)
        for thing in scene.things
        if thing is always
        or (pixels[thing.instance] >= MIN_THING_SHARE * labels.size and pixels[thing.instance] > 0.4 * thing.visible_px)
    ]
    stuff = [
        Mention(noun, None, "", "")
        for noun in STUFF_NOUNS
        if counts[LABELS[noun]] >= max(MIN_STUFF_SHARE, 0.12) * labels.size
    ]
    return things + stuff


def text_of(mentions: list[Mention], always: DrawnThing | None, rng: np.random.Generator) -> str:
    """Draw a text for a window, which names the thing that the window was laid around."""
    noun = always.noun if always is not None else mentions[int(rng.integers(len(mentions)))].noun
    if rng.random() < PROMPTS:
        plain = PROMPT_TEMPLATES[:4]  # a size would be a claim
        return plain[int(rng.integers(len(plain)))].format(noun)
    captions = draw_captions(mentions, rng)
    naming = [caption.text for caption in captions if any(span.noun == noun for span in caption.spans)]
    return naming[int(rng.integers(len(naming)))] if naming else f"a photo of a {noun}"


def samples(world: DrawnWorld, indices: Iterator[int], seed: int) -> Iterator[tuple[npt.NDArray[np.uint8], str]]:
    """Yield windows, brought to CLIP's size, with their texts."""
    for index in indices:
        scene = world.scene(index)
        rng = np.random.default_rng([seed, index])
        if not scene.things:
            continue
        for _ in range(SAMPLES_PER_SCENE):
            chance, thing = rng.random(), None
            if chance < THING_WINDOWS:
                thing = scene.things[int(rng.integers(len(scene.things)))]
                window = window_around(thing.box_xyxy, world.size_px, rng)
            elif chance < THING_WINDOWS + WHOLE_SCENES:
                window = Window(0, 0, world.size_px, world.size_px)
            else:
                window = random_window(world.size_px, rng)
            mentions = mentions_in(scene, window, thing)
            if mentions:
                picture = (
                    Image.fromarray(scene.image).crop(window).resize((IMAGE_PX, IMAGE_PX), Image.Resampling.BICUBIC)
                )
                yield np.asarray(picture), text_of(mentions, thing, rng)


def batches(seed: int) -> Iterator[tuple[torch.Tensor, list[str]]]:
    """Yield endless batches of normalised pictures and texts; scenes are mixed through a buffer."""
    stream = samples(DrawnWorld(seed=0), iter(split_indices("clip-pretrain", 10_000_000)), seed)
    rng = np.random.default_rng([seed, 1])
    buffer = [next(stream) for _ in range(8 * BATCH)]
    while True:
        picked = rng.choice(len(buffer), BATCH, replace=False)
        pictures = torch.from_numpy(np.stack([buffer[place][0] for place in picked])).permute(0, 3, 1, 2) / 255
        yield (pictures - MEAN) / STD, [buffer[place][1] for place in picked]
        for place in picked:
            buffer[place] = next(stream)


def zero_shot(clip: Any, pictures: int) -> dict[str, float]:
    """Measure 54-way accuracy on single things: tight natural and masked crops, at home and on alien stuff."""
    texts = TextClassifier(clip, TOKENIZER).text_embeddings(NOUNS, PROMPT_TEMPLATES)
    world = DrawnWorld(seed=0)
    right: dict[str, list[bool]] = {}
    for number, index in enumerate(split_indices("clip-val", pictures)):
        noun = THING_NOUNS[number % len(THING_NOUNS)]
        for at_home in (True, False):
            scene = world.single_object(index, noun, at_home=at_home)
            mask = torch.from_numpy(scene.instance_map == scene.things[0].instance)[None]
            image = torch.from_numpy(scene.image).permute(2, 0, 1)
            for name, fill in (("natural", "unmasked"), ("masked", "mean")):
                crops = masked_crops(image, mask, crop_px=IMAGE_PX, fill=fill).crops
                with torch.no_grad():
                    best = (clip.encode_image(crops, normalize=True) @ texts.T).argmax(1).item()
                place = "home" if at_home else "alien"
                right.setdefault(f"{name} tight, {place}", []).append(NOUNS[best] == noun)
    return {name: round(100 * sum(values) / len(values), 1) for name, values in right.items()}


def learning_rate(step: int, steps: int) -> float:
    """Warm up for 200 steps, then fall along a cosine."""
    if step < 200:
        return 1.2e-3 * (step + 1) / 200
    return 0.6e-3 * (1 + math.cos(math.pi * (step - 200) / max(1, steps - 200)))


def main() -> None:
    """Train, measure, and write weights, architecture, words and figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    clip = build_clip(ARCHITECTURE, seed=options.seed).train()
    decayed = [parameter for parameter in clip.parameters() if parameter.ndim >= 2]
    plain = [parameter for parameter in clip.parameters() if parameter.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.2e-3, betas=(0.9, 0.98), eps=1e-6)
    steps, started = options.samples // BATCH, time.monotonic()
    for step, (pictures, texts) in enumerate(batches(options.seed)):
        if step == steps:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        image_features = functional.normalize(clip.encode_image(pictures), dim=-1)
        text_features = functional.normalize(clip.encode_text(TOKENIZER(texts)), dim=-1)
        loss = contrastive_loss(image_features, text_features, clip.logit_scale.exp())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, math.log(100))
        if step % 100 == 99 or step + 1 == steps:
            rate = (step + 1) * BATCH / (time.monotonic() - started)
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}, {rate:.0f} samples/s", flush=True)
        if step % 1000 == 999 or step + 1 == steps:
            write(clip.eval(), options.out, {"seed": options.seed, "samples": (step + 1) * BATCH})
            clip.train()


def write(clip: Any, out: Path, facts: dict[str, Any]) -> None:
    """Write half-precision weights, the architecture with its words, and the figures."""
    tensors = {name: tensor.half().contiguous() for name, tensor in clip.state_dict().items()}
    safetensors.torch.save_file(tensors, out / "small_clip.safetensors")
    architecture = {**ARCHITECTURE, "words": list(TOKENIZER.words)}
    (out / "small_clip.json").write_text(json.dumps(architecture, indent=2) + "\n")
    figures = {**facts, "zero_shot": zero_shot(clip, 1008)}
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
