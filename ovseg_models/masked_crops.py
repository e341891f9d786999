"""Masked crops: how CLIP sees the proposals of an image, or the pairs mined from many.

A mask becomes a crop in `masked_crops_of_pictures`; segmenter, mining and evaluation call it by
`encoding.cut_regions`.

One rule serves both: the tight box of a mask is cut out, the pixels outside the mask take the fill colour, the crop is
normalised and then resized to a square, whatever its aspect (OVSeg, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64, UInt8
from torch import Tensor
from torch.nn import functional

from ovseg_models.host_to_device import sent, sent_together
from ovseg_models.preprocessing import OPENAI, Preprocessing
from ovseg_models.region_resize import (
    box_chunks,
    line_blocks,
    resize_boxes,
    resize_boxes_nearest,
    resize_nearest,
    resize_regions,
)

CPU_WORK_BYTES, GPU_WORK_BYTES = 2**25, 2**31  # in work at a time: a CPU's cache is small, a GPU wants few big steps

Fill: TypeAlias = Literal["mean", "zero", "unmasked"] | tuple[float, float, float]
"""The colour outside the mask: the mean of CLIP's training images, black, an RGB colour in 0..255, or the image itself
(no masking). The mean becomes 0: grey for OpenAI's CLIPs, black for those that were trained on pixels as they are."""


@dataclass(frozen=True)
class MaskedCrops:
    """Crops of the non-empty masks of one image, or of several, in the order of the masks.

    Attributes:
        crops: Normalised for CLIP; the fill "mean" is 0 there.
        crop_masks: The masks, cut and resized like the crops.
        kept_rows: Which mask each crop was made of.
        boxes_xyxy: Tight boxes of the kept masks [px], half-open.
    """

    crops: Float[Tensor, "kept 3 crop_px crop_px"]
    crop_masks: Bool[Tensor, "kept crop_px crop_px"]
    kept_rows: Int[Tensor, "kept"]
    boxes_xyxy: Int[Tensor, "kept 4"]


@torch.no_grad()
def masked_crops(
    image: UInt8[Tensor, "3 height width"],
    masks: Bool[Tensor, "mask height width"],
    *,
    crop_px: int,
    preprocessing: Preprocessing = OPENAI,
    fill: Fill = "mean",
    chunk: int | None = None,
    soft_masks: Float[Tensor, "mask height width"] | None = None,
) -> MaskedCrops:
    """Cut one CLIP-sized crop per non-empty mask.

    Args:
        image: RGB, 0..255, at the proposal net's input size; on the masks' device.
        masks: True inside the region; an all-False row is dropped, never an error. There may be none at all.
        crop_px: Side of the square crops [px].
        preprocessing: How pixels are normalised and crops resized.
        fill: What is shown outside the mask.
        chunk: Masks in work at a time, at most. The result doesn't depend on it. By default as many as fit into
            `CPU_WORK_BYTES` or `GPU_WORK_BYTES`.
        soft_masks: 0..1; if given, image and fill are mixed by these instead of by ``masks``, which go on deciding
            about rows, boxes and ``crop_masks`` (the reference's MASK_MATTING).

    Raises:
        ValueError: If image and masks differ in height or width, or an option is out of bounds.

    References:
        OVSeg, section 3.1. The resize is without antialiasing; the reference normalises before it, as here, so
        that the overshoot at the edges is the same.
    """
    pictures = np.zeros(len(masks), np.int64)
    return masked_crops_of_pictures(
        image[None],
        masks,
        pictures,
        crop_px=crop_px,
        preprocessing=preprocessing,
        fill=fill,
        chunk=chunk,
        soft_masks=soft_masks,
    )


