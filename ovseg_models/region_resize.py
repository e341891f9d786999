"""Resizing many image regions of different sizes to one square, as fast on a CPU as memory allows.

`resize_boxes` takes all boxes of a batch of pictures in the same few operations, which is what a GPU needs;
`resize_regions` takes regions that were cut out already.

Equal to ``torch.nn.functional.interpolate`` (bicubic or bilinear without antialiasing, nearest) on each region alone.
Resizing is separable and each output row is a weighted sum of four input rows, of which bilinear weights are zero for
two: that is what ``embedding_bag`` computes. Two of those are several times faster than ``interpolate``, and the second
one serves all the regions at once.

Letters in shapes: ``side`` is the side of the square [px], ``tap`` the four pixels that make one.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int32, Int64, Shaped
from torch import Tensor
from torch.nn import functional

from ovseg_models.host_to_device import sent, sent_together
from ovseg_models.preprocessing import Interpolation

CUBIC_COEFFICIENT = -0.75  # torch's and OpenCV's; Pillow's is -0.5
BLOCK_PX = 32
_TABLE_STEP_PX = 512


def resize_regions(
    regions: Sequence[Float[Tensor, "_height 3 _width"]], side: int, interpolation: Interpolation = "bicubic"
) -> Float[Tensor, "region 3 side side"]:
    """Resize each region to ``side`` x ``side``, whatever its aspect.

    Pixel centres are at half-integers (``align_corners=False``), pixels beyond an edge repeat the edge, there is no
    antialiasing and no clamping: bicubic values may overshoot by a fifth of a step.

    Args:
        regions: Pixels line by line, the channels of a line one after the other, so that a line is one run of memory;
            each at least 1 x 1 px. May be empty.
        side: Height and width of the result [px].
    """
    if not regions:
        return torch.empty(0, 3, side, side)
    device = regions[0].device
    heights, widths = [region.shape[0] for region in regions], [region.shape[2] for region in regions]
    taps, weights = _taps_up_to(max(heights + widths), side, interpolation, device)
    sizes = sent(torch.tensor([heights, widths]), device)
    (row_taps, column_taps), (row_weights, column_weights) = taps[sizes], weights[sizes]
    columns = torch.empty(sum(widths), 3, side, device=device)
    end = 0
    for index, region in enumerate(regions):
        start, end = end, end + widths[index]
        rows = functional.embedding_bag(
            row_taps[index], region.flatten(1), per_sample_weights=row_weights[index], mode="sum"
        )
        columns[start:end] = rows.unflatten(1, (3, -1)).permute(2, 1, 0)
        column_taps[index] += start
    resized: Tensor = functional.embedding_bag(
        column_taps.flatten(0, 1), columns.flatten(1), per_sample_weights=column_weights.flatten(0, 1), mode="sum"
    )
    return resized.view(len(regions), side, 3, side).permute(0, 2, 3, 1).contiguous()


def line_blocks(
    lines: Float[Tensor, "picture height 3 width"],
) -> Float[Tensor, "picture height block 3 column"]:
    """Cut images' lines into blocks of `BLOCK_PX` columns, the last one filled up with zeros, for `resize_boxes`."""
    padded = functional.pad(lines, (0, -lines.shape[3] % BLOCK_PX))
    blocks: Tensor = padded.unflatten(3, (-1, BLOCK_PX)).transpose(2, 3)
    return blocks.contiguous()


def box_chunks(
    boxes_xyxy: Int64[np.ndarray, "box 4"], side: int, limit_bytes: int, *, at_most: int | None = None
) -> list[slice]:
    """Cut boxes into runs that `resize_boxes` can take in a bounded memory; each has at least one box.

    Args:
        boxes_xyxy: Boxes [px], half-open.
        side: As of `resize_boxes`.
        limit_bytes: Of what it works in, beyond the images and masks.
        at_most: Boxes of a run; None for any number.
    """
    left, top, right, bottom = boxes_xyxy.T
    blocks = (right - 1) // BLOCK_PX - left // BLOCK_PX + 1
    # A line of a block in single precision; both tables, of which one is copied; the result, copied twice.
    needed = 12 * (BLOCK_PX * blocks * (bottom - top + 2 * side) + 2 * side * side)
    ends, chunks, start = np.cumsum(needed), [], 0
    while start < len(ends):
        fitting = int(np.searchsorted(ends, ends[start] - needed[start] + limit_bytes, side="right"))
        end = min(max(fitting, start + 1), start + (at_most or len(ends)))
        chunks.append(slice(start, end))
        start = end
    return chunks


