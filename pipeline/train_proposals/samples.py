"""The batches of stage 1: augmented scenes, upright, each a function of seed, epoch and key alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_models.targets import present_classes
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.training.data_order import Draw, generator
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection


class ProposalBatch(NamedTuple):
    """Scenes, one row each.

    Attributes:
        numbers: Of the scenes in their collection [scene], int64.
        images: RGB, 0..255 [scene 3 side side], uint8.
        label_maps: Class indices [scene side side], int32; pixels of held-out classes have the ignore label.
        classes: Class indices that occur, ascending, each row filled up with -1 [scene most], int64.
    """

    numbers: Tensor
    images: Tensor
    label_maps: Tensor
    classes: Tensor


@dataclass(frozen=True)
class ProposalSamples:
    """Makes batches of labelled scenes; picklable.

    Attributes:
        scenes: A collection of labelled scenes.
        augmentation: How they are varied.
        seed: What decides all chance.
        held_out_classes: Class indices whose pixels are ignored.
    """

    scenes: SceneCollection
    augmentation: Augmentation
    seed: int
    held_out_classes: tuple[int, ...] = ()

    def batch(self, draws: Sequence[Draw]) -> ProposalBatch:
        """Read and vary scenes.

        Raises:
            StageError: If a scene has no label map, or cannot be decoded.
        """
        ignore_label = self.augmentation.ignore_label
        images, label_maps = [], []
        for draw in draws:
            rgb, labels, scene = read_labelled(self.scenes, draw.sample)
            if self.held_out_classes:
                labels[np.isin(labels, self.held_out_classes)] = ignore_label
            rng = generator(self.seed, "augment", draw.epoch, scene.key)
            pixels, labels = self.augmentation(rgb, labels, rng)
            # Contiguous, for a flip leaves negative strides, which torch does not take.
            images.append(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))
            label_maps.append(torch.from_numpy(np.ascontiguousarray(labels)))
        # Which classes occur is found here, in the worker, so that training need not wait for its device to say it.
        present = [present_classes(label_map, ignore_label=ignore_label) for label_map in label_maps]
        return ProposalBatch(
            torch.tensor([draw.sample for draw in draws]),
            torch.stack(images),
            torch.stack(label_maps),
            torch.nn.utils.rnn.pad_sequence(present, batch_first=True, padding_value=-1),
        )
