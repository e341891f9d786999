"""Samples of stage 1 are functions of seed, epoch and key."""

import pickle

import numpy as np
import pytest
import torch

from pipeline.errors import StageError
from pipeline.prepare.drawn_world.words import IGNORE_LABEL
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.training.data_order import Draw
from storage_schemas.scene_collection import SceneCollection

AUGMENTATION = Augmentation((64, 72), 96, 64, IGNORE_LABEL)
WHOLE = Augmentation((64,), 64, 64, IGNORE_LABEL)


def equal(one: object, other: object) -> bool:
    return one.number == other.number and bool(
        (one.image == other.image).all() and (one.label_map == other.label_map).all()
    )


def test_equal_draws_give_equal_samples_and_each_epoch_others(scenes: SceneCollection) -> None:
    samples = ProposalSamples(scenes, AUGMENTATION, seed=3)
    sample = samples.sample(Draw(0, 4))
    assert equal(pickle.loads(pickle.dumps(samples)).sample(Draw(0, 4)), sample)
    assert not equal(samples.sample(Draw(1, 4)), sample)
    assert not equal(ProposalSamples(scenes, AUGMENTATION, seed=4).sample(Draw(0, 4)), sample)
    assert (sample.image.dtype, tuple(sample.image.shape)) == (torch.uint8, (3, 64, 64))


def test_chance_hangs_on_the_key_not_on_the_number(scenes: SceneCollection) -> None:
    class Renumbered:
        def read(self, number: int) -> object:
            return scenes.read(4)

    samples = ProposalSamples(Renumbered(), AUGMENTATION, seed=3)
    wanted = ProposalSamples(scenes, AUGMENTATION, seed=3).sample(Draw(2, 4))
    assert (samples.sample(Draw(2, 0)).image == wanted.image).all()


def test_pixels_of_held_out_classes_are_ignored_and_all_others_stay(scenes: SceneCollection) -> None:
    plain = ProposalSamples(scenes, WHOLE, seed=0).sample(Draw(0, 1)).label_map.numpy()
    held_out = tuple(np.unique(plain)[:2].tolist())
    found = ProposalSamples(scenes, WHOLE, seed=0, held_out_classes=held_out).sample(Draw(0, 1)).label_map.numpy()
    np.testing.assert_array_equal(found, np.where(np.isin(plain, held_out), IGNORE_LABEL, plain))


def test_a_scene_without_labels_is_refused(scenes: SceneCollection) -> None:
    class Unlabelled:
        def read(self, number: int) -> object:
            from dataclasses import replace

            return replace(scenes.read(number), label_png=None)

    with pytest.raises(StageError, match="scene drawn-00000002: has no label map; train on a collection of labelled"):
        ProposalSamples(Unlabelled(), WHOLE, seed=0).sample(Draw(0, 2))
