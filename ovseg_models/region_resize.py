"""Resizing many image regions of different sizes to one square, as fast on a CPU as memory allows.

Equal to ``torch.nn.functional.interpolate`` (bicubic without antialiasing, nearest) on each region alone. Bicubic
resizing is separable and each output row is a weighted sum of four input rows: that is what ``embedding_bag`` computes.
Two of those are several times faster than ``interpolate``, and the second one serves all the regions at once.

Letters in shapes: ``side`` is the side of the square [px], ``tap`` the four pixels that make one.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

CUBIC_COEFFICIENT = -0.75  # torch's and OpenCV's; Pillow's is -0.5


def resize_bicubic(
    regions: Sequence[Float[Tensor, "_height 3 _width"]],
    side: int,
    *,
    out: Float[Tensor, "region 3 side side"] | None = None,
) -> Float[Tensor, "region 3 side side"]:
    """Resize each region to ``side`` x ``side``, whatever its aspect.

    Pixel centres are at half-integers (``align_corners=False``), pixels beyond an edge repeat the edge, there is no
    antialiasing and no clamping: values may overshoot by a fifth of a step.

    Args:
        regions: Pixels line by line, the channels of a line one after the other, so that a line is one run of memory;
            each at least 1 x 1 px. May be empty.
        side: Height and width of the result [px].
        out: Where to write the result; None for new memory.
    """
    if out is None:
        out = torch.empty(len(regions), 3, side, side, device=regions[0].device if regions else None)
    if not regions:
        return out
    widths = [region.shape[2] for region in regions]
    row_taps, row_weights = _cubic_taps([region.shape[0] for region in regions], side, out.device)
    column_taps, column_weights = _cubic_taps(widths, side, out.device)
    columns = torch.empty(sum(widths), 3, side, device=out.device)
    end = 0
    for index, region in enumerate(regions):
        start, end = end, end + widths[index]
        rows = functional.embedding_bag(
            row_taps[index], region.flatten(1), per_sample_weights=row_weights[index], mode="sum"
        )
        columns[start:end] = rows.unflatten(1, (3, -1)).permute(2, 1, 0)
        column_taps[index] += start
    resized = functional.embedding_bag(
        column_taps.flatten(0, 1), columns.flatten(1), per_sample_weights=column_weights.flatten(0, 1), mode="sum"
    )
    return out.copy_(resized.view(len(regions), side, 3, side).permute(0, 2, 3, 1))


def resize_nearest(mask: Bool[Tensor, "height width"], side: int) -> Bool[Tensor, "side side"]:
    """Resize a mask to ``side`` x ``side``: output pixel i shows input pixel ``floor(i * size / side)``."""
    return functional.interpolate(mask.view(torch.uint8)[None, None], size=(side, side), mode="nearest")[0, 0].bool()


def _cubic_taps(
    lengths: list[int], side: int, device: torch.device
) -> tuple[Int[Tensor, "region side tap"], Float[Tensor, "region side tap"]]:
    """Find which four pixels of a line make each output pixel, and their weights, which sum to one.

    Positions are rounded as torch's are, by a fused multiply-add in single precision: at 800 px their rounding shows in
    the result.
    """
    sizes = torch.tensor(lengths, device=device)
    scales = (sizes.float() / side).double()[:, None]
    positions = (scales * (torch.arange(side, device=device) + 0.5) - 0.5).float()
    left = positions.floor()
    fractions = positions - left
    weights = torch.stack(
        [
            _outer_weight(fractions + 1),
            _inner_weight(fractions),
            _inner_weight(1 - fractions),
            _outer_weight(2 - fractions),
        ],
        dim=-1,
    )
    taps = left.long()[..., None] + torch.arange(-1, 3, device=device)
    return taps.clamp(min=0).minimum(sizes[:, None, None] - 1), weights


def _inner_weight(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate Keys' cubic kernel at a distance of at most one pixel."""
    return ((CUBIC_COEFFICIENT + 2) * distance - (CUBIC_COEFFICIENT + 3)) * distance**2 + 1


def _outer_weight(distance: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Evaluate Keys' cubic kernel at a distance of one to two pixels."""
    return ((distance - 5) * distance + 8) * distance * CUBIC_COEFFICIENT - 4 * CUBIC_COEFFICIENT
