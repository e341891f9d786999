"""The samples of stage 1: augmented scenes, upright, each a function of seed, epoch and key alone."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pipeline.errors import StageError
from pipeline.train_proposals.augmentation import Augmentation
from pipeline.training.data_order import Draw, generator
from pipeline.upright_scenes import upright_labels, upright_picture
from storage_schemas.scene_collection import SceneCollection


class ProposalSample(NamedTuple):
    """One sample.

    Attributes:
        number: Of the scene in its collection.
        image: RGB, 0..255 [3 side side], uint8.
        label_map: Class indices [side side], int32; pixels of held-out classes have the ignore label.
    """

    number: int
    image: Tensor
    label_map: Tensor


@dataclass(frozen=True)
class ProposalSamples:
    """Makes samples of labelled scenes; picklable.

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

    def sample(self, draw: Draw) -> ProposalSample:
        """Read and vary one scene.

        Raises:
            StageError: If the scene has no label map.
        """
        scene = self.scenes.read(draw.sample)
        if scene.label_png is None:
            message = f"scene {scene.key}: has no label map; train on a collection of labelled scenes"
            raise StageError(message)
        rgb, label_map = upright_picture(scene), upright_labels(scene.label_png, scene.exif_orientation)
        if self.held_out_classes:
            label_map[np.isin(label_map, self.held_out_classes)] = self.augmentation.ignore_label
        rng = generator(self.seed, "augment", draw.epoch, scene.key)
        pixels, label_map = self.augmentation(rgb, label_map, rng)
        chw = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        return ProposalSample(draw.sample, torch.from_numpy(chw), torch.from_numpy(np.ascontiguousarray(label_map)))