def resize_boxes(
    image_blocks: Float[Tensor, "picture height block 3 column"],
    factors: Shaped[Tensor, "mask height width"] | None,
    pictures: Int64[np.ndarray, "box"],
    rows: Int64[np.ndarray, "box"],
    boxes_xyxy: Int64[np.ndarray, "box 4"],
    side: int,
    interpolation: Interpolation = "bicubic",
) -> Float[Tensor, "box 3 side side"]:
    """Multiply each box of its image by its mask and resize it as `resize_regions` does, all boxes at once.

    ``embedding_bag`` adds up rows of one length, and boxes have any width. So a box is cut into blocks of columns, of
    which each line is one row. Rows and boxes are given on the host, and sent in one copy that is not waited for.

    Args:
        image_blocks: The images, as `line_blocks` cuts them.
        factors: Of the pixels, 0..1; None for ones.
        pictures: In which image each box lies.
        rows: Which mask belongs to each box, ascending.
        boxes_xyxy: Boxes [px], half-open, at least 1 x 1 px; at least one.
        side: Height and width of the result [px].
    """
    device, (_, height, blocks_across, _, _) = image_blocks.device, image_blocks.shape
    left, top, right, bottom = boxes_xyxy.T
    first_block = left // BLOCK_PX
    blocks = (right - 1) // BLOCK_PX - first_block + 1
    before = np.cumsum(blocks) - blocks  # blocks of the boxes before
    box = np.repeat(np.arange(len(rows)), blocks)
    heights = (bottom - top)[box]
    starts = np.cumsum(heights) - heights  # of each block's rows in the table
    places = (top[box] - starts) * blocks_across + np.arange(len(box)) + (first_block - before)[box]
    of_one = height * blocks_across  # lines of blocks that an image has
    of_blocks = np.stack([heights, starts, places + pictures[box] * of_one, places + box * of_one])
    of_boxes = np.stack([right - left, left + (before - first_block) * BLOCK_PX])
    blocks_there, boxes_there, rows_there = sent_together([of_blocks, of_boxes, rows], device)
    block_heights, block_starts, image_places, mask_places = blocks_there
    widths, column_starts = boxes_there
    taps, weights = _taps_up_to(max(height, blocks_across * BLOCK_PX), side, interpolation, device)

    # The table has a row for each line of each block: its pixels times its mask's.
    block = torch.repeat_interleave(block_heights, output_size=int(heights.sum()))
    line_steps = torch.arange(len(block), device=device) * blocks_across
    table = image_blocks.view(-1, 3 * BLOCK_PX).index_select(0, image_places[block] + line_steps)
    if factors is not None:
        in_a_row = rows[-1] - rows[0] == len(rows) - 1
        own = factors[rows[0] : rows[-1] + 1] if in_a_row else factors[rows_there]
        padded = own.new_empty(*own.shape[:2], blocks_across * BLOCK_PX)  # no tap reads what lies beyond the width
        padded[..., : own.shape[2]] = own
        of_lines = padded.view(-1, BLOCK_PX).index_select(0, mask_places[block] + line_steps)
        table.unflatten(1, (3, -1)).mul_(of_lines[:, None])
    # Each block becomes ``side`` lines high: [block * side, 3 * column].
    row_taps = taps[block_heights].add_(block_starts[:, None, None])
    high = functional.embedding_bag(
        row_taps.flatten(0, 1), table, per_sample_weights=weights[block_heights].flatten(0, 1), mode="sum"
    )
    # The second table has a row for each column of each block, and the other axis goes the same way.
    columns = high.view(-1, side, 3, BLOCK_PX).permute(0, 3, 2, 1).reshape(-1, 3 * side)
    column_taps = taps[widths].add_(column_starts[:, None, None])
    resized = functional.embedding_bag(
        column_taps.flatten(0, 1), columns, per_sample_weights=weights[widths].flatten(0, 1), mode="sum"
    )
    # A transpose of two axes and then one of whole lines are faster than all of it at once.
    return resized.t().contiguous().view(3, side, len(rows), side).permute(2, 0, 1, 3)


