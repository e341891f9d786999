"""Masks as run lengths and back, by tensor operations on the masks' device.

Runs go down the columns, from the left column to the right one, as in COCO: the first run of a mask is outside the
region, and is 0 px long if the first pixel is inside; then inside and outside take turns. All masks of a batch of
pictures, of different sizes too, go through the same few operations, and between a GPU and the host go nothing but run
lengths: a thousandth of the masks.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
from torch import Tensor

from ovseg_models.host_to_device import sent

_WORD_PX = 8  # pixels, a byte each, that a CPU takes as one number
_CPU_MASKS_AT_ONCE = 8  # what is in work stays in a CPU's cache; a GPU takes all of them at once


class RunLengths(NamedTuple):
    """Run lengths of masks, on the host.

    Attributes:
        lengths: Of all masks' runs, mask after mask [px].
        runs: How many of them are each mask's; at least one.
    """

    lengths: Int64[np.ndarray, "run"]
    runs: Int64[np.ndarray, "mask"]


@torch.no_grad()
def run_lengths(masks: Bool[Tensor, "mask height width"], sizes: Sequence[tuple[int, int]] | None = None) -> RunLengths:
    """Find the run lengths of masks; a GPU is waited for twice, whatever the number of masks.

    Args:
        masks: True inside the region. May be none.
        sizes: Height and width of each mask [px] where they differ: the mask lies at the top left of its frame, and
            what lies beyond it is not read. None if masks fill their frames.

    Raises:
        ValueError: If a side is 0 px, or a size doesn't fit into the frame.
    """
    count, height, width = masks.shape
    heights, widths = _sides(sizes, count, height, width)
    at_once = max(1, min(count, _CPU_MASKS_AT_ONCE) if masks.device.type == "cpu" else count)
    flips = _bytes(at_once, height, width, masks.device)
    chunks = [slice(start, start + at_once) for start in range(0, count, at_once)]
    parts = [_runs_of_chunk(masks[some], heights[some], widths[some], flips) for some in chunks]
    nothing = np.zeros(0, np.int64)
    lengths, runs = zip(*parts, strict=True) if parts else ((nothing,), (nothing,))
    return RunLengths(np.concatenate(lengths), np.concatenate(runs))


@torch.no_grad()
def masks_of_runs(
    found: RunLengths,
    frame: tuple[int, int],
    device: torch.device,
    sizes: Sequence[tuple[int, int]] | None = None,
) -> Bool[Tensor, "mask height width"]:
    """Make masks of their run lengths, on a device that is not waited for.

    Args:
        found: Of each mask; they add up to its pixels.
        frame: Height and width of the result [px].
        sizes: As of `run_lengths`; the rest of a frame is False.

    Raises:
        ValueError: If run lengths don't add up to a mask's pixels, or a size doesn't fit into the frame.
    """
    count, (height, width) = len(found.runs), frame
    heights, widths = _sides(sizes, count, height, width)
    ends = np.cumsum(found.runs)
    totals = np.diff(np.cumsum(found.lengths)[ends - 1], prepend=0)
    if (wrong := np.flatnonzero(totals != heights * widths)).size:
        mask = int(wrong[0])
        raise ValueError(
            f"masks_of_runs: the run lengths of mask {mask} add up to {totals[mask]} px, expected are "
            f"{widths[mask]} x {heights[mask]} px = {heights[mask] * widths[mask]}; give each mask its own size"
        )
    at_once = max(1, min(count, _CPU_MASKS_AT_ONCE) if device.type == "cpu" else count)
    masks = _bytes(count, height, width, device).view(torch.bool)
    flips = _bytes(at_once, height, width + -width % _WORD_PX, device)
    for start in range(0, count, at_once):
        some = slice(start, start + at_once)
        lengths = found.lengths[(ends - found.runs)[start] : ends[some][-1]]
        _fill(masks[some], RunLengths(lengths, found.runs[some]), heights[some], widths[some], flips)
    return masks


def _bytes(count: int, height: int, width: int, device: torch.device) -> UInt8[Tensor, "count height width"]:
    """Return bytes of any content; on a CPU numpy's, which asks the system for large pages and gets them faster."""
    if device.type == "cpu":
        return torch.from_numpy(np.empty((count, height, width), np.uint8))
    return torch.empty(count, height, width, dtype=torch.uint8, device=device)


def _sides(
    sizes: Sequence[tuple[int, int]] | None, count: int, height: int, width: int
) -> tuple[Int64[np.ndarray, "mask"], Int64[np.ndarray, "mask"]]:
    """Return the heights and widths of masks.

    Raises:
        ValueError: If there is not one size per mask, or one doesn't fit.
    """
    sides = np.array([(height, width)] * count if sizes is None else sizes, np.int64).reshape(-1, 2)
    if len(sides) != count or (sides < 1).any() or (sides > (height, width)).any():
        raise ValueError(
            f"run lengths: {count} masks in frames of {width} x {height} px have the sizes {sides.tolist()} (height, "
            "width); one size per mask, of 1 px at least and within its frame, is expected"
        )
    return sides[:, 0], sides[:, 1]


