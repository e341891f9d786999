"""Masks as COCO run lengths: pycocotools' compressed counts, column by column.

All functions take and give any number of masks at once, none included. Height and width are stored once per row beside
the counts, in px.

Counts are a text of the run lengths: of each but the first three the difference to the one before the last, in groups
of five bits, the lowest first, one character each. `compressed` and `run_lengths_of` translate the runs of all masks at
once and leave other threads their turn, as pycocotools does not.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from storage_schemas.errors import SchemaError

_BITS, _MORE, _ZERO = 5, 32, 48  # of a character: bits of the number, the mark that more follow, the character of 0
_CHARACTERS = 7  # of a number at most: 35 bits, where lengths have 32


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[bytes]:
    """Encode masks as compressed counts.

    Args:
        masks: True inside the region [mask height width].

    Raises:
        SchemaError: If ``masks`` is not a three-dimensional boolean array.
    """
    if masks.dtype != np.bool_ or masks.ndim != 3:
        raise SchemaError(
            f"masks: found {masks.dtype} of shape {masks.shape}, expected bool of shape [mask height width]"
        )
    if masks.shape[0] == 0:
        return []
    if 0 in masks.shape:
        raise SchemaError(f"masks: shape {masks.shape} has a side of 0 px; give each mask at least one pixel")
    columns_first = np.asfortranarray(masks.transpose(1, 2, 0).view(np.uint8))
    return [run_lengths["counts"] for run_lengths in coco_mask.encode(columns_first)]


def decode_masks(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.bool_]:
    """Decode compressed counts to masks [mask height width]."""
    if not counts:
        return np.zeros((0, height_px, width_px), dtype=np.bool_)
    decoded = coco_mask.decode(_objects(counts, height_px, width_px))
    return np.ascontiguousarray(decoded.transpose(2, 0, 1)).view(np.bool_)


def compressed(lengths: npt.NDArray[np.int64], runs: npt.NDArray[np.int64]) -> list[bytes]:
    """Compress run lengths to counts, with the same bytes as pycocotools.

    Args:
        lengths: Runs of all masks, mask after mask, outside and inside by turns [px].
        runs: Number of them of each mask, at least one [mask].

    Raises:
        SchemaError: If a length is no length, or numbers of runs don't fit the runs.
    """
    if (runs < 1).any() or runs.sum() != len(lengths) or ((lengths < 0) | (lengths >= 2**32)).any():
        raise SchemaError(
            f"run lengths: {len(lengths)} runs of {lengths.min(initial=0)} to {lengths.max(initial=0)} px for masks "
            f"of {runs.tolist()} runs; each mask has at least one run, of 0 to {2**32 - 1} px"
        )
    ends = np.cumsum(runs)
    numbers = lengths.copy()
    numbers[2:] -= lengths[:-2]
    first = np.minimum((ends - runs)[:, None] + np.arange(3), (ends - 1)[:, None])  # those that stay as they are
    numbers[first] = lengths[first]
    # The highest bit of a number's last character is its sign.
    magnitudes = np.where(numbers < 0, ~numbers, numbers)
    longest = next(length for length in range(1, _CHARACTERS + 1) if magnitudes.max(initial=0) < _span(length))
    characters = np.ones(len(numbers), np.int64)
    for length in range(1, longest):
        characters += magnitudes >= _span(length)
    after = np.cumsum(characters)
    text = np.empty(after[-1] if len(after) else 0, np.uint8)
    for place in range(longest):
        own = np.flatnonzero(characters > place)
        left = characters[own] - place
        bits = (numbers[own] >> _BITS * place) & (_MORE - 1)
        text[after[own] - left] = bits + np.where(left > 1, _MORE + _ZERO, _ZERO)
    written = text.tobytes()
    stops = after[ends - 1].tolist()
    return [written[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]


def run_lengths_of(
    counts: Sequence[bytes], height_px: int, width_px: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Decompress counts to run lengths.

    Returns:
        Runs of all masks, mask after mask [px], and the number of them of each mask.

    Raises:
        SchemaError: If counts are not those of masks of this size.
    """
    text = np.frombuffer(b"".join(counts), np.uint8).astype(np.int64) - _ZERO
    sizes = np.array([len(one) for one in counts], np.int64)
    last = (text & _MORE) == 0
    stops = np.flatnonzero(last) + 1
    starts = np.concatenate([stops[:0], [0], stops])[: len(stops)]
    runs = np.diff(np.searchsorted(stops, np.cumsum(sizes), side="right"), prepend=0)
    whole = (sizes > 0).all() and last[np.cumsum(sizes) - 1].all() and (stops - starts).max(initial=0) <= _CHARACTERS
    if not whole or ((text < 0) | (text >= 2 * _MORE)).any():
        raise SchemaError(_damaged("are cut off or hold characters that counts do not have"))
    # Characters of a number add up; the highest bit of the last one is its sign.
    place = np.arange(len(text)) - np.repeat(starts, stops - starts)
    numbers = np.add.reduceat((text & (_MORE - 1)) << _BITS * place, starts) if len(starts) else text
    final = text[stops - 1]
    numbers -= ((final >> (_BITS - 1)) & 1) << _BITS * (stops - starts)
    # Every second number was the difference to the one before it: sums that begin anew with the mask.
    first_runs = np.cumsum(runs) - runs
    in_mask = np.arange(len(numbers)) - np.repeat(first_runs, runs)
    lengths = np.empty_like(numbers)
    for odd in (0, 1):
        own = np.flatnonzero(in_mask % 2 == odd)
        sums = numbers[own].copy()
        sums[in_mask[own] == 0] = 0  # the third number is no difference to the first
        total = np.cumsum(sums)
        begins = in_mask[own] < 2
        before = (total - sums)[begins]
        lengths[own] = total - np.repeat(before, np.diff(np.flatnonzero(begins), append=len(own)))
    lengths[first_runs] = numbers[first_runs]
    pixels = np.add.reduceat(lengths, first_runs) if len(runs) else runs
    if (lengths < 0).any() or (pixels != height_px * width_px).any():
        raise SchemaError(_damaged(f"are of other masks than {width_px} x {height_px} px"))
    return lengths, runs


