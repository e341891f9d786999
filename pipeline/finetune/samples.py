"""The batches of stage 3: masked crops made of stored pairs, each a function of seed, epoch and pair alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovseg_models.masked_crops import crops_of_regions, patch_mask, without_normalisation
from ovseg_models.preprocessing import CropFormat
from pipeline.errors import StageError
from pipeline.finetune.hard_negatives import HardNouns
from pipeline.stored_pictures import UndecodableError, pair_pictures
from pipeline.training.data_order import Draw, generator
from pipeline.training.loader import rows
from storage_schemas.pair_collection import Pairs


class PairBatch(NamedTuple):
    """Masked crops with their nouns, one row per pair.

    Attributes:
        numbers: Of the pairs in their collection [pair], int64.
        nouns: Places of their nouns in the collection's list [pair], int64.
        crops: RGB, 0..255, CLIP's mean colour outside the mask [pair 3 side side], uint8.
        patch_masks: True for patches with a pixel of the mask [pair patch].
        unmasked: As ``crops``, but the picture outside the mask; [pair 0] where nobody asks for it.
        hard_nouns: Places of hard negatives in the collection's list, ``NO_NOUN`` for none [pair negative], int64.
    """

    numbers: Tensor
    nouns: Tensor
    crops: Tensor
    patch_masks: Tensor
    unmasked: Tensor
    hard_nouns: Tensor

    def part(self, first: int, end: int) -> "PairBatch":
        """Return some pairs."""
        return rows(self, first, end)


@dataclass(frozen=True)
class PairSamples:
    """Makes batches of pairs; picklable.

    Attributes:
        pairs: To make crops of.
        min_scale: Smallest share of a crop's area in the window that is cut out of it, 0..1.
        max_aspect: Largest aspect of the window in units of the crop's; the smallest is its inverse. At least 1.
        seed: What decides all chance.
        crop: What CLIP takes as a crop.
        with_unmasked: Whether crops are made without their masks, too.
        hard_nouns: What pairs are compared with beside the nouns of their batch; None for nothing.
    """

    pairs: Pairs
    min_scale: float
    max_aspect: float
    seed: int
    crop: CropFormat
    with_unmasked: bool = False
    hard_nouns: HardNouns | None = None

    def batch(self, draws: Sequence[Draw]) -> PairBatch:
        """Read pairs, cut a window out of crop and mask of each, mask and resize it.

        Crops are rounded to 8 bits, a quarter of what single precision takes on the way to the device; the published
        training reads crops of 8 bits as well. The model normalises them on its device.

        Raises:
            StageError: If a pair's pictures cannot be decoded, differ in size, or its mask is empty.
        """
        side, preprocessing = self.crop.side_px, self.crop.preprocessing
        crops = torch.empty(len(draws), 3, side, side, dtype=torch.uint8)
        crop_masks = torch.empty(len(draws), side, side, dtype=torch.bool)
        unmasked = torch.empty(crops.shape if self.with_unmasked else (len(draws), 0), dtype=torch.uint8)
        for row, draw in enumerate(draws):
            pixels, mask = read_pair(self.pairs, draw.sample)
            rng = generator(self.seed, "augment", draw.epoch, self.pairs.place(draw.sample).pair)
            window = random_window(mask, rng, min_scale=self.min_scale, max_aspect=self.max_aspect)
            # [height width 3] to [3 height width]; resized to the square as inference does with the region's box
            region = torch.from_numpy(pixels[window]).permute(2, 0, 1), torch.from_numpy(mask[window])
            crop, crop_mask = crops_of_regions([region], crop_px=side, preprocessing=preprocessing)
            crops[row], crop_masks[row] = without_normalisation(crop[0], preprocessing), crop_mask[0]
            if self.with_unmasked:
                crop, _ = crops_of_regions([region], crop_px=side, preprocessing=preprocessing, fill="unmasked")
                unmasked[row] = without_normalisation(crop[0], preprocessing)
        return PairBatch(
            **noun_columns(self.pairs, self.hard_nouns, draws),
            crops=crops,
            patch_masks=patch_mask(crop_masks, self.crop.patch_px),
            unmasked=unmasked,
        )


def read_pair(pairs: Pairs, number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Read a pair's crop [height width 3], not masked, and its mask [height width].

    Raises:
        StageError: If the pictures cannot be decoded, differ in size, or the mask is empty.
    """
    place = pairs.place(number)
    try:
        pixels, mask = pair_pictures(pairs.read(number))
    except UndecodableError as error:
        message = f"{place.unit}: a picture of pair {place.pair} {error}; run 'ovseg mine' again"
        raise StageError(message) from error
    if pixels.shape[:2] != mask.shape or not mask.any():
        found = f"crop of {pixels.shape[:2]} px and mask of {mask.shape} px with {mask.sum()} pixels inside"
        expected = "equal sizes and a filled mask are expected"
        message = f"{place.unit}: pair {place.pair} has a {found}; {expected}; run 'ovseg mine' again"
        raise StageError(message)
    return pixels, mask


def noun_columns(pairs: Pairs, hard_nouns: HardNouns | None, draws: Sequence[Draw]) -> dict[str, Tensor]:
    """Return ``numbers``, ``nouns`` and ``hard_nouns`` of a batch."""
    numbers = [draw.sample for draw in draws]
    nouns = pairs.noun_numbers[numbers]
    hard: list[list[int]] = [[] for _ in draws]
    if hard_nouns is not None:
        hard = [hard_nouns.of_pair(*pair) for pair in zip(numbers, nouns.tolist(), strict=True)]
    return {
        "numbers": torch.tensor(numbers),
        "nouns": torch.from_numpy(nouns),
        "hard_nouns": torch.tensor(hard, dtype=torch.int64),
    }


def random_window(
    mask: npt.NDArray[np.bool_], rng: np.random.Generator, *, min_scale: float, max_aspect: float
) -> tuple[slice, slice]:
    """Draw a window of a crop as torchvision's RandomResizedCrop does of one that was squeezed to a square.

    The share of the crop's area is uniform, the logarithm of the window's aspect, in units of the crop's own, too. So a
    long crop stays whole as often as a square one, though its own aspect is far beyond ``max_aspect``.

    Args:
        mask: True inside the region [height width].
        rng: Where chance comes from.
        min_scale: Smallest share of the area in the window, 0..1.
        max_aspect: Largest aspect in units of the crop's; the smallest is its inverse. At least 1.

    Returns:
        Lines and columns of a window that holds a pixel of the mask; the whole crop if ten tries find none that fits.

    References:
        OVSeg's published script: scale 0.9 to 1 and aspect 3/4 to 4/3 of pictures that were saved as squares.
    """
    height, width = mask.shape
    for _ in range(10):
        area, log_aspect = rng.uniform(min_scale, 1), rng.uniform(-1, 1) * math.log(max_aspect)
        wide, high = math.sqrt(area * math.exp(log_aspect)), math.sqrt(area / math.exp(log_aspect))
        if wide > 1 or high > 1:
            continue
        columns, lines = max(1, round(wide * width)), max(1, round(high * height))
        left, top = int(rng.integers(width - columns + 1)), int(rng.integers(height - lines + 1))
        window = slice(top, top + lines), slice(left, left + columns)
        if mask[window].any():
            return window
    return slice(0, height), slice(0, width)