def _runs_of_chunk(
    masks: Bool[Tensor, "mask height width"],
    heights: Int64[np.ndarray, "mask"],
    widths: Int64[np.ndarray, "mask"],
    work: UInt8[Tensor, "more height width"],
) -> RunLengths:
    """Find the run lengths of masks, all at once; ``work`` is memory to work in."""
    device, (count, height, width) = masks.device, masks.shape
    pixels = masks.view(torch.uint8)
    first_pixels = np.cumsum(heights * widths) - heights * widths  # of each mask, among the pixels of all
    own = sent(torch.from_numpy(np.stack([heights, widths, first_pixels])), device)
    of_heights, of_widths, of_first_pixels = own

    # A pixel flips if it differs from the one before it in its column. Before a column's first pixel comes the last one
    # of the column to the left; before a mask's first pixel comes a pixel outside.
    flips = work[:count]
    torch.bitwise_xor(pixels[:, 1:], pixels[:, :-1], out=flips[:, 1:])
    last_line = pixels.gather(1, (of_heights - 1)[:, None, None].expand(-1, 1, width))[:, 0]
    flips[:, 0, 0] = pixels[:, 0, 0]
    torch.bitwise_xor(pixels[:, 0, 1:], last_line[:, :-1], out=flips[:, 0, 1:])
    if (heights < height).any() or (widths < width).any():
        flips.mul_(_inside(of_heights, of_widths, height, width))

    if device.type == "cpu":  # numpy passes over zeros many times faster than torch does
        places = torch.from_numpy(np.flatnonzero(flips.numpy().view(np.bool_)))
    else:
        places = flips.view(-1).nonzero()[:, 0]
    mask, place = places // (height * width), places % (height * width)
    line, column = place // width, place % width
    flipped = of_first_pixels[mask] + column * of_heights[mask] + line
    # Runs are what lies between flips. A mask's first pixel begins a run in any case, and ends that of the mask before.
    all_pixels = places.new_full((1,), int((heights * widths).sum()))
    bounds = torch.cat([of_first_pixels, flipped, all_pixels]).sort().values
    ends = torch.cat([torch.searchsorted(bounds, of_first_pixels), all_pixels.new_full((1,), len(bounds) - 1)])
    on_host = torch.cat([bounds.diff(), ends.diff()]).int().cpu().numpy().astype(np.int64)
    return RunLengths(on_host[: len(on_host) - count], on_host[len(on_host) - count :])


def _fill(
    masks: Bool[Tensor, "mask height width"],
    found: RunLengths,
    heights: Int64[np.ndarray, "mask"],
    widths: Int64[np.ndarray, "mask"],
    work: UInt8[Tensor, "more height whole_words"],
) -> None:
    """Write masks in place of what is there, all at once; ``work`` is memory to work in."""
    device, (count, height, width) = masks.device, masks.shape
    # One copy to the device; what is only arithmetic is done there.
    first_runs = np.cumsum(found.runs) - found.runs
    first_pixels = np.cumsum(heights * widths) - heights * widths
    numbers = np.concatenate([found.runs, heights, widths, first_pixels, first_runs, found.lengths])
    at_device = sent(torch.from_numpy(numbers), device)
    runs, of_heights, of_widths, of_first_pixels, _ = at_device[: 5 * count].view(5, count)
    mask = torch.repeat_interleave(runs, output_size=len(found.lengths))
    after = at_device[5 * count :].cumsum(0) - of_first_pixels[mask]  # the pixel of its mask that follows each run
    high = of_heights[mask]
    column, line = after // high, after % high

    # Where a column begins, the value is that of all flips so far. Below, each flip turns what is above it.
    flips = work[:count].zero_()
    places = (mask * height + line) * flips.shape[2] + column.clamp(
        max=width - 1
    )  # the last run ends after the last column
    flat = flips.view(-1).index_add_(0, places, flips.new_ones(1).expand(len(places)))
    flat[places] = flat[places] & 1  # runs of 0 px flip a pixel twice
    beginning = flips.new_zeros(count * (width + 1))
    begun = mask * (width + 1) + torch.where(line > 0, column + 1, column)
    beginning.index_add_(0, begun, beginning.new_ones(1).expand(len(begun)))
    flips[:, 0, :width] = beginning.view(count, -1)[:, :-1].cumsum(1, dtype=torch.uint8) & 1
    if device.type == "cpu":
        words = flips.numpy().view(np.uint64)
        np.bitwise_xor.accumulate(words, axis=1, out=words)
        pixels = flips[..., :width]
    else:
        pixels = flips[..., :width].cumsum(1, dtype=torch.uint8).bitwise_and_(1)
    if (heights < height).any() or (widths < width).any():
        pixels.mul_(_inside(of_heights, of_widths, height, width))
    masks.view(torch.uint8).copy_(pixels)


def _inside(
    heights: Int64[Tensor, "mask"], widths: Int64[Tensor, "mask"], height: int, width: int
) -> UInt8[Tensor, "mask height width"]:
    """Return 1 for the pixels of a frame that are a mask's own."""
    lines, columns = (torch.arange(side, device=heights.device) for side in (height, width))
    inside = (lines < heights[:, None])[:, :, None] & (columns < widths[:, None])[:, None]
    return inside.view(torch.uint8)
