"""CLIP's embeddings of the regions of one picture: what the segmenter ships, and evaluation measures."""

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from ovseg_models.mask_adapted_clip import MaskAdaptedClip
from ovseg_models.masked_crops import Fill, masked_crops, patch_mask


@torch.no_grad()
def embed_regions(
    clip: MaskAdaptedClip,
    image: UInt8[Tensor, "3 height width"],
    masks: Bool[Tensor, "mask height width"],
    *,
    fill: Fill = "mean",
    use_mask_prompts: bool = True,
    crops_at_once: int,
) -> tuple[Float[Tensor, "valid dim"], Bool[Tensor, "mask"]]:
    """Embed the masked crop of each region; equal masks are cut and embedded once.

    Args:
        clip: In evaluation mode.
        image: RGB, on the masks' device.
        masks: There may be none.
        fill: What is shown outside the mask.
        use_mask_prompts: Whether CLIP sees its mask prompts in place of patches outside the mask.
        crops_at_once: Bounds the memory; changes no result but for rounding.

    Returns:
        L2-normalised embeddings of the masks that have a pixel, in order, and which masks these are.
    """
    first, of_mask = distinct_masks(masks)
    cut = masked_crops(image, masks if len(first) == len(masks) else masks[first], crop_px=clip.crop_px, fill=fill)
    patches = patch_mask(cut.crop_masks, clip.patch_px) if use_mask_prompts else None
    embeddings = torch.cat(
        [
            clip.encode_image(crops, None if patches is None else patches[start : start + crops_at_once]).float()
            for start, crops in zip(
                range(0, max(1, len(cut.crops)), crops_at_once), cut.crops.split(crops_at_once), strict=True
            )
        ]
    )
    row_of_distinct = torch.full_like(first, -1)
    row_of_distinct[cut.kept_rows] = torch.arange(len(cut.kept_rows), device=first.device)
    rows = row_of_distinct[of_mask]
    valid = rows >= 0
    return embeddings[rows[valid]], valid


@torch.no_grad()
def distinct_masks(
    masks: Bool[Tensor, "mask height width"],
) -> tuple[Int64[Tensor, "distinct"], Int64[Tensor, "mask"]]:
    """Find masks that are equal pixel by pixel; in rare cases not all of them, so that some work is done twice.

    Returns:
        The rows of masks that represent all, ascending, and which of these each mask is equal to.
    """
    mask_bytes, rows = masks.view(torch.uint8), torch.arange(len(masks), device=masks.device)
    if len(masks) < 2:
        return rows, rows
    # Pixels per line and per column tell nearly all masks apart. Masks that agree in them are compared pixel by pixel,
    # and one that differs from the first nevertheless keeps a crop of its own.
    pixels = torch.cat([mask_bytes.sum(dim=2, dtype=torch.int32), mask_bytes.sum(dim=1, dtype=torch.int32)], dim=1)
    like = pixels.unique(dim=0, return_inverse=True)[1]
    first_like = torch.full_like(rows, len(masks)).scatter_reduce_(0, like, rows, "amin")[like]
    candidates = (first_like != rows).nonzero()[:, 0]
    different = (mask_bytes[candidates] != mask_bytes[first_like[candidates]]).flatten(1).any(dim=1)
    first_like[candidates] = torch.where(different, candidates, first_like[candidates])
    distinct, of_mask = first_like.unique(return_inverse=True)
    return distinct, of_mask
