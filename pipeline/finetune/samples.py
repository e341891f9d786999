"""The samples of stage 3: masked crops made of stored pairs, each a function of seed, epoch and pair alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_models.masked_crops import crops_of_regions, patch_mask
from pipeline.errors import StageError
from pipeline.finetune.augmentation import WindowAugmentation
from pipeline.pair_pictures import pair_pictures
from pipeline.training.data_order import Draw, generator
from storage_schemas.pair_collection import PairCollection


class PairSample(NamedTuple):
    """One masked crop with its noun.

    Attributes:
        number: Of the pair in its collection.
        noun: Place of the noun in the collection's list.
        crop: Normalised for CLIP, its mean colour outside the mask [3 side side].
        patch_mask: True for patches with a pixel of the mask [patch].
    """

    number: int
    noun: int
    crop: Tensor
    patch_mask: Tensor


class PairBatch(NamedTuple):
    """Samples as the model takes them.

    Attributes:
        nouns: [pair], int64.
        crops: [pair 3 side side].
        patch_masks: [pair patch].
    """

    nouns: Tensor
    crops: Tensor
    patch_masks: Tensor


@dataclass(frozen=True)
class PairSamples:
    """Makes samples of pairs; picklable.

    Attributes:
        pairs: A collection of pairs.
        augmentation: How crops are varied.
        seed: What decides all chance.
        crop_px: Side of CLIP's input [px].
        patch_px: Side of a patch [px].
    """

    pairs: PairCollection
    augmentation: WindowAugmentation
    seed: int
    crop_px: int
    patch_px: int

    def sample(self, draw: Draw) -> PairSample:
        """Read one pair, cut a window out of crop and mask, mask and resize it.

        Raises:
            StageError: If the pair's pictures cannot be decoded, differ in size, or its mask is empty.
        """
        pixels, mask = self._pictures(draw.sample)
        place = self.pairs.place(draw.sample)
        window = self.augmentation.window(mask, generator(self.seed, "augment", draw.epoch, place.pair))
        region = torch.from_numpy(np.array(window.of(pixels).transpose(2, 0, 1), order="C"))
        region_mask = torch.from_numpy(np.array(window.of(mask), order="C"))
        crops, crop_masks = crops_of_regions([(region, region_mask)], crop_px=self.crop_px)
        noun = int(self.pairs.noun_numbers[draw.sample])
        return PairSample(draw.sample, noun, crops[0], patch_mask(crop_masks, self.patch_px)[0])

    def _pictures(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Decode crop [height width 3] and mask [height width] of a pair."""
        members = self.pairs.read(number)
        try:
            pixels, inside = pair_pictures(members)
        except (OSError, ValueError) as error:
            unit, pair = self.pairs.place(number)
            message = f"{unit}: pictures of pair {pair} cannot be decoded ({error}); run 'ovseg mine' again"
            raise StageError(message) from error
        if pixels.shape[:2] != inside.shape or not inside.any():
            unit, pair = self.pairs.place(number)
            found = f"crop of {pixels.shape[:2]} px and mask of {inside.shape} px with {inside.sum()} pixels inside"
            message = f"{unit}: pair {pair} has a {found}; equal sizes and a filled mask are wanted; mine again"
            raise StageError(message)
        return pixels, inside


def collated(samples: Sequence[PairSample], device: torch.device) -> PairBatch:
    """Put samples together and move them to a device."""
    return PairBatch(
        torch.tensor([sample.noun for sample in samples]).to(device),
        torch.stack([sample.crop for sample in samples]).to(device, non_blocking=True),
        torch.stack([sample.patch_mask for sample in samples]).to(device, non_blocking=True),
    )
