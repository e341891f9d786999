"""How well a CLIP names masked ground-truth regions of a vocabulary that it was not trained on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ovseg_models.encoding import cut_regions
from ovseg_models.one_pass import OnePass
from ovseg_models.preprocessing import CropFormat
from ovseg_models.zero_shot import ZeroShotCounts
from pipeline.training.labelled_scenes import read_labelled
from storage_schemas.scene_collection import SceneCollection

_CROPS_PER_FORWARD = 256


class LabelledCrops(NamedTuple):
    """Masked crops of labelled regions.

    Attributes:
        class_ids: What each shows [crop], int64.
        crops: Normalised for CLIP [crop 3 side side].
        patch_masks: True for patches with a pixel of the region [crop patch].
    """

    class_ids: Tensor
    crops: Tensor
    patch_masks: Tensor


Embed = Callable[[Tensor, Tensor], Tensor]
"""From crops and patch masks to L2-normalised embeddings; or from pictures [picture 3 side side] and the shares of
their patches that masks fill [picture mask patch] to embeddings [picture mask dim]."""


@dataclass(frozen=True)
class Validation:
    """What a CLIP is measured on: all pixels of a class in a scene are one region, as in stage 1.

    Attributes:
        scenes: Labelled scenes.
        text_embeddings: Of their class names [class dim], L2-normalised.
        groups: Class indices by ``"seen"`` and ``"unseen"``, where the vocabulary has such marks.
        crop: What CLIP takes as a crop.
        one_pass: Names masks of whole pictures; None for crops.

    References:
        OVSeg's finetuning script, which measures on masked crops of ADE20K's 150 classes.
    """

    scenes: SceneCollection
    text_embeddings: Float[Tensor, "class dim"]
    groups: dict[str, tuple[int, ...]]
    crop: CropFormat
    one_pass: OnePass | None = None

    @torch.no_grad()
    def counts(self, embed: Embed, numbers: Sequence[int]) -> ZeroShotCounts:
        """Count over the regions of some scenes.

        Args:
            embed: The image tower.
            numbers: Of the scenes.

        Raises:
            StageError: If a scene has no label map, or cannot be decoded.
        """
        counts = ZeroShotCounts.none(len(self.text_embeddings))
        device = self.text_embeddings.device
        waiting: list[LabelledCrops] = []  # a scene has few regions: those of several go through the tower together
        for place, number in enumerate(numbers, start=1):
            picture, label_map, scene = read_labelled(self.scenes, number)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)  # [height width 3] to [3 height width]
            class_ids = torch.tensor(scene.classes, dtype=torch.int64, device=device)
            # [height width] against [class 1 1]: one mask per class, [class height width]
            masks = torch.from_numpy(label_map).to(device) == class_ids[:, None, None]
            if self.one_pass is not None:
                seen = self.one_pass.resized(pixels.to(device))[None], self.one_pass.filled(masks)[None]
                counts.add(embed(*seen)[0], self.text_embeddings, class_ids)
                continue
            cut = cut_regions(pixels, masks, self.crop)
            valid = torch.from_numpy(cut.crop_of_mask >= 0)  # no classes share a pixel, so that each has its own crop
            waiting.append(LabelledCrops(class_ids[valid], cut.crops, cut.patch_mask))
            if place == len(numbers) or sum(len(some.class_ids) for some in waiting) >= _CROPS_PER_FORWARD:
                batch = LabelledCrops(*map(torch.cat, zip(*waiting, strict=True)))
                counts.add(embed(batch.crops, batch.patch_masks), self.text_embeddings, batch.class_ids)
                waiting = []
        return counts


def seen_groups(marks: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the class indices of each mark, where both kinds occur; uncertain ones are in no group."""
    groups = {name: tuple(index for index, mark in enumerate(marks) if mark == name) for name in ("seen", "unseen")}
    return groups if all(groups.values()) else {}