def areas_of_runs(lengths: npt.NDArray[np.int64], runs: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the number of pixels inside each mask [mask]; of run lengths as `compressed` takes them."""
    inside, masks = _inside(runs)
    return np.bincount(masks, lengths[inside], minlength=len(runs)).astype(np.int64)  # doubles are exact up to 2^53


def boxes_of_runs(lengths: npt.NDArray[np.int64], runs: npt.NDArray[np.int64], height_px: int) -> npt.NDArray[np.int32]:
    """Return tight boxes [mask 4] as left, top, right, bottom; px, half-open; all zero for an empty mask."""
    inside, masks = _inside(runs)
    ends = np.cumsum(lengths)
    before = np.concatenate([[0], ends])[np.cumsum(runs) - runs][masks]  # pixels of the masks before
    first, last = ends[inside] - lengths[inside] - before, ends[inside] - before - 1
    some = last >= first  # a run of 0 px has no pixel
    first, last, masks = first[some], last[some], masks[some]
    left, right = first // height_px, last // height_px
    # A run that goes on in the next column has that column's first pixel and its own column's last one.
    whole = left < right
    top = np.where(whole, 0, first % height_px)
    bottom = np.where(whole, height_px - 1, last % height_px)
    boxes = np.zeros((len(runs), 4), np.int32)
    starts = np.flatnonzero(np.diff(masks, prepend=-1))
    if len(starts):
        lowest = np.minimum.reduceat(np.stack([left, top]), starts, axis=1)
        highest = np.maximum.reduceat(np.stack([right, bottom]), starts, axis=1) + 1
        boxes[masks[starts]] = np.concatenate([lowest, highest]).T
    return boxes


def areas_px(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.int64]:
    """Return the number of pixels inside each mask [mask]."""
    return areas_of_runs(*run_lengths_of(counts, height_px, width_px))


def boxes_xyxy(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.int32]:
    """Return the boxes of masks as `boxes_of_runs` does."""
    return boxes_of_runs(*run_lengths_of(counts, height_px, width_px), height_px)


def iou_matrix(
    counts: Sequence[bytes], other_counts: Sequence[bytes], height_px: int, width_px: int
) -> npt.NDArray[np.float64]:
    """Return intersection over union of each mask with each other mask [mask other]; 0 where both are empty."""
    if not counts or not other_counts:
        return np.zeros((len(counts), len(other_counts)))
    first, second = _objects(counts, height_px, width_px), _objects(other_counts, height_px, width_px)
    return np.asarray(coco_mask.iou(first, second, [0] * len(other_counts)), dtype=np.float64)


def inside_matrix(counts: Sequence[bytes], height_px: int, width_px: int) -> npt.NDArray[np.float64]:
    """Return the share of each mask that lies inside each other mask [mask other]; 0 of an empty mask."""
    if not counts:
        return np.zeros((0, 0))
    masks = _objects(counts, height_px, width_px)
    # COCO's rule for crowds: what an object shares with a crowd, over the object's own area
    return np.asarray(coco_mask.iou(masks, masks, [1] * len(counts)), dtype=np.float64)


def united(counts: Sequence[bytes], height_px: int, width_px: int) -> bytes:
    """Return the mask of all pixels that lie in any of some masks."""
    union: bytes = coco_mask.merge(_objects(counts, height_px, width_px))["counts"]
    return union


def _objects(counts: Sequence[bytes], height_px: int, width_px: int) -> list[dict[str, object]]:
    """Give counts the form that pycocotools takes."""
    return [{"size": [height_px, width_px], "counts": one} for one in counts]


def _inside(runs: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which runs are inside a region, and of which mask."""
    of_mask = np.repeat(np.arange(len(runs)), runs)
    in_mask = np.arange(len(of_mask)) - np.repeat(np.cumsum(runs) - runs, runs)
    inside = np.flatnonzero(in_mask % 2)
    return inside, of_mask[inside]


def _span(characters: int) -> int:
    """Return the lowest number that is too high for so many characters, of which a bit is the sign's."""
    return 1 << (_BITS * characters - 1)


def _damaged(how: str) -> str:
    """Return the message about damaged counts."""
    return f"run lengths: the counts {how}; the file is damaged or none of this project's, make it again"
