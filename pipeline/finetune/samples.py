"""The batches of stage 3: masked crops made of stored pairs, each a function of seed, epoch and pair alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovseg_models.masked_crops import crops_of_regions, patch_mask, without_normalisation
from pipeline.errors import StageError
from pipeline.finetune.augmentation import WindowAugmentation
from pipeline.pair_pictures import pair_pictures
from pipeline.training.data_order import Draw, generator
from storage_schemas.pair_collection import PairCollection


class PairBatch(NamedTuple):
    """Masked crops with their nouns, one row per pair.

    Attributes:
        numbers: Of the pairs in their collection [pair], int64.
        nouns: Places of their nouns in the collection's list [pair], int64.
        crops: RGB, 0..255, CLIP's mean colour outside the mask [pair 3 side side], uint8.
        patch_masks: True for patches with a pixel of the mask [pair patch].
    """

    numbers: Tensor
    nouns: Tensor
    crops: Tensor
    patch_masks: Tensor


@dataclass(frozen=True)
class PairSamples:
    """Makes batches of pairs; picklable.

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

    def batch(self, draws: Sequence[Draw]) -> PairBatch:
        """Read pairs, cut a window out of crop and mask of each, mask and resize it.

        Crops are rounded to 8 bits, a quarter of what single precision takes on the way to the device; the published
        training reads crops of 8 bits as well. The model normalises them on its device.

        Raises:
            StageError: If a pair's pictures cannot be decoded, differ in size, or its mask is empty.
        """
        side = self.crop_px
        crops = torch.empty(len(draws), 3, side, side, dtype=torch.uint8)
        crop_masks = torch.empty(len(draws), side, side, dtype=torch.bool)
        for row, draw in enumerate(draws):
            pixels, mask = self._pictures(draw.sample)
            place = self.pairs.place(draw.sample)
            window = self.augmentation.window(mask, generator(self.seed, "augment", draw.epoch, place.pair))
            region = torch.from_numpy(window.of(pixels)).permute(2, 0, 1), torch.from_numpy(window.of(mask))
            crop, crop_mask = crops_of_regions([region], crop_px=side)
            crops[row], crop_masks[row] = without_normalisation(crop[0]), crop_mask[0]
        numbers = [draw.sample for draw in draws]
        nouns = torch.from_numpy(self.pairs.noun_numbers[numbers])
        return PairBatch(torch.tensor(numbers), nouns, crops, patch_mask(crop_masks, self.patch_px))

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
            message = f"{unit}: pair {pair} has a {found}; equal sizes and a filled mask are expected; mine again"
            raise StageError(message)
        return pixels, inside
