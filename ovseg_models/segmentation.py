"""What segmenting an image with class names gives."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor

from ovseg_models.encoding import EncodedImage
from ovseg_models.masked_crops import mask_boxes
from ovseg_models.overlay import overlay_picture


@dataclass(frozen=True, kw_only=True)
class Branches:
    """What both branches say of an image's proposals, before it is fused.

    ``branches["valid"]`` is ``branches.valid`` and ``dict(branches)`` holds all of them, ready for safetensors.

    Attributes:
        proposal_logits: The proposal net's, 100 times a cosine; no object is the last column.
        mask_logits: At stride 4 of the padded net input.
        valid: Whether a proposal's hard mask has a pixel.
        crops: Of the valid proposals, as CLIP sees them where it names crops.
        patch_mask: Whether a crop's patch sees a pixel of the mask.
        clip_logits: CLIP's; see `MaskAdaptedClip.class_logits`.
    """

    proposal_logits: Float[Tensor, "query columns"]
    mask_logits: Float[Tensor, "query height width"]
    valid: Bool[Tensor, "query"]
    crops: Float[Tensor, "valid 3 side side"]
    patch_mask: Bool[Tensor, "valid patch"]
    clip_logits: Float[Tensor, "valid class"]

    def keys(self) -> Iterator[str]:
        """Name the tensors, in the order of the branches' work."""
        return (entry.name for entry in fields(self))

    def __getitem__(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name)
        return tensor


@dataclass(frozen=True)
class MaskRow:
    """One proposal and the class that it scores best for.

    Attributes:
        query: Index of the proposal.
        class_index: Of the class with the highest score.
        score: Of both branches together; see `ensemble_scores`.
        proposal_prob: The proposal net's probability of this class.
        clip_prob: CLIP's probability of this class; None if no pixel is above the threshold, so that there is no crop.
        area_px: Pixels above the mask threshold, at the image's own size.
        box_xyxy: Tight box around them [px], half-open; all zero if there are none.
    """

    query: int
    class_index: int
    class_name: str
    score: float
    proposal_prob: float
    clip_prob: float | None
    area_px: int
    box_xyxy: tuple[int, int, int, int]


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """The classes of an image's pixels and of its proposals.

    Attributes:
        class_names: By class index, as given; in query mode with "others" at the end if one name was given.
        label_map: Class index of each pixel of the image, on the CPU; in query mode -1 where nothing was found.
        encoded: The image and its proposals.
        query_scores: Of both branches together.
        proposal_probs: Of the proposal net.
        text_embeddings: Of the class names, in CLIP's space.
        scores: Fused scores of each class and pixel, on the CPU; None unless asked for.
        found_queries: In query mode the proposal that each class was given, -1 for none; else None.
    """

    class_names: tuple[str, ...]
    label_map: Int64[Tensor, "height width"]
    encoded: EncodedImage
    query_scores: Float[Tensor, "query class"]
    proposal_probs: Float[Tensor, "query class"]
    text_embeddings: Float[Tensor, "class dim"]
    scores: Float[Tensor, "class height width"] | None = None
    found_queries: Int64[Tensor, "class"] | None = None

    @cached_property
    def clip_probs(self) -> Float[Tensor, "valid class"]:
        """CLIP's probabilities for the valid proposals (``encoded.valid``) in order.

        At ensemble weight 0 the segmenter does without them, and CLIP runs when they are first read.
        """
        return self.encoded.class_logits(self.encoded.image_embeddings, self.text_embeddings).softmax(dim=-1)

    @cached_property
    def masks(self) -> tuple[MaskRow, ...]:
        """One row per proposal, in their order. Areas and boxes are measured when this is first asked for."""
        areas, boxes = [], []
        for masks in self.encoded.hard_masks_at_image_size():
            areas.append(masks.flatten(1).sum(dim=1))
            rows, found = mask_boxes(masks)
            of_all = found.new_zeros(len(masks), 4)  # an empty mask has no box
            of_all[rows] = found
            boxes.append(of_all)
        areas_px, boxes_xyxy = torch.cat(areas), torch.cat(boxes)
        clip_probs = torch.full_like(self.proposal_probs, torch.nan)
        clip_probs[self.encoded.valid] = self.clip_probs
        best = self.query_scores.max(dim=1)
        columns = best.indices[:, None]
        return tuple(
            MaskRow(query, index, self.class_names[index], score, proposal, clip if valid else None, area, tuple(box))
            for query, (index, score, proposal, clip, valid, area, box) in enumerate(
                zip(
                    best.indices.tolist(),
                    best.values.tolist(),
                    self.proposal_probs.gather(1, columns)[:, 0].tolist(),
                    clip_probs.gather(1, columns)[:, 0].tolist(),
                    self.encoded.valid.tolist(),
                    areas_px.tolist(),
                    boxes_xyxy.tolist(),
                    strict=True,
                )
            )
        )

    @property
    def found_masks(self) -> list[MaskRow]:
        """The proposals with a pixel, in their order; in query mode only those that a class was given."""
        given = None if self.found_queries is None else set(self.found_queries.tolist())
        return [row for row in self.masks if row.area_px and (given is None or row.query in given)]

    def mask_at(self, x: int, y: int) -> int:
        """Return the proposal that gives a pixel of the image the most of its label; -1 where nothing was found.

        Raises:
            ValueError: If the pixel lies outside the image.
        """
        height, width = self.encoded.size
        if not (0 <= x < width and 0 <= y < height):
            raise ValueError(f"mask_at: pixel {x}, {y} is outside the image of {width} x {height} px; give one inside")
        label = int(self.label_map[y, x])
        if label < 0:
            return -1
        net_height, net_width = self.encoded.net_size
        at_pixel = self.encoded.mask_probs()[:, y * net_height // height, x * net_width // width]
        given = self.query_scores[:, label] * at_pixel
        with_pixels = self.encoded.valid.to(given.device)
        return int(torch.where(with_pixels, given, -1.0).argmax())

    def hard_masks(self) -> Bool[Tensor, "query height width"]:
        """Return each proposal's hard mask at the image's own size, on the CPU; 1 byte per proposal and pixel."""
        return torch.cat([masks.cpu() for masks in self.encoded.hard_masks_at_image_size()])

    def overlay(self) -> Image.Image:
        """Return the image with its classes painted over it and a legend below; see `overlay_picture`."""
        return overlay_picture(self.encoded.image, self.label_map.numpy(), self.class_names)