@torch.no_grad()
def masked_crops_of_pictures(
    images: UInt8[Tensor, "picture 3 height width"],
    masks: Bool[Tensor, "mask height width"],
    pictures: Int64[np.ndarray, "mask"],
    *,
    crop_px: int,
    preprocessing: Preprocessing = OPENAI,
    fill: Fill = "mean",
    chunk: int | None = None,
    soft_masks: Float[Tensor, "mask height width"] | None = None,
    boxes_xyxy: Int[np.ndarray, "mask 4"] | None = None,
) -> MaskedCrops:
    """Do what `masked_crops` does for several images at once, in the same number of operations.

    Args:
        images: As there; each at the top left of its frame, as are its masks. What lies beyond is not read.
        masks: True inside the region.
        pictures: To which image each mask belongs.
        crop_px: As there, like ``preprocessing``, ``fill``, ``chunk`` and ``soft_masks``.
        boxes_xyxy: Tight boxes of the masks [px], half-open, all zero for an empty one, where they are known: a GPU
            is not waited for then. None to find them, which takes two waits.

    Raises:
        ValueError: As there.
    """
    _check_sizes(images, masks, soft_masks)
    _check_options(crop_px, 1 if chunk is None else chunk)
    device = images.device
    if boxes_xyxy is None:
        kept, kept_boxes = mask_boxes(masks)
        windows = torch.cat([kept[:, None], kept_boxes], dim=1).cpu().numpy()
        rows, boxes = windows[:, 0], windows[:, 1:]
    else:
        rows = np.flatnonzero(boxes_xyxy[:, 2] > boxes_xyxy[:, 0])
        boxes = boxes_xyxy[rows].astype(np.int64)
        kept, kept_boxes = sent_together([rows, boxes], device)
    base = _normalised_fill(fill, preprocessing, device)
    blocks = line_blocks(_lines_above_fill(images, base, preprocessing))
    factors = None if fill == "unmasked" else masks.view(torch.uint8) if soft_masks is None else soft_masks
    crops = torch.empty(len(rows), 3, crop_px, crop_px, device=device)
    limit_bytes = CPU_WORK_BYTES if device.type == "cpu" else GPU_WORK_BYTES
    for some in box_chunks(boxes, crop_px, limit_bytes, at_most=chunk):
        crops[some] = resize_boxes(
            blocks, factors, pictures[rows[some]], rows[some], boxes[some], crop_px, preprocessing.interpolation
        )
    crops.add_(base)
    crop_masks = resize_boxes_nearest(masks, rows, boxes, crop_px)
    return MaskedCrops(crops, crop_masks, kept, kept_boxes)


@torch.no_grad()
def crops_of_regions(
    regions: Sequence[tuple[UInt8[Tensor, "3 _height _width"], Bool[Tensor, "_height _width"]]],
    *,
    crop_px: int,
    preprocessing: Preprocessing = OPENAI,
    fill: Fill = "mean",
) -> tuple[Float[Tensor, "region 3 crop_px crop_px"], Bool[Tensor, "region crop_px crop_px"]]:
    """Make crops of regions that are cut out already, such as mined pairs, each of its own size.

    A region that was cut along its mask's box gives the crop that ``masked_crops`` would have made of the whole image.

    Args:
        regions: Pixels (RGB, 0..255) and mask of each, on the CPU; may be empty.
        crop_px: Side of the square crops [px].
        preprocessing: How pixels are normalised and crops resized.
        fill: What is shown outside the mask.

    Returns:
        Crops, normalised for CLIP, and their masks.

    Raises:
        ValueError: If a mask is empty or isn't of its region's size, or an option is out of bounds.
    """
    _check_options(crop_px, chunk=1)
    crop_masks = torch.empty(len(regions), crop_px, crop_px, dtype=torch.bool)
    base = _normalised_fill(fill, preprocessing, torch.device("cpu"))
    filled = []
    for index, (pixels, mask) in enumerate(regions):
        _check_sizes(pixels, mask[None], None, where=f"crops_of_regions: region {index}")
        if not mask.numpy().any():  # stops at the first one
            raise ValueError(
                f"crops_of_regions: region {index} ({mask.shape[1]} x {mask.shape[0]} px) has an empty mask, "
                "at least one pixel is expected; leave such a pair out"
            )
        lines = _lines_above_fill(pixels, base, preprocessing)
        filled.append(lines if fill == "unmasked" else lines.mul_(mask.float()[:, None]))  # zero, the fill, outside
        crop_masks[index] = resize_nearest(mask, crop_px)
    return resize_regions(filled, crop_px, preprocessing.interpolation).add_(base), crop_masks


def mask_boxes(masks: Bool[Tensor, "mask height width"]) -> tuple[Int[Tensor, "kept"], Int[Tensor, "kept 4"]]:
    """Find the non-empty masks and their tight boxes.

    Returns:
        The rows of the masks that have a pixel, ascending, and their ``boxes_xyxy`` [px], half-open.
    """
    bytes_of_masks = masks.view(torch.uint8)  # reducing bool is many times slower than reducing bytes
    filled_lines, filled_columns = bytes_of_masks.amax(dim=2), bytes_of_masks.amax(dim=1)
    kept_rows = filled_lines.amax(dim=1).nonzero().flatten()
    left, right = _first_and_end(filled_columns[kept_rows])
    top, bottom = _first_and_end(filled_lines[kept_rows])
    return kept_rows, torch.stack([left, top, right, bottom], dim=1)


def patch_mask(crop_masks: Bool[Tensor, "crop side side"], patch_px: int) -> Bool[Tensor, "crop patch"]:
    """Say which patches of a vision transformer see at least one pixel of the mask, line by line from the top left.

    The reference takes the ceiling of the average over a patch, which is the same. Pixels beyond the last whole patch
    are left out, as the patch embedding leaves them out.

    Raises:
        ValueError: If no patch fits into the crop.
    """
    side = crop_masks.shape[1]
    if not 1 <= patch_px <= side:
        raise ValueError(
            f"patch_mask: patch_px is {patch_px}, 1 to {side} (the crop's side) is expected; see the image tower"
        )
    pixels = crop_masks.view(torch.uint8).to(torch.float32)[:, None]
    return functional.max_pool2d(pixels, patch_px).flatten(1).bool()


