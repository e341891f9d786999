"""Regions of drawn scenes, exact or as a proposal net would find them, and pairs made of them in the paper's way.

The masks of proposals are ground truth with known faults: merged with a neighbour, halved, shrunk or grown, with a
ragged border. So the quality of pairs is known, and doesn't hang on how long some proposal net was trained.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy import ndimage

from ovseg_models.masked_crops import masked_crops
from ovseg_models.prompt_templates import VILD
from ovseg_models.text_classifier import TextClassifier
from pipeline.clip_loading import LoadedClip
from pipeline.drawn_world.scene import DrawnScene
from pipeline.drawn_world.words import NOUNS, UNSEEN_NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.mine.nouns import NounExtractor
from storage_schemas.artifact import Artifact
from storage_schemas.manifest import Description, Identity
from storage_schemas.pairs import KIND, SCHEMA_VERSION, Pair, PairShardWriter
from storage_schemas.rle import encode_masks

UNIT = "shard-00000"
MIN_REGION_PX = 46  # half a percent of a scene
MERGED, HALVED = 0.12, 0.12  # shares of the proposals

Mask = npt.NDArray[np.bool_]


class Region(NamedTuple):
    """All pixels of a class in a scene.

    Attributes:
        label: Place in ``NOUNS``.
        exact: [height width].
        proposed: The same with the faults of a proposal [height width].
    """

    label: int
    exact: Mask
    proposed: Mask


def regions_of(scene: DrawnScene, rng: np.random.Generator) -> list[Region]:
    """Return the regions of a scene that are not slivers, with a proposal for each."""
    labels, sizes = np.unique(scene.label_map, return_counts=True)
    kept = [int(label) for label, size in zip(labels, sizes, strict=True) if size >= MIN_REGION_PX]
    masks = [scene.label_map == label for label in kept]
    return [
        Region(label, mask, proposed(mask, [other for other in masks if other is not mask], rng))
        for label, mask in zip(kept, masks, strict=True)
    ]


def proposed(mask: Mask, others: list[Mask], rng: np.random.Generator) -> Mask:
    """Return a mask with the faults of a proposal; never empty.

    Args:
        mask: Of a region.
        others: Of the other regions of the scene.
        rng: Where chance comes from.
    """
    chance = rng.random()
    faulty = mask
    neighbours = [other for other in others if (ndimage.binary_dilation(mask) & other).any()]
    if chance < MERGED and neighbours:
        faulty = mask | neighbours[int(rng.integers(len(neighbours)))]
    elif chance < MERGED + HALVED:
        faulty = _halved(mask, rng)
    blurred = ndimage.gaussian_filter(faulty.astype(np.float64), 1.5)
    ragged = ndimage.gaussian_filter(rng.normal(size=mask.shape), 1.5) * 0.8
    faulty = (blurred + ragged > rng.uniform(0.3, 0.7)) & ndimage.binary_dilation(faulty, iterations=3)
    return faulty if faulty.any() else mask


def _halved(mask: Mask, rng: np.random.Generator) -> Mask:
    """Keep what lies on one side of a line through the middle."""
    lines, columns = np.nonzero(mask)
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.indices(mask.shape)
    side = (y - lines.mean()) * np.sin(angle) + (x - columns.mean()) * np.cos(angle) > 0
    half: Mask = mask & side
    return half if half.any() else mask


def scenes_of(split: str, seed: int, scenes: int) -> Iterator[tuple[int, DrawnScene, np.random.Generator]]:
    """Yield scenes of the world of a seed with their index and a generator of their own."""
    world = DrawnWorld(seed=seed)
    for index in split_indices(split, scenes):
        yield index, world.scene(index), np.random.default_rng([seed, index])


def mined_pairs(runs: Path, base: LoadedClip, *, seed: int, scenes: int) -> Artifact:
    """Mine pairs as the paper does: each noun of one caption gets the proposal that CLIP finds nearest.

    All nouns take part, those that name no region too; there is no threshold.
    """
    extractor, classifier = NounExtractor(), TextClassifier(base.clip, base.tokenize)
    pairs: list[Pair] = []
    right = 0
    for index, scene, rng in scenes_of("train", seed, scenes):
        regions = regions_of(scene, rng)
        masks = [region.proposed for region in regions]
        nouns = extractor.extract(scene.captions[0].text)
        if not nouns:
            continue
        texts = classifier.text_embeddings([noun.lemma for noun in nouns], VILD)
        image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))  # [height width 3] to [3 ...]
        crops = masked_crops(image, torch.from_numpy(np.stack(masks)), crop_px=base.clip.visual.image_size[0])
        with torch.no_grad():
            scores = texts @ base.clip.encode_image(crops.crops, normalize=True).T
        for place, (noun, score) in enumerate(zip(nouns, scores, strict=True)):
            best = int(score.argmax())
            name = f"drawn-{index:08d}-{place:03d}"
            pairs.append(_pair(name, scene.image, masks[best], noun.lemma, best, float(score[best])))
            right += NOUNS[regions[best].label] == noun.lemma
    return _write(runs, f"mined-{seed}", {"seed": seed, "scenes": scenes}, pairs, right / len(pairs))


def ground_truth_pairs(runs: Path, *, seed: int, scenes: int, most: int) -> Artifact:
    """Pair exact masks with their class names, seen classes alone: the closed set."""
    pairs = []
    for index, scene, rng in scenes_of("train", seed, scenes):
        for place, region in enumerate(regions_of(scene, rng)):
            if NOUNS[region.label] not in UNSEEN_NOUNS:
                name = f"drawn-{index:08d}-{place:03d}"
                pairs.append(_pair(name, scene.image, region.exact, NOUNS[region.label], region.label, None))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(pairs))[:most])
    settings = {"seed": seed, "scenes": scenes, "pairs": most}
    return _write(runs, f"seen-classes-{seed}", settings, [pairs[number] for number in chosen], 1.0)


def _pair(name: str, image: np.ndarray, mask: Mask, noun: str, region: int, score: float | None) -> Pair:
    """Cut a pair out of a scene."""
    lines, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    left, top, right, bottom = int(columns[0]), int(lines[0]), int(columns[-1]) + 1, int(lines[-1]) + 1
    return Pair(
        pair=name,
        key=name.rpartition("-")[0],
        image_id=name.split("-")[1],
        noun=noun,
        noun_text=noun,
        region=region,
        score=score,
        height_px=image.shape[0],
        width_px=image.shape[1],
        mask_counts=encode_masks(mask[None])[0],
        area_px=int(mask.sum()),
        box_xyxy=(left, top, right, bottom),
        crop_suffix="png",
        crop=_png(image[top:bottom, left:right]),
        crop_mask_png=_png(mask[top:bottom, left:right].astype(np.uint8) * 255),
    )


def _write(runs: Path, name: str, settings: dict[str, int], pairs: list[Pair], right: float) -> Artifact:
    """Write pairs as an artifact of one shard; the share that is right is a fact of it."""
    identity = Identity(kind=KIND, name=name, schema_version=SCHEMA_VERSION, producer_version=1, settings=settings)
    artifact = Artifact.planned(runs, Description(identity=identity, units=(UNIT,), attributes={"right": right}))
    with artifact.writing():
        if not artifact.status().finished:
            with artifact.write_unit(UNIT) as unit:
                writer = PairShardWriter(unit)
                for pair in pairs:
                    writer.add(pair)
                artifact.finish(artifact.manifest_of({UNIT: writer.commit()}))
    return artifact


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
