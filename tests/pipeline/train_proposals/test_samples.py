"""What a sample of stage 1 hangs on beside its draw, and what it refuses."""

from dataclasses import replace

import pytest

from pipeline.drawn_world.words import IGNORE_LABEL
from pipeline.errors import StageError
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.train_proposals.samples import ProposalSamples
from pipeline.training.data_order import Draw
from storage_schemas.scene_collection import SceneCollection

AUGMENTATION = Augmentation((64, 72), 96, 64, IGNORE_LABEL)
WHOLE = Augmentation((64,), 64, 64, IGNORE_LABEL)


def test_chance_hangs_on_the_key_not_on_the_number(scenes: SceneCollection) -> None:
    class Renumbered:
        def read(self, number: int) -> object:
            return scenes.read(4)

    samples = ProposalSamples(Renumbered(), AUGMENTATION, seed=3)
    expected = ProposalSamples(scenes, AUGMENTATION, seed=3).batch([Draw(2, 4)])
    assert (samples.batch([Draw(2, 0)]).images == expected.images).all()


def test_a_scene_without_labels_is_refused(scenes: SceneCollection) -> None:
    class Unlabelled:
        def read(self, number: int) -> object:
            return replace(scenes.read(number), label_png=None)

    with pytest.raises(StageError, match="scene drawn-00000002: has no label map; train on a collection of labelled"):
        ProposalSamples(Unlabelled(), WHOLE, seed=0).batch([Draw(0, 2)])


def test_a_batch_names_the_classes_that_occur_in_each_picture(scenes: SceneCollection) -> None:
    batch = ProposalSamples(scenes, WHOLE, seed=0).batch([Draw(0, 0), Draw(0, 3), Draw(0, 1)])
    assert batch.numbers.tolist() == [0, 3, 1]
    for label_map, classes in zip(batch.label_maps, batch.classes, strict=True):
        present = [index for index in label_map.unique().tolist() if index != IGNORE_LABEL]
        assert classes.tolist() == present + [-1] * (batch.classes.shape[1] - len(present))