def resize_boxes_nearest(
    masks: Bool[Tensor, "mask height width"],
    rows: Int64[np.ndarray, "box"],
    boxes_xyxy: Int64[np.ndarray, "box 4"],
    side: int,
) -> Bool[Tensor, "box side side"]:
    """Cut boxes out of their masks and resize them as `resize_nearest` does, all at once."""
    starts, sizes = boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]
    columns, lines = (_nearest_pixels(sizes, side) + starts[..., None]).transpose(1, 0, 2)
    lines += rows[:, None] * masks.shape[1]
    columns_of, lines_of = sent(torch.from_numpy(np.stack([columns, lines])), masks.device)
    cut = masks.view(torch.uint8).flatten(0, 1).index_select(0, lines_of.flatten()).view(-1, side, masks.shape[2])
    return cut.gather(2, columns_of[:, None].expand(-1, side, -1)).bool()


def resize_nearest(mask: Bool[Tensor, "height width"], side: int) -> Bool[Tensor, "side side"]:
    """Resize a mask to ``side`` x ``side``: output pixel i shows input pixel ``floor(i * size / side)``."""
    lines, columns = (_nearest_pixels_of(size, side, mask.device) for size in mask.shape)
    cut: Tensor = mask.view(torch.uint8).index_select(0, lines).index_select(1, columns)
    return cut.view(torch.bool)


@lru_cache(maxsize=4096)
def _nearest_pixels_of(size: int, side: int, device: torch.device) -> Int64[Tensor, "side"]:
    """Return `_nearest_pixels` of one size on a device."""
    return sent(torch.from_numpy(_nearest_pixels(np.array(size), side)), device)


def _nearest_pixels(sizes: Int64[np.ndarray, "*box"], side: int) -> Int64[np.ndarray, "*box side"]:
    """Find which pixel of a line each output pixel shows; torch's arithmetic is single precision."""
    scales = (sizes.astype(np.float32) / np.float32(side))[..., None]
    pixels = (np.arange(side, dtype=np.float32) * scales).astype(np.int64)
    return pixels.clip(max=sizes[..., None] - 1)


def _taps_up_to(
    longest: int, side: int, interpolation: Interpolation, device: torch.device
) -> tuple[Int32[Tensor, "size side tap"], Float[Tensor, "size side tap"]]:
    """Return the taps and weights for every length up to a longest one, by length; length 0 has those of 1."""
    return _taps_of_all_sizes(-(-longest // _TABLE_STEP_PX) * _TABLE_STEP_PX, side, interpolation, device)  # few tables


@lru_cache(maxsize=8)
def _taps_of_all_sizes(
    longest: int, side: int, interpolation: Interpolation, device: torch.device
) -> tuple[Int32[Tensor, "size side tap"], Float[Tensor, "size side tap"]]:
    taps, weights = _taps(torch.arange(longest + 1, device=device).clamp_(min=1), side, interpolation)
    return taps.int(), weights


def _taps(
    sizes: Int[Tensor, "region"], side: int, interpolation: Interpolation
) -> tuple[Int[Tensor, "region side tap"], Float[Tensor, "region side tap"]]:
    """Find which four pixels of a line make each output pixel, and their weights, which sum to one.

    Positions are rounded as torch's are, by a fused multiply-add in single precision: at 800 px their rounding shows in
    the result.
    """
    scales = (sizes.float() / side).double()[:, None]
    positions = (scales * (torch.arange(side, device=sizes.device) + 0.5) - 0.5).float()
    left = positions.floor()
    fractions = positions - left
    if interpolation == "bilinear":
        none = torch.zeros_like(fractions)
        weights = torch.stack([none, 1 - fractions, fractions, none], dim=-1)
    else:
        weights = torch.stack(
            [
                _outer_weight(fractions + 1),
                _inner_weight(fractions),
                _inner_weight(1 - fractions),
                _outer_weight(2 - fractions),
            ],
            dim=-1,
        )
    taps = left.long()[..., None] + torch.arange(-1, 3, device=sizes.device)
    return taps.clamp(min=0).minimum(sizes[:, None, None] - 1), weights


def _inner_weight(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate Keys' cubic kernel at a distance of at most one pixel."""
    return ((CUBIC_COEFFICIENT + 2) * distance - (CUBIC_COEFFICIENT + 3)) * distance**2 + 1


def _outer_weight(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate Keys' cubic kernel at a distance of one to two pixels."""
    return ((distance - 5) * distance + 8) * distance * CUBIC_COEFFICIENT - 4 * CUBIC_COEFFICIENT
