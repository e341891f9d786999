"""Samples: the crop that inference would make, varied only by seed, epoch and pair."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg_models.masked_crops import masked_crops, normalised, patch_mask
from ovseg_models.preprocessing import CLIP_MEAN_RGB, CLIP_STD_RGB, CropFormat
from pipeline.drawn_world.words import NOUNS
from pipeline.drawn_world.world import DrawnWorld, split_indices
from pipeline.errors import StageError
from pipeline.finetune.samples import PairBatch, PairSamples
from pipeline.training.data_order import Draw
from storage_schemas.artifact import Artifact
from storage_schemas.pair_collection import PairCollection
from tests.pipeline.finetune.made_pairs import made_pair, made_pairs, png

MEAN, STD = (torch.tensor(part)[:, None, None] for part in (CLIP_MEAN_RGB, CLIP_STD_RGB))
NONE, PAPER = (1.0, 1.0), (0.9, 4 / 3)  # smallest scale and largest aspect of a window


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return made_pairs(tmp_path_factory.mktemp("pairs"), scenes=4)


def samples(artifact: Artifact, window: tuple[float, float] = NONE, seed: int = 0) -> PairSamples:
    return PairSamples(PairCollection(artifact), *window, seed=seed, crop=CropFormat(64, 8))


def sample_of(made: PairSamples, epoch: int, number: int) -> PairBatch:
    return PairBatch(*(tensor[0] for tensor in made.batch([Draw(epoch, number)])))


def test_an_unvaried_sample_is_the_crop_that_inference_makes_of_the_whole_picture(pairs: Artifact) -> None:
    made = samples(pairs)
    scene = DrawnWorld(seed=0).scene(split_indices("train", 1)[0])
    image = torch.from_numpy(np.ascontiguousarray(scene.image.transpose(2, 0, 1)))
    labels = [label for label in np.unique(scene.label_map) if (scene.label_map == label).sum() >= 40]
    masks = torch.from_numpy(np.stack([scene.label_map == label for label in labels]))
    expected = masked_crops(image, masks, crop_px=64)
    patches = patch_mask(expected.crop_masks, 8)
    for number, label in enumerate(labels):
        sample = sample_of(made, 0, number)
        pixels = expected.crops[number] * 255 * STD + 255 * MEAN
        assert (sample.crops - pixels.clamp(0, 255)).abs().max() <= 0.501  # rounded to 8 bits, and nothing else
        assert torch.equal(sample.patch_masks, patches[number])
        assert made.pairs.nouns[sample.nouns] == NOUNS[label]


def test_pixels_outside_the_mask_have_clips_mean_and_their_patches_are_out(pairs: Artifact) -> None:
    made = samples(pairs, PAPER)
    for number in range(len(made.pairs)):
        sample = sample_of(made, 0, number)
        if not sample.patch_masks.all():
            break
    by_patch = normalised(sample.crops).unfold(1, 8, 8).unfold(2, 8, 8).permute(1, 2, 0, 3, 4).flatten(0, 1).flatten(1)
    inside = by_patch[sample.patch_masks].abs().amax(1)
    outside = by_patch[~sample.patch_masks].abs().mean()
    assert inside.mean() > 0.5
    assert outside < 0.1  # zero but for the bicubic overshoot of a neighbour


def test_samples_are_functions_of_seed_epoch_and_pair(pairs: Artifact) -> None:
    crops = {
        (seed, epoch): sample_of(samples(pairs, PAPER, seed), epoch, 2).crops for seed in (0, 1) for epoch in (0, 1)
    }
    assert torch.equal(crops[0, 0], sample_of(pickle.loads(pickle.dumps(samples(pairs, PAPER))), 0, 2).crops)
    for key in ((0, 1), (1, 0), (1, 1)):
        assert not torch.equal(crops[0, 0], crops[key])


def test_a_batch_holds_its_samples_in_order(pairs: Artifact) -> None:
    made = [sample_of(samples(pairs, PAPER), 0, number) for number in (3, 0, 1)]
    batch = samples(pairs, PAPER).batch([Draw(0, number) for number in (3, 0, 1)])
    assert batch.numbers.tolist() == [3, 0, 1]
    for found, parts in zip(batch, zip(*made, strict=True), strict=True):
        assert torch.equal(found, torch.stack(parts))


def bad_pair(**changes: object) -> object:
    image = np.full((8, 8, 3), 90, np.uint8)
    pair = made_pair("z-000", image, np.ones((8, 8), np.bool_), "boat")
    return pair.__class__(**{name: getattr(pair, name) for name in pair.__dataclass_fields__} | changes)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"crop": b"no picture"}, r"pair z-000 cannot be decoded: .*; run 'ovseg mine' again"),
        ({"crop_mask_png": png(np.full((8, 9), 255, np.uint8))}, r"crop of \(8, 8\) px and mask of \(8, 9\) px"),
        ({"crop_mask_png": png(np.zeros((8, 8), np.uint8))}, r"pair z-000 has .* with 0 pixels inside"),
    ],
)
def test_pictures_that_will_not_do_are_named(tmp_path: Path, changes: dict[str, object], reason: str) -> None:
    artifact = made_pairs(tmp_path, scenes=1, shards=1, more=[bad_pair(**changes)])
    made = samples(artifact)
    with pytest.raises(StageError, match=reason):
        made.batch([Draw(0, len(made.pairs) - 1)])
