"""What the two nets saw in one image, before any class is named."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

MASK_STRIDE_PX = 4
_QUERIES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """The part of segmenting an image that doesn't depend on the class names, which takes nearly all of the time.

    Sizes are height and width [px]. "Net size" is the size at which the proposal net and the crops see the image,
    without the net's padding.

    Attributes:
        image: RGB, upright, at its own size.
        net_size: See above.
        mask_logits: At stride 4 of the padded net input.
        proposal_embeddings: L2-normalised.
        valid: Whether a proposal's hard mask has a pixel at net size.
        mask_threshold: With which the hard masks were made.
        embed_crops: Cuts and embeds the valid proposals' crops; see `image_embeddings`.
    """

    image: Image.Image
    net_size: tuple[int, int]
    mask_logits: Float[Tensor, "query mask_height mask_width"]
    proposal_embeddings: Float[Tensor, "query dim"]
    valid: Bool[Tensor, "query"]
    mask_threshold: float | int
    embed_crops: Callable[[], Float[Tensor, "valid dim"]] = field(repr=False, compare=False)

    @cached_property
    def image_embeddings(self) -> Float[Tensor, "valid dim"]:
        """CLIP's embeddings of the valid proposals' crops, L2-normalised; made when they are first read."""
        return self.embed_crops()

    @property
    def size(self) -> tuple[int, int]:
        """The image's own height and width [px]."""
        return self.image.height, self.image.width

    def mask_probs(self) -> Float[Tensor, "query height width"]:
        """Return the soft masks at net size; 4 bytes per query and pixel."""
        return upsampled_mask_probs(self.mask_logits, self.net_size)

    def hard_masks(self) -> Bool[Tensor, "query height width"]:
        """Return the hard masks at net size; 1 byte per query and pixel."""
        return hard_masks(self.mask_logits, self.net_size, self.mask_threshold)

    def hard_masks_at_image_size(self) -> Iterator[Bool[Tensor, "some height width"]]:
        """Yield the hard masks at the image's own size, some queries at a time.

        The soft masks are resized bilinearly, then compared with the threshold.
        """
        at_once = max(1, min(_QUERIES_AT_ONCE, 2**24 // (self.size[0] * self.size[1])))
        for logits in self.mask_logits.split(at_once):
            probs = upsampled_mask_probs(logits, self.net_size)
            if self.size != self.net_size:
                probs = functional.interpolate(probs[None], size=self.size, mode="bilinear", align_corners=False)[0]
            yield probs > self.mask_threshold


def upsampled_mask_probs(
    mask_logits: Float[Tensor, "query mask_height mask_width"], net_size: tuple[int, int]
) -> Float[Tensor, "query height width"]:
    """Upsample logits to the padded net input, cut off the padding, and apply the sigmoid (OVSeg's order)."""
    padded = tuple(MASK_STRIDE_PX * side for side in mask_logits.shape[1:])
    upsampled = functional.interpolate(mask_logits[None], size=padded, mode="bilinear", align_corners=False)[0]
    return upsampled[:, : net_size[0], : net_size[1]].sigmoid()


def hard_masks(
    mask_logits: Float[Tensor, "query mask_height mask_width"], net_size: tuple[int, int], threshold: float | int
) -> Bool[Tensor, "query height width"]:
    """Compare the soft masks with the threshold, some queries at a time so that they never all exist at once."""
    masks = mask_logits.new_empty((len(mask_logits), *net_size), dtype=torch.bool)
    for start in range(0, len(mask_logits), _QUERIES_AT_ONCE):
        chunk = slice(start, start + _QUERIES_AT_ONCE)
        masks[chunk] = upsampled_mask_probs(mask_logits[chunk], net_size) > threshold
    return masks