def normalised(
    pixels: UInt8[Tensor, "*batch 3 height width"], preprocessing: Preprocessing = OPENAI
) -> Float[Tensor, "*batch 3 height width"]:
    """Normalise RGB pixels, 0..255, for CLIP, on their device."""
    mean, std = _mean_and_std(preprocessing, pixels.device)
    return pixels.float().sub_(mean[:, None, None]).div_(std[:, None, None])


def without_normalisation(
    crops: Float[Tensor, "*batch 3 height width"], preprocessing: Preprocessing = OPENAI
) -> UInt8[Tensor, "*batch 3 height width"]:
    """Return the pixels of normalised crops, rounded to 0..255; what a bicubic resize overshoots is cut off."""
    mean, std = _mean_and_std(preprocessing, crops.device)
    return crops.mul(std[:, None, None]).add_(mean[:, None, None]).round_().clamp_(0, 255).to(torch.uint8)


def _first_and_end(filled: UInt8[Tensor, "mask length"]) -> tuple[Int[Tensor, "mask"], Int[Tensor, "mask"]]:
    """Find the index of the first one in each row, and the index after the last one."""
    return filled.argmax(dim=1), filled.shape[1] - filled.flip(1).argmax(dim=1)


def _lines_above_fill(
    image: UInt8[Tensor, "*batch 3 height width"], base: Float[Tensor, "3 1 1"], preprocessing: Preprocessing
) -> Float[Tensor, "*batch height 3 width"]:
    """Normalise images for CLIP and subtract the fill, so that masking is a product and the fill is added last.

    That changes nothing, since resampling weights sum to one, and a product is several times faster than a choice per
    pixel. Lines come first, as ``resize_regions`` takes them.
    """
    mean, std = _mean_and_std(preprocessing, image.device)
    pixels = image.transpose(-3, -2).to(torch.float32, memory_format=torch.contiguous_format)
    return pixels.sub_(mean[:, None]).div_(std[:, None]).sub_(base[:, 0])


@lru_cache(maxsize=16)
def _mean_and_std(preprocessing: Preprocessing, device: torch.device) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Return mean and standard deviation of CLIP's training images, 0..255."""
    mean, std = 255 * sent(torch.tensor((preprocessing.mean_rgb, preprocessing.std_rgb)), device)
    return mean, std


@lru_cache(maxsize=16)
def _normalised_fill(fill: Fill, preprocessing: Preprocessing, device: torch.device) -> Float[Tensor, "3 1 1"]:
    """Return a fill's colour as CLIP sees it; zero for "unmasked", which has no colour."""
    colour = _fill_rgb(fill, preprocessing)
    if colour is None:
        return torch.zeros(3, 1, 1, device=device)
    mean, std = _mean_and_std(preprocessing, device)
    return ((sent(torch.tensor(colour), device) - mean) / std)[:, None, None]


def _fill_rgb(fill: Fill, preprocessing: Preprocessing) -> tuple[float, float, float] | None:
    """Return a fill's colour in 0..255, or None for one that is not a colour.

    Raises:
        ValueError: If the fill is unknown or its colour is out of range.
    """
    if fill == "mean":
        return tuple(255 * part for part in preprocessing.mean_rgb)  # type: ignore[return-value]
    if fill == "zero":
        return (0.0, 0.0, 0.0)
    if fill == "unmasked":
        return None
    if isinstance(fill, tuple) and len(fill) == 3 and all(0 <= part <= 255 for part in fill):
        return fill
    raise ValueError(
        f"masked_crops: fill is {fill!r}; 'mean', 'zero', 'unmasked' or three numbers of 0..255 (RGB) are expected; "
        "correct the setting"
    )


def _check_sizes(image: Tensor, masks: Tensor, soft_masks: Tensor | None, where: str = "masked_crops") -> None:
    """Raise ValueError unless the masks lie on the image pixel by pixel."""
    for name, found in (("masks", masks), ("soft_masks", soft_masks)):
        if found is not None and found.shape[-2:] != image.shape[-2:]:
            raise ValueError(
                f"{where}: {name} are {found.shape[2]} x {found.shape[1]} px, the image is "
                f"{image.shape[-1]} x {image.shape[-2]} px; resize the masks to the image first"
            )


def _check_options(crop_px: int, chunk: int) -> None:
    """Raise ValueError unless both options are positive."""
    for name, value in (("crop_px", crop_px), ("chunk", chunk)):
        if value < 1:
            raise ValueError(f"masked_crops: {name} is {value}, at least 1 is expected; correct the setting")
