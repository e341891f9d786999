"""Masks of proposals: from the proposal net's logits to soft and hard masks at the net's input size."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

MASK_STRIDE_PX = 4
_WORK_BYTES = {"cpu": 48 * 2**20, "cuda": 2**30}  # of soft masks at a time: near a CPU's caches; few steps on a GPU


def upsampled_mask_probs(
    mask_logits: Float[Tensor, "query mask_height mask_width"], net_size: tuple[int, int]
) -> Float[Tensor, "query height width"]:
    """Upsample logits to the padded net input, cut off the padding, and apply the sigmoid (OVSeg's order).

    Args:
        mask_logits: At stride 4 of the padded net input.
        net_size: Height and width of the net input without its padding [px].
    """
    padded = tuple(MASK_STRIDE_PX * side for side in mask_logits.shape[1:])
    upsampled = functional.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)[0]
    return upsampled[:, : net_size[0], : net_size[1]].sigmoid()


def hard_masks(
    mask_logits: Float[Tensor, "query mask_height mask_width"], net_size: tuple[int, int], threshold: float | int
) -> Bool[Tensor, "query height width"]:
    """Compare the soft masks with the threshold, some queries at a time so that they never all exist at once."""
    masks = mask_logits.new_empty((len(mask_logits), *net_size), dtype=torch.bool)
    for rows in query_chunks(mask_logits, net_size):
        masks[rows] = upsampled_mask_probs(mask_logits[rows], net_size) > threshold
    return masks


def query_chunks(mask_logits: Float[Tensor, "query _h _w"], size: tuple[int, int]) -> list[slice]:
    """Share queries out into runs whose soft masks of a height and width [px] fit into the memory to work in."""
    work_bytes = _WORK_BYTES.get(mask_logits.device.type, _WORK_BYTES["cpu"])
    at_once = max(1, work_bytes // max(1, 4 * size[0] * size[1]))
    return [slice(start, start + at_once) for start in range(0, len(mask_logits), at_once)]
