"""The batches of stage 3 in one pass: whole pictures and the masks of pairs on them. No crop is needed.

Pairs know where their masks lie in their pictures, and scenes hold these. Pairs of a batch that have the same picture
share it, so that it runs once. The window of a picture is a function of seed, epoch and picture alone, so that pairs
may be spread over processes in any way.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ovseg_models.masked_crops import crops_of_regions, without_normalisation
from ovseg_models.one_pass import filled_shares, resized_picture
from pipeline.errors import StageError
from pipeline.finetune.samples import PairSamples, noun_columns, random_window, read_pair
from pipeline.stored_pictures import UndecodableError, upright_picture
from pipeline.training.data_order import Draw, generator
from pipeline.training.loader import rows
from storage_schemas.pair_collection import Pairs
from storage_schemas.rle import decode_masks
from storage_schemas.scene_collection import SceneCollection

Window = tuple[slice, slice]


class PictureBatch(NamedTuple):
    """Pairs, one row each, and their pictures, each once.

    Attributes:
        numbers: Of the pairs in their collection [pair], int64.
        nouns: Places of their nouns in the collection's list [pair], int64.
        filled: Share of each patch of the picture that the mask fills [pair patch].
        picture_of: Row of the pair's picture [pair], int64.
        place: Of the mask among those of its picture [pair], int64.
        unmasked: Crops that show what surrounds the mask, RGB, 0..255 [pair 3 side side], uint8; [pair 0] where nobody
            asks for them.
        hard_nouns: Places of hard negatives in the collection's list, ``NO_NOUN`` for none [pair negative], int64.
        pictures: RGB, 0..255, squares [picture 3 side side], uint8.
    """

    numbers: Tensor
    nouns: Tensor
    filled: Tensor
    picture_of: Tensor
    place: Tensor
    unmasked: Tensor
    hard_nouns: Tensor
    pictures: Tensor

    def part(self, first: int, end: int) -> "PictureBatch":
        """Return some pairs, with their pictures alone."""
        used, picture_of = self.picture_of[first:end].unique(return_inverse=True)
        return rows(self, first, end)._replace(picture_of=picture_of, pictures=self.pictures[used])

    def by_picture(self) -> Tensor:
        """Return what the masks of each picture fill [picture mask patch]; zeros where it has fewer than another."""
        most = int(self.place.max()) + 1
        filled = self.filled.new_zeros(len(self.pictures), most, self.filled.shape[1])
        filled[self.picture_of, self.place] = self.filled
        return filled


@dataclass(frozen=True)
class PictureSamples:
    """Makes batches of pictures and masks; picklable.

    Attributes:
        crops: Of the same pairs, with their augmentation; its unmasked crops are made where it says so.
        scenes: The pictures.
        side_px: Of the squares [px].
        grid: Lines and columns of a square's patches.
    """

    crops: PairSamples
    scenes: SceneCollection
    side_px: int
    grid: tuple[int, int]

    @property
    def pairs(self) -> Pairs:
        """The pairs that batches are made of."""
        return self.crops.pairs

    def batch(self, draws: Sequence[Draw]) -> PictureBatch:
        """Read pictures, cut a window out of each and of its masks, and resize it to the square.

        A mask that has no pixel in its picture's window sees the whole picture, as a picture of its own.

        Raises:
            StageError: If a picture cannot be decoded, or a mask is empty.
        """
        preprocessing = self.crops.crop.preprocessing
        places: dict[tuple[str, bool], int] = {}  # row of a picture, by its key and whether a window is cut out of it
        pictures: list[Tensor] = []
        decoded: dict[str, npt.NDArray[np.uint8]] = {}
        masks_of: list[int] = []
        filled = torch.empty(len(draws), self.grid[0] * self.grid[1])
        picture_of = torch.empty(len(draws), dtype=torch.int64)
        place = torch.empty(len(draws), dtype=torch.int64)
        for row, draw in enumerate(draws):
            region = self.pairs.region(draw.sample)
            (mask,) = decode_masks([region.mask_counts], region.height_px, region.width_px)
            if not mask.any():
                named = self.pairs.place(draw.sample)
                raise StageError(f"{named.unit}: pair {named.pair} has an empty mask; run 'ovseg mine' again")
            window = self._window(region.key, mask.shape, draw.epoch)
            is_cut = bool(mask[window].any())
            mask = mask[window] if is_cut else mask
            if (region.key, is_cut) not in places:
                if region.key not in decoded:
                    decoded[region.key] = self._picture(region.key, region.height_px, region.width_px)
                pixels = decoded[region.key][window] if is_cut else decoded[region.key]
                # [height width 3] to [3 height width]
                square = resized_picture(torch.from_numpy(pixels).permute(2, 0, 1), self.side_px, preprocessing)
                places[region.key, is_cut] = len(pictures)
                pictures.append(without_normalisation(square, preprocessing))
                masks_of.append(0)
            number = places[region.key, is_cut]
            filled[row] = filled_shares(torch.from_numpy(mask)[None], self.grid)[0]
            picture_of[row], place[row] = number, masks_of[number]
            masks_of[number] += 1
        return PictureBatch(
            **noun_columns(self.pairs, self.crops.hard_nouns, draws),
            filled=filled,
            picture_of=picture_of,
            place=place,
            unmasked=self._unmasked(draws),
            pictures=torch.stack(pictures),
        )

    def _window(self, key: str, size: tuple[int, ...], epoch: int) -> Window:
        """Draw the window of a picture, which is the same for all of its masks."""
        rng = generator(self.crops.seed, "augment", epoch, key)
        whole = np.ones(size, np.bool_)
        return random_window(whole, rng, min_scale=self.crops.min_scale, max_aspect=self.crops.max_aspect)

    def _picture(self, key: str, height_px: int, width_px: int) -> npt.NDArray[np.uint8]:
        """Decode a picture at the size at which masks lie on it [height width 3]; resized as mining saw it.

        Raises:
            StageError: If it cannot be decoded.
        """
        number = self.scenes.numbers[key]
        try:
            picture = upright_picture(self.scenes.read(number, labels=False))
        except UndecodableError as error:
            unit, _ = self.scenes.place(number)
            raise StageError(f"{unit}: scene {key} {error}; run 'ovseg prepare' again") from error
        if picture.size != (width_px, height_px):
            picture = picture.resize((width_px, height_px), Image.Resampling.BILINEAR)
        return np.array(picture)

    def _unmasked(self, draws: Sequence[Draw]) -> Tensor:
        """Cut whole crops of the pairs, not masked, if they are asked for."""
        side, preprocessing = self.crops.crop.side_px, self.crops.crop.preprocessing
        if not self.crops.with_unmasked:
            return torch.empty(len(draws), 0, dtype=torch.uint8)
        crops = []
        for draw in draws:
            pixels, mask = read_pair(self.pairs, draw.sample)
            region = torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(mask)
            crop, _ = crops_of_regions([region], crop_px=side, preprocessing=preprocessing, fill="unmasked")
            crops.append(without_normalisation(crop[0], preprocessing))
        return torch.stack(crops)
